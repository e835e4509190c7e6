"""How volumes look on stdout: JSON with EC2's field names, or text for people.

EC2 counts ``Size`` in GiB; a volume here may have any size, so ``SizeBytes`` is always there and ``Size`` is null where
it would not be whole. Fields of our own are CamelCase as well. Times are EC2's: 2024-01-02T03:04:05.000Z.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ebscrypt.cli import key_watch
from ebscrypt.control.runtime import Attached
from ebscrypt.model import GIB, Attachment, AttachmentState, Volume, format_size

if TYPE_CHECKING:
    from ebscrypt.control.reencrypting import Reencrypting


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """What KMS's answers hold besides JSON's own kinds."""
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, bytes):
        import base64  # noqa: PLC0415 - rarely needed

        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"no JSON for {type(value).__name__}")


def timestamp(time: datetime) -> str:
    """A time as EC2 prints it, with milliseconds."""
    utc = time.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def volume_record(
    volume: Volume, attached: Attached | None = None, reencrypting: Reencrypting | None = None
) -> dict[str, Any]:
    """A volume as DescribeVolumes would tell it, and what is ours."""
    return {
        "VolumeId": volume.volume_id,
        "State": volume.state.value,
        "StateMessage": volume.state_message,
        "AttachFailure": volume.attach_failure,
        "OnKeyUnusable": volume.on_key_unusable.value,
        "Size": volume.size // GIB if volume.size % GIB == 0 else None,
        "SizeBytes": volume.size,
        "Encrypted": volume.encrypted,
        "KmsKeyId": volume.kms_key_arn,
        "VolumeType": volume.volume_type,
        "SnapshotId": volume.snapshot_id,
        "CreateTime": timestamp(volume.create_time),
        "Tags": [{"Key": key, "Value": value} for key, value in sorted(volume.tags.items())],
        "Attachments": [] if attached is None else [attachment_record(volume.volume_id, attached)],
        "Reencryption": None if reencrypting is None else reencryption_record(reencrypting),
        "SectorSize": volume.sector_size if volume.encrypted else None,
        "Backing": volume.backing,
        "BackingKind": volume.backing_kind.value,
        "BackingOwned": volume.backing_owned,
    }


def reencryption_record(found: Reencrypting) -> dict[str, Any]:
    """How far a re-encryption is."""
    return {
        "VolumeId": found.volume_id,
        "TargetKmsKeyId": found.target_kms_key_id,
        "BytesDone": found.bytes_done,
        "BytesTotal": found.bytes_total,
        "Failure": found.failure,
    }


def attachment_record(volume_id: str, attached: Attached) -> dict[str, Any]:
    """An attachment as DescribeVolumes would tell it, and what is ours."""
    record: dict[str, Any] = {"VolumeId": volume_id, "State": attached.state.value}
    attachment = attached.attachment
    return record if attachment is None else record | _served(attachment) | key_watch.record(attached)


def attached_record(attachment: Attachment) -> dict[str, Any]:
    """An attachment that is served right now."""
    return attachment_record(attachment.volume_id, Attached(AttachmentState.ATTACHED, attachment))


def _served(attachment: Attachment) -> dict[str, Any]:
    return {
        "Device": attachment.device,
        "AttachTime": timestamp(attachment.attach_time),
        "Export": attachment.export.value,
        "ReadOnly": attachment.read_only,
        "Pid": attachment.pid,
        "Socket": attachment.socket,
        "LoopDevice": attachment.loop_device,
        "Mountpoint": attachment.mountpoint,
        "KeyMemory": attachment.key_memory,
        "Notes": attachment.notes,
    }


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need, two blanks between them, no blanks at a line's end."""
    widths = [max(len(line[column]) for line in [heads, *rows]) for column in range(len(heads))]
    for line in [heads, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, str | None]) -> None:
    """``name  value`` lines; what is None is left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value is not None:
            print(f"{name.ljust(width)}  {value}")


def volume_fields(
    volume: Volume, attached: Attached | None, reencrypting: Reencrypting | None = None
) -> dict[str, str | None]:
    """What `show` prints."""
    attachment = None if attached is None else attached.attachment
    fields = {
        "volume": volume.volume_id,
        "state": state_text(volume, attached),
        "why": volume.state_message,
        "not attached": volume.attach_failure,
        "size": f"{format_size(volume.size)} ({volume.size} bytes)",
        "encrypted": f"yes, sectors of {volume.sector_size} bytes" if volume.encrypted else "no",
        "KMS key": volume.kms_key_arn,
        "re-encryption": None if reencrypting is None else _reencryption_text(reencrypting),
        "backing": f"{volume.backing} ({volume.backing_kind})",
        "type": volume.volume_type,
        "made of": volume.snapshot_id,
        "created": timestamp(volume.create_time),
        "tags": ", ".join(f"{key}={value}" for key, value in sorted(volume.tags.items())) or None,
    }
    if attachment is not None:
        fields |= {
            "device": attachment.device + (" (read-only)" if attachment.read_only else ""),
            "export": attachment.export.value,
            "attached": f"{timestamp(attachment.attach_time)}, process {attachment.pid}",
            "key memory": attachment.key_memory,
            "notes": "; ".join(attachment.notes) or None,
        }
    return fields | key_watch.fields(volume, attached)


def _reencryption_text(found: Reencrypting) -> str:
    share = found.bytes_done * 100 // found.bytes_total
    stopped = f"; stopped: {found.failure}" if found.failure else ""
    return f"{share} % has a new data key, wrapped by {found.target_kms_key_id}{stopped}"


def state_text(volume: Volume, attached: Attached | None) -> str:
    """The state, with that of the attachment where it is not simply attached."""
    if attached is None or attached.state is AttachmentState.ATTACHED:
        return volume.state.value
    return f"{volume.state} ({attached.state})"

"""How snapshots look on stdout, and how far one is on stderr while someone waits for it.

JSON has the field names of EC2's DescribeSnapshots where there is one. EC2 counts ``VolumeSize`` in GiB; where that is
not whole it is null, and ``VolumeSizeBytes`` is always there.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from ebscrypt.cli.output import timestamp
from ebscrypt.cli.progress import told
from ebscrypt.model import GIB, Snapshot, SnapshotState, format_size, utc_now

HEADS: Final = ("SNAPSHOT", "STATE", "PROGRESS", "SIZE", "ENCRYPTED", "VOLUME", "STARTED", "NAME")


def add_snapshot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("snapshot_id", metavar="SNAP", help="a snapshot id, snap-…")


def snapshot_record(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as DescribeSnapshots would tell it, and what is ours."""
    return {
        "SnapshotId": snapshot.snapshot_id,
        "VolumeId": snapshot.volume_id,
        "State": snapshot.state.value,
        "StateMessage": snapshot.state_message,
        "Progress": progress_text(snapshot),
        "StartTime": timestamp(snapshot.start_time),
        "CompletionTime": None if snapshot.completion_time is None else timestamp(snapshot.completion_time),
        "VolumeSize": snapshot.volume_size // GIB if snapshot.volume_size % GIB == 0 else None,
        "VolumeSizeBytes": snapshot.volume_size,
        "Encrypted": snapshot.encrypted,
        "KmsKeyId": snapshot.kms_key_arn,
        "DataEncryptionKeyId": snapshot.data_encryption_key_id,
        "Description": snapshot.description,
        "Tags": [{"Key": key, "Value": value} for key, value in sorted(snapshot.tags.items())],
        "SectorSize": snapshot.sector_size if snapshot.encrypted else None,
        "BytesDone": snapshot.bytes_done,
        "BytesTotal": snapshot.bytes_total,
        "BytesPerSecond": None if (speed := rate(snapshot)) is None else int(speed),
        "SecondsLeft": None if speed is None else round((snapshot.bytes_total - snapshot.bytes_done) / speed),
        "Store": snapshot.store,
        "ParentSnapshotId": snapshot.parent,
        "SourceSnapshotId": snapshot.copied_from,
        "Digest": snapshot.digest,
        "Deleting": snapshot.deleting,
    }


def progress_text(snapshot: Snapshot) -> str:
    """EC2's ``Progress``: whole per cent, 100% for what is completed only."""
    if snapshot.state is SnapshotState.COMPLETED:
        return "100%"
    if snapshot.bytes_total == 0:
        return "0%"
    return f"{min(99, snapshot.bytes_done * 100 // snapshot.bytes_total)}%"


def rate(snapshot: Snapshot) -> float | None:
    """Bytes a second that were read on average since it began; None of one that is not pending, or too young."""
    if snapshot.state is not SnapshotState.PENDING or snapshot.bytes_done == 0:
        return None
    seconds = (utc_now() - snapshot.start_time).total_seconds()
    return snapshot.bytes_done / seconds if seconds >= 1 else None


def state_text(snapshot: Snapshot) -> str:
    return f"{snapshot.state} (deleting)" if snapshot.deleting else snapshot.state.value


def snapshot_row(snapshot: Snapshot) -> tuple[str, ...]:
    """A line of `ls`, under `HEADS`."""
    return (
        snapshot.snapshot_id,
        state_text(snapshot),
        progress_text(snapshot),
        format_size(snapshot.volume_size),
        "yes" if snapshot.encrypted else "no",
        snapshot.volume_id,
        timestamp(snapshot.start_time),
        snapshot.tags.get("Name", "-"),
    )


def snapshot_fields(snapshot: Snapshot) -> dict[str, str | None]:
    """What `show` prints."""
    pending = snapshot.state is SnapshotState.PENDING
    return {
        "snapshot": snapshot.snapshot_id,
        "state": state_text(snapshot),
        "why": snapshot.state_message,
        "progress": told(snapshot.bytes_done, snapshot.bytes_total, rate(snapshot)) if pending else None,
        "volume": snapshot.volume_id,
        "volume size": f"{format_size(snapshot.volume_size)} ({snapshot.volume_size} bytes)",
        "encrypted": f"yes, sectors of {snapshot.sector_size} bytes" if snapshot.encrypted else "no",
        "KMS key": snapshot.kms_key_arn,
        "data key": snapshot.data_encryption_key_id,
        "data": None if pending else f"{format_size(snapshot.bytes_total)} read",
        "store": snapshot.store,
        "parent": snapshot.parent,
        "copied from": snapshot.copied_from,
        "started": timestamp(snapshot.start_time),
        "completed": None if snapshot.completion_time is None else timestamp(snapshot.completion_time),
        "description": snapshot.description or None,
        "tags": ", ".join(f"{key}={value}" for key, value in sorted(snapshot.tags.items())) or None,
    }

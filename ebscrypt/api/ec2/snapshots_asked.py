"""What requests about snapshots have in common: ids, tags, options that are not here, and how one is shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api.errors import ApiError, invalid_value
from ebscrypt.control.direct import size_in_gib
from ebscrypt.control.tags import MOST_TAGS, RESERVED, check_tags
from ebscrypt.control.upload import NO_VOLUME
from ebscrypt.errors import SnapshotNotFound, VolumeNotFound
from ebscrypt.model import SnapshotState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebscrypt.api.call import Call
    from ebscrypt.control.site import Site
    from ebscrypt.model import Snapshot, Volume

_ID: Final = re.compile(r"(?:snap|vol)-(?:[0-9a-f]{17}|[0-9a-f]{8})")
"""EC2's ids, new and old (facts §6.1)."""
_NO_VOLUME_OF_EC2: Final = "vol-ffffffff"
"""What EC2 shows as the volume of a snapshot that was made of none."""


def snapshot_of(site: Site, snapshot_id: str) -> Snapshot:
    """The snapshot of that id, unless its deletion has begun. Raises `ApiError` with EC2's code and text."""
    if not snapshot_id.startswith("snap-") or not _ID.fullmatch(snapshot_id):
        raise ApiError("InvalidSnapshotID.Malformed", f'Invalid id: "{snapshot_id[:80]}" (expecting "snap-...")')
    try:
        snapshot = site.catalog.snapshots.get(snapshot_id)
    except SnapshotNotFound:
        raise no_snapshot(snapshot_id) from None
    if snapshot.deleting:
        raise no_snapshot(snapshot_id)
    return snapshot


def no_snapshot(snapshot_id: str) -> ApiError:
    return ApiError("InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist.")


def volume_of(call: Call, volume_id: str) -> Volume:
    """The volume of that id. Raises `ApiError` with EC2's code and text."""
    if not volume_id.startswith("vol-") or not _ID.fullmatch(volume_id):
        raise ApiError("InvalidVolumeID.Malformed", f'Invalid id: "{volume_id[:80]}" (expecting "vol-...")')
    try:
        return call.site.catalog.volume(volume_id)
    except VolumeNotFound:
        raise ApiError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.") from None


def tags_of(request: Mapping[str, Any], kind: str = "snapshot") -> dict[str, str]:
    """The tags for what is about to be made. Raises `ApiError` for those that EC2 refuses."""
    tags: dict[str, str] = {}
    for specification in request.get("TagSpecifications", ()):
        named = specification.get("ResourceType", "")
        if named != kind:
            raise invalid_value(f"'{named[:40]}' is not a valid taggable resource type for this operation.")
        for tag in specification.get("Tags", ()):
            key = tag.get("Key", "")
            if key in tags:
                raise invalid_value(f"Duplicate tag key '{key[:128]}' specified.")
            if key.lower().startswith(RESERVED):
                raise invalid_value("Tag keys starting with 'aws:' are reserved for internal use")
            tags[key] = tag.get("Value", "")
    if len(tags) > MOST_TAGS:
        raise ApiError("TagLimitExceeded", f"More than {MOST_TAGS} tags are not allowed on a resource.")
    return check_tags(tags)


def refuse_outposts(request: Mapping[str, Any], *names: str) -> None:
    """Raise `ApiError` for an option that this one zone has no place for: none is passed over in silence."""
    for name in names:
        if request.get(name) and (name, request[name]) != ("Location", "regional"):
            raise ApiError("UnsupportedOperation", f"{name} is not supported by this endpoint.")


def shown(call: Call, snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as EC2 shows it. Its size is in whole GiB, as in EBS direct."""
    record = {
        "SnapshotId": snapshot.snapshot_id,
        "VolumeId": _NO_VOLUME_OF_EC2 if snapshot.volume_id == NO_VOLUME else snapshot.volume_id,
        "State": snapshot.state.value,
        "StateMessage": snapshot.state_message,
        "StartTime": snapshot.start_time,
        "CompletionTime": snapshot.completion_time,
        "Progress": _progress(snapshot),
        "OwnerId": call.account,
        "Description": snapshot.description,
        "VolumeSize": size_in_gib(snapshot),
        "Encrypted": snapshot.encrypted,
        "KmsKeyId": snapshot.kms_key_arn,
        "DataEncryptionKeyId": snapshot.data_encryption_key_id,
        "StorageTier": "standard",
        "SseType": "sse-kms" if snapshot.encrypted else "none",
        "TransferType": None if snapshot.copied_from is None else "standard",
        "Tags": shown_tags(snapshot.tags),
    }
    return {name: value for name, value in record.items() if value is not None}


def shown_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _progress(snapshot: Snapshot) -> str:
    """Of blocks stored; 100% is for what is completed only."""
    if snapshot.state is SnapshotState.COMPLETED:
        return "100%"
    return f"{min(99, snapshot.bytes_done * 100 // snapshot.bytes_total) if snapshot.bytes_total else 0}%"

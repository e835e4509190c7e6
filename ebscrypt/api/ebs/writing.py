"""StartSnapshot, PutSnapshotBlock, CompleteSnapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebscrypt.api.ebs.reasons import access_of, invalid
from ebscrypt.control import put_snapshot_block as writing
from ebscrypt.control import start_snapshot as starting
from ebscrypt.control.direct import size_in_gib
from ebscrypt.stores.names import BLOCK_SIZE

if TYPE_CHECKING:
    from ebscrypt.api.call import Call


def start_snapshot(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """A new pending snapshot, or the one that was made with the same ClientToken."""
    asked = starting.StartRequest(
        volume_size=request["VolumeSize"],
        parent_snapshot_id=request.get("ParentSnapshotId"),
        encrypted=request.get("Encrypted"),
        kms_key_arn=request.get("KmsKeyArn"),
        description=request.get("Description", ""),
        tags=_tags(request.get("Tags", [])),
        timeout=request.get("Timeout", starting.DEFAULT_TIMEOUT),
    )
    snapshot = starting.start_snapshot(call.site, asked, client_token=request.get("ClientToken"))
    answer = {
        "SnapshotId": snapshot.snapshot_id,
        "OwnerId": call.account,
        "Status": snapshot.state.value,
        "StartTime": snapshot.start_time,
        "VolumeSize": size_in_gib(snapshot),
        "BlockSize": BLOCK_SIZE,
        "SseType": "sse-kms" if snapshot.encrypted else "none",
    }
    optional = {
        "Description": snapshot.description,
        "Tags": [{"Key": key, "Value": value} for key, value in snapshot.tags.items()],
        "ParentSnapshotId": snapshot.parent,
        "KmsKeyArn": snapshot.kms_key_arn,
    }
    return answer | {name: value for name, value in optional.items() if value}


def put_snapshot_block(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """One block; when it is answered it is there to stay."""
    if request["DataLength"] != BLOCK_SIZE:
        raise invalid(f"the data length is {request['DataLength']}, and {BLOCK_SIZE} is the only one that is supported")
    checksum = writing.put_snapshot_block(
        call.site,
        access_of(call),
        request["SnapshotId"],
        request["BlockIndex"],
        request["BlockData"],
        checksum=request["Checksum"],
    )
    return {"Checksum": checksum, "ChecksumAlgorithm": "SHA256"}


def complete_snapshot(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The end of a pending snapshot; with a Checksum, if it is that of what was put."""
    snapshot = writing.complete_snapshot(
        call.site,
        request["SnapshotId"],
        changed_blocks_count=request["ChangedBlocksCount"],
        checksum=request.get("Checksum"),
    )
    return {"Status": snapshot.state.value}


def _tags(listed: list[dict[str, str]]) -> dict[str, str]:
    tags = {tag.get("Key", ""): tag.get("Value", "") for tag in listed}
    if len(tags) != len(listed):
        raise invalid("two tags have the same key", "INVALID_TAG")
    return tags

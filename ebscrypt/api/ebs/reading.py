"""ListSnapshotBlocks, ListChangedBlocks, GetSnapshotBlock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ebscrypt.api.ebs.reasons import access_of, invalid
from ebscrypt.control import list_snapshot_blocks as reading
from ebscrypt.stores.names import BLOCK_SIZE

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.control.list_snapshot_blocks import BlockPage


def list_snapshot_blocks(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The blocks of a snapshot that hold data."""
    page = reading.list_snapshot_blocks(call.site, access_of(call), request["SnapshotId"], **_paging(request))
    blocks = [{"BlockIndex": block.block, "BlockToken": block.token} for block in page.blocks]
    return {"Blocks": blocks} | _about(page)


def list_changed_blocks(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The blocks in which two snapshots of one lineage differ. The model does not demand the first; EBS does."""
    if "FirstSnapshotId" not in request:
        raise invalid("FirstSnapshotId is missing: ListSnapshotBlocks lists all blocks of one snapshot")
    page = reading.list_changed_blocks(
        call.site,
        access_of(call),
        request["SecondSnapshotId"],
        first_snapshot_id=request["FirstSnapshotId"],
        **_paging(request),
    )
    blocks = [
        {"BlockIndex": block.block}
        | ({"FirstBlockToken": block.first_token} if block.first_token else {})
        | ({"SecondBlockToken": block.second_token} if block.second_token else {})
        for block in page.changed
    ]
    return {"ChangedBlocks": blocks} | _about(page)


def get_snapshot_block(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The data of one block."""
    block = reading.get_snapshot_block(
        call.site,
        access_of(call),
        request["SnapshotId"],
        request["BlockIndex"],
        block_token=request["BlockToken"],
    )
    return {
        "DataLength": BLOCK_SIZE,
        "BlockData": block.content,
        "Checksum": block.checksum,
        "ChecksumAlgorithm": "SHA256",
    }


def _paging(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "next_token": request.get("NextToken"),
        "max_results": request.get("MaxResults"),
        "starting_block_index": request.get("StartingBlockIndex"),
    }


def _about(page: BlockPage) -> dict[str, Any]:
    about = {
        "ExpiryTime": datetime.fromtimestamp(page.expiry, UTC),
        "VolumeSize": page.volume_size,
        "BlockSize": BLOCK_SIZE,
    }
    return about | ({"NextToken": page.next_token} if page.next_token else {})

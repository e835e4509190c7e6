"""The EBS direct APIs: blocks of snapshots, written and read (docs/direct-api.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ebscrypt.api.ebs.reading import get_snapshot_block, list_changed_blocks, list_snapshot_blocks
from ebscrypt.api.ebs.reasons import with_reason
from ebscrypt.api.ebs.writing import complete_snapshot, put_snapshot_block, start_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebscrypt.api.call import Operation

OPERATIONS: Final[Mapping[str, Operation]] = {
    "CompleteSnapshot": with_reason(complete_snapshot),
    "GetSnapshotBlock": with_reason(get_snapshot_block),
    "ListChangedBlocks": with_reason(list_changed_blocks),
    "ListSnapshotBlocks": with_reason(list_snapshot_blocks),
    "PutSnapshotBlock": with_reason(put_snapshot_block),
    "StartSnapshot": with_reason(start_snapshot),
}

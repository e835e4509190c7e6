"""`list_snapshot_blocks`, `list_changed_blocks`, `get_snapshot_block`: the blocks of completed snapshots, in plaintext.

A listing has the blocks that hold data; what it leaves out reads as zeros. Each answer looks at a range of the volume
and may have few blocks or none; its token says where the next one goes on. Names of blocks are compared, never their
content: within a lineage there is one data key, so equal plaintext at one place is equal stored bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from ebscrypt.control.block_tokens import Listing, new_listing
from ebscrypt.control.direct import block_count, readable, size_in_gib
from ebscrypt.control.relatives import are_related
from ebscrypt.errors import BlockMissing, InvalidBlockRequest
from ebscrypt.stores.names import BLOCK_SIZE

if TYPE_CHECKING:
    from ebscrypt.control.direct import DirectAccess
    from ebscrypt.control.site import Site
    from ebscrypt.model import Snapshot

MOST_RESULTS: Final = 10_000
FEWEST_RESULTS: Final = 100
RANGE: Final = 1 << 18
"""Blocks that one answer looks at: 128 GiB of the volume."""


class SnapshotBlock(NamedTuple):
    block: int
    token: str


class ChangedBlock(NamedTuple):
    """A token is None where the snapshot has a hole."""

    block: int
    first_token: str | None
    second_token: str | None


class BlockPage(NamedTuple):
    """One answer. ``expiry`` in seconds since 1970, ``volume_size`` in GiB; ``next_token`` None: that was all."""

    blocks: list[SnapshotBlock]
    changed: list[ChangedBlock]
    expiry: float
    volume_size: int
    next_token: str | None


class BlockData(NamedTuple):
    """A block of 524288 bytes, and the base64 of its SHA-256."""

    content: bytes
    checksum: str


def list_snapshot_blocks(
    site: Site,
    access: DirectAccess,
    snapshot_id: str,
    *,
    next_token: str | None = None,
    max_results: int | None = None,
    starting_block_index: int | None = None,
) -> BlockPage:
    """The blocks of a snapshot, also those that an incremental one has from its parents, in order.

    Raises `SnapshotNotFound`, `InvalidBlockRequest`, `StoreError`.
    """
    snapshot = readable(site, snapshot_id)
    most = _checked(max_results)
    begin = _begin(access, next_token, None, snapshot_id, starting_block_index)
    listing = new_listing()
    found = access.manifest(site, snapshot).blocks.between(begin, begin + RANGE)
    blocks = [
        SnapshotBlock(index, access.tokens.block(listing, snapshot_id, index, name))
        for index, name in islice(found, most)
    ]
    following = blocks[-1].block + 1 if len(blocks) == most else begin + RANGE
    going_on = _token(access, listing, None, snapshot, following)
    return BlockPage(blocks, [], listing.expiry / 1000, size_in_gib(snapshot), going_on)


def list_changed_blocks(
    site: Site,
    access: DirectAccess,
    second_snapshot_id: str,
    *,
    first_snapshot_id: str,
    next_token: str | None = None,
    max_results: int | None = None,
    starting_block_index: int | None = None,
) -> BlockPage:
    """The blocks in which two snapshots of one lineage differ, in order.

    Raises as `list_snapshot_blocks` does; `InvalidBlockRequest` UNRELATED_SNAPSHOTS for two of different lineages.
    """
    first, second = readable(site, first_snapshot_id), readable(site, second_snapshot_id)
    if not are_related(site, first, second):
        raise InvalidBlockRequest(
            f"{first_snapshot_id} and {second_snapshot_id} are not related", reason="UNRELATED_SNAPSHOTS"
        )
    most = _checked(max_results)
    begin = _begin(access, next_token, first_snapshot_id, second_snapshot_id, starting_block_index)
    listing = new_listing()
    changed = list(islice(_changes(site, access, listing, first=first, second=second, begin=begin), most))
    following = changed[-1].block + 1 if len(changed) == most else begin + RANGE
    larger = max(first, second, key=block_count)
    going_on = _token(access, listing, first_snapshot_id, second, following, end=block_count(larger))
    return BlockPage([], changed, listing.expiry / 1000, size_in_gib(second), going_on)


def get_snapshot_block(
    site: Site, access: DirectAccess, snapshot_id: str, index: int, *, block_token: str
) -> BlockData:
    """A block in plaintext. KMS is asked for its snapshot's data key, unless it was a moment ago.

    A block that ends with the volume is filled up with zeros. Raises `SnapshotNotFound`, `InvalidBlockRequest`,
    `KmsError`, `StoreError`.
    """
    snapshot = readable(site, snapshot_id)
    name = access.tokens.open_block(block_token, snapshot_id, index)
    try:
        content: bytes | bytearray = access.store(snapshot.store).get_block(name)
    except BlockMissing:
        readable(site, snapshot_id)  # deleted meanwhile: that is what there is to tell
        raise
    if snapshot.encrypted:
        with access.cipher(site, snapshot) as cipher:
            content = cipher.deciphered(index, content)
    whole = bytes(content).ljust(BLOCK_SIZE, b"\0")
    return BlockData(whole, base64.b64encode(hashlib.sha256(whole).digest()).decode("ascii"))


def _checked(max_results: int | None) -> int:
    if max_results is None:
        return MOST_RESULTS
    if not FEWEST_RESULTS <= max_results <= MOST_RESULTS:
        raise InvalidBlockRequest(f"MaxResults {max_results} is not {FEWEST_RESULTS} to {MOST_RESULTS}")
    return max_results


def _begin(access: DirectAccess, token: str | None, first: str | None, second: str, starting: int | None) -> int:
    """At which block the answer begins. A token rules out ``starting``, as EBS says."""
    if token is not None:
        return access.tokens.open_page(token, first, second)
    if starting is not None and starting < 0:
        raise InvalidBlockRequest(f"StartingBlockIndex {starting} is negative")
    return starting or 0


def _changes(
    site: Site, access: DirectAccess, listing: Listing, *, first: Snapshot, second: Snapshot, begin: int
) -> Iterator[ChangedBlock]:
    older = access.manifest(site, first).blocks.between(begin, begin + RANGE)
    newer = access.manifest(site, second).blocks.between(begin, begin + RANGE)
    for index, before, now in newer.changes_since(older):
        yield ChangedBlock(
            index,
            None if before is None else access.tokens.block(listing, first.snapshot_id, index, before),
            None if now is None else access.tokens.block(listing, second.snapshot_id, index, now),
        )


def _token(
    access: DirectAccess,
    listing: Listing,
    first: str | None,
    second: Snapshot,
    following: int,
    *,
    end: int | None = None,
) -> str | None:
    if following >= (block_count(second) if end is None else end):
        return None
    return access.tokens.page(listing, first, second.snapshot_id, following)

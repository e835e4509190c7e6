"""`BlockStoring`: the blocks of one pending snapshot, from their source into the store, and its manifest.

A block is named by its hash and put if the store does not have it; what was put before a crash is found there again.
Every GiB is made safe from sweeps (`secure`), so that the source need not keep it any longer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple

from ebscrypt.control import block_source, faultpoints
from ebscrypt.control.block_source import BlockSource, Job
from ebscrypt.control.site import Site
from ebscrypt.errors import StateError
from ebscrypt.model import Snapshot, utc_now
from ebscrypt.stores.block_list import BlockList, BlockListBuilder
from ebscrypt.stores.manifest import Header, encode, manifest_digest
from ebscrypt.stores.names import BLOCK_SIZE, BlockName
from ebscrypt.stores.publish import Pin, hold, publish, secure
from ebscrypt.stores.store import Store
from ebscrypt.stores.transfer import Progress, transfer
from ebscrypt.stores.witness import Witness, load_manifest_key

_BATCH: Final = 2048
"""Blocks between two calls of `secure`: 1 GiB."""
_NOTED: Final = 1.0
"""Seconds between two notes of the progress in the catalog: each is an fsync."""


class Published(NamedTuple):
    """A manifest that is in the store."""

    digest: bytes
    completion_time: datetime


class BlockStoring:
    """One snapshot under way."""

    def __init__(self, site: Site, snapshot: Snapshot, job: Job, store: Store) -> None:
        self._site, self._snapshot, self._job, self._store = site, snapshot, job, store
        self._pin = Pin(store, snapshot.snapshot_id)
        self._secured: set[BlockName] = set()
        self._done = self._total = 0
        self._noted = time.monotonic() - _NOTED

    def run(self) -> Published:
        """Store every block and the manifest."""
        with block_source.opened_source(self._site, self._snapshot, self._job) as source:
            source.check()
            indexes = list(source.indexes())
            self._done = _size_of(source, source.stored)
            self._total = self._done + _size_of(source, indexes)
            base = self._base(source)
            # Told at once: who deletes the base waits for the pin.
            self._note()
            blocks = self._blocks(source, indexes, base)
            source.check()
            now = utc_now()
            raw = self._manifest(blocks, now)
            publish(
                self._store,
                self._snapshot.snapshot_id,
                raw,
                names=blocks.names(),
                held=self._secured,
                pin=self._pin,
                put_again=lambda _: None,  # all are secured; if one is missing all the same, it is told
            )
            faultpoints.reach("snapshot.published")
            source.commit(self._snapshot.snapshot_id)
            return Published(manifest_digest(raw), now)

    def _base(self, source: BlockSource) -> BlockList | None:
        """The blocks of the snapshot that this one builds on, kept from being swept until this one is done."""
        if source.base is None:
            return None
        base = self._site.catalog.snapshots.get(source.base)
        if base.digest is None:
            raise StateError(f"snapshot {source.base}, on which {self._snapshot.snapshot_id} builds, is {base.state}")
        witness = Witness(digest=bytes.fromhex(base.digest))
        # The pin is released with all others of this snapshot, at the end.
        _, manifest = hold(self._store, self._snapshot.snapshot_id, source.base, witness)
        self._secured |= manifest.blocks.names()
        return manifest.blocks

    def _blocks(self, source: BlockSource, indexes: list[int], base: BlockList | None) -> BlockList:
        """The names of all blocks, once they are in the store to stay."""
        changes = dict(source.stored)
        if changes:
            self._secure(source, changes)
        made = BlockListBuilder()
        rest = iter(indexes)
        while batch := list(islice(rest, _BATCH)):
            named = self._stored(source, batch)
            faultpoints.reach("snapshot.secured")
            if base is not None or changes:
                changes |= named
                continue
            for index in batch:
                if (name := named[index]) is not None:
                    made.add(index, name)
        self._note()
        blocks = made.build() if base is None else base
        return blocks.with_changes(changes) if changes else blocks

    def _stored(self, source: BlockSource, batch: list[int]) -> dict[int, BlockName | None]:
        """Put the blocks of a batch, to stay. Their names; None for one of zeros."""
        named: dict[int, BlockName | None] = {}

        def store(group: list[int]) -> int:
            size = 0
            with source.reading(group) as blocks:
                for index, name, content in blocks:
                    if name is not None and name not in self._secured:
                        self._store.put_block(name, content)
                    named[index] = name
                    size += len(content)
            return size

        before = self._done
        groups = [batch[at : at + source.group] for at in range(0, len(batch), source.group)]
        moved = transfer(
            groups, store, workers=self._site.settings.stores.workers, progress=lambda now: self._show(before, now)
        )
        self._done = before + moved.size
        self._secure(source, named)
        source.done({index: named[index] for index in batch})
        return named

    def _secure(self, source: BlockSource, named: Mapping[int, BlockName | None]) -> None:
        """Return once the blocks stay in the store. What a sweep has taken meanwhile is put again, from the source."""
        wanted = {name for name in named.values() if name is not None} - self._secured

        def put_again(absent: set[BlockName]) -> None:
            for index, name in named.items():
                if name in absent:
                    with source.reading([index]) as [block]:
                        self._store.put_block(name, block.content)

        secure(self._store, wanted, pin=self._pin, put_again=put_again)
        self._secured |= wanted

    def _show(self, before: int, now: Progress) -> None:
        self._done = before + now.size
        if time.monotonic() - self._noted >= _NOTED:
            self._note()

    def _note(self) -> None:
        """Raises `StateError` or `SnapshotNotFound` when the snapshot is being deleted: that ends the work."""
        self._noted = time.monotonic()
        self._site.catalog.snapshots.progress(self._snapshot.snapshot_id, self._done, self._total)

    def _manifest(self, blocks: BlockList, now: datetime) -> bytes:
        snapshot = self._snapshot
        header = Header(
            snapshot_id=snapshot.snapshot_id,
            volume_id=snapshot.volume_id,
            volume_size=snapshot.volume_size,
            sector_size=snapshot.sector_size,
            region=self._job.region,
            description=snapshot.description,
            start_time=snapshot.start_time,
            completion_time=now,
            parent=snapshot.parent,
            encryption=self._job.encryption,
        )
        return encode(header, blocks, load_manifest_key(self._site.settings.manifest_key_path))


def _size_of(source: BlockSource, indexes: Iterable[int]) -> int:
    """Bytes of these blocks."""
    return sum(min(BLOCK_SIZE, source.size - index * BLOCK_SIZE) for index in indexes)

"""`verify_snapshot`: read every block of a snapshot and its manifest, name what is damaged, put it back if possible.

The blocks of a snapshot are checked by their names, and the names by the manifest, for which the catalog vouches. So
what is sound here is what was stored, to the bit. A block that several snapshots have is read once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ebscrypt.control.site import Site
from ebscrypt.control.snapshot_source import witness_of
from ebscrypt.errors import BlockDamaged, BlockMissing, SnapshotNotFound, StateError, StoreError
from ebscrypt.model import Snapshot, SnapshotState, check_snapshot_id
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import Manifest, decode, largest_manifest
from ebscrypt.stores.names import BLOCK_SIZE, BlockName
from ebscrypt.stores.publish import Pin, hold, secure
from ebscrypt.stores.store import Store
from ebscrypt.stores.transfer import Progress, transfer


class Damage(NamedTuple):
    """What is wrong with a snapshot. ``block`` is the index of a damaged block, None for the manifest.

    ``repaired`` says that it was put back since.
    """

    snapshot_id: str
    block: int | None
    message: str
    repaired: bool = False


class Verified(NamedTuple):
    """What a check has read, and what it found. ``foreign``: manifests in the stores that the catalog does not have."""

    snapshots: int
    blocks: int
    size: int
    damage: list[Damage]
    stores: list[str]
    foreign: list[str]


def verify_snapshot(
    site: Site,
    snapshot_ids: Iterable[str] = (),
    *,
    repair_from: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Verified:
    """Check these snapshots, or all that are completed. ``repair_from`` is the store that damage is repaired from.

    Damage is no error but the result. Raises `SnapshotNotFound`, `StateError` for one that is not completed, and
    `StoreError` when a store cannot be read at all.
    """
    named = [site.catalog.snapshots.get(check_snapshot_id(snapshot_id)) for snapshot_id in snapshot_ids]
    for snapshot in named:
        if snapshot.state is not SnapshotState.COMPLETED or snapshot.deleting:
            raise StateError(f"snapshot {snapshot.snapshot_id} is {snapshot.state}: there is nothing to verify")
    wanted = named or [
        snapshot for snapshot in site.catalog.snapshots.list(SnapshotState.COMPLETED) if not snapshot.deleting
    ]
    stores = dict.fromkeys(snapshot.store for snapshot in wanted)
    done = [
        _verify(
            site,
            name,
            [one for one in wanted if one.store == name],
            repair_from=repair_from,
            progress=progress,
            cancel=cancel,
        )
        for name in stores
    ]
    foreign = [] if named else _foreign(site, stores)
    return Verified(
        len(wanted),
        sum(one.blocks for one in done),
        sum(one.size for one in done),
        [damage for one in done for damage in one.damage],
        list(stores),
        foreign,
    )


def _verify(
    site: Site,
    name: str,
    snapshots: list[Snapshot],
    *,
    repair_from: str | None,
    progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
) -> Verified:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(open_store(site.settings, name, create=False)))
        other = None
        if repair_from is not None:
            other = stack.enter_context(contextlib.closing(open_store(site.settings, repair_from, create=False)))
        return _Verifying(site, store, other).run(snapshots, progress, cancel)


class _Verifying:
    """The snapshots of one store."""

    def __init__(self, site: Site, store: Store, other: Store | None) -> None:
        self._site, self._store, self._other = site, store, other
        self._bad: dict[BlockName, tuple[str, bool]] = {}

    def run(
        self,
        snapshots: list[Snapshot],
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> Verified:
        damage: list[Damage] = []
        manifests: dict[str, Manifest] = {}
        pins: list[Pin] = []
        try:
            for snapshot in snapshots:
                try:
                    pin, manifests[snapshot.snapshot_id] = self._held(snapshot, damage)
                    pins.append(pin)
                except StoreError as error:
                    damage.append(Damage(snapshot.snapshot_id, None, error.message))
                except SnapshotNotFound as error:
                    if self._is_kept(snapshot):
                        damage.append(Damage(snapshot.snapshot_id, None, error.message))
            names = set().union(*(manifest.blocks.names() for manifest in manifests.values()))
            moved = transfer(
                names,
                self._check,
                workers=self._site.settings.stores.workers,
                total=len(names),
                progress=progress,
                cancel=cancel,
            )
        finally:
            for pin in pins:
                pin.release()
        for snapshot_id, manifest in manifests.items() if self._bad else ():
            for index, name in manifest.blocks:
                if name in self._bad:
                    damage.append(Damage(snapshot_id, index, *self._bad[name]))
        return Verified(len(snapshots), moved.items, moved.size, damage, [], [])

    def _is_kept(self, snapshot: Snapshot) -> bool:
        """Whether it is still to be there: not when it is being deleted beside us."""
        try:
            return not self._site.catalog.snapshots.get(snapshot.snapshot_id).deleting
        except SnapshotNotFound:
            return False

    def _held(self, snapshot: Snapshot, damage: list[Damage]) -> tuple[Pin, Manifest]:
        """The manifest, put back from the other store first where it is damaged or gone; its blocks are kept."""
        snapshot_id, witness = snapshot.snapshot_id, witness_of(self._site, snapshot)
        limit = largest_manifest(-(-snapshot.volume_size // BLOCK_SIZE))
        try:
            return hold(self._store, snapshot_id, snapshot_id, witness, largest=limit)
        except (StoreError, SnapshotNotFound) as error:
            if self._other is None or not self._is_kept(snapshot):
                raise
            raw = self._other.get_manifest(snapshot_id, limit)
            manifest = decode(raw, snapshot_id, witness)
            pin = Pin(self._store, snapshot_id)
            # A sweep may have taken the blocks since the manifest was gone.
            secure(self._store, manifest.blocks.names(), pin=pin, put_again=self._put_from_other)
            self._store.delete_manifest(snapshot_id)
            self._store.put_manifest(snapshot_id, raw)
            damage.append(Damage(snapshot_id, None, error.message, repaired=True))
            return pin, manifest

    def _put_from_other(self, names: set[BlockName]) -> None:
        assert self._other is not None  # noqa: S101 - only called with one
        for name in names:
            self._store.put_block(name, self._other.get_block(name), replace=True)

    def _check(self, name: BlockName) -> int:
        try:
            return len(self._store.get_block(name))
        except (BlockMissing, BlockDamaged) as error:
            self._bad[name] = self._repaired(name, error)
            return 0

    def _repaired(self, name: BlockName, error: StoreError) -> tuple[str, bool]:
        """What is wrong with a block, and whether it is right again."""
        if self._other is None:
            return error.message, False
        try:
            self._store.put_block(name, self._other.get_block(name), replace=True)
        except (BlockMissing, BlockDamaged) as second:
            return f"{error.message}; and {second.message}", False
        return error.message, True


def _foreign(site: Site, names: Iterable[str]) -> list[str]:
    """Snapshots that these stores have and the catalog does not: of another installation, or of a lost catalog."""
    known = {snapshot.snapshot_id for snapshot in site.catalog.snapshots.list()}
    found = set()
    for name in names:
        with contextlib.closing(open_store(site.settings, name, create=False)) as store:
            found |= set(store.list_manifests()) - known
    return sorted(found)

"""The snapshot that something is made from: found, read under a pin, and let go.

A volume and a copy begin alike. The snapshot must be there and whole. Its manifest is the one that the catalog knows;
and its blocks are pinned for the new volume or copy, so that they can be read to the end even if the snapshot is
deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final, NamedTuple, TypeAlias

from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError, ManifestDamaged, SnapshotNotFound, StateError, StoreError
from ebscrypt.model import Snapshot, SnapshotState, check_snapshot_id
from ebscrypt.stores.addresses import LOCAL, open_store
from ebscrypt.stores.manifest import Manifest, largest_manifest
from ebscrypt.stores.names import BLOCK_SIZE
from ebscrypt.stores.publish import Pin, hold, release_pins
from ebscrypt.stores.store import Store
from ebscrypt.stores.witness import Witness, load_manifest_key

Told: TypeAlias = Callable[[int, int], None]
"""Hears, some five times a second and in the caller's thread, how many bytes are done, and of how many."""
_OTHER: Final = "name another: `ebscrypt snapshot ls`"
_WAIT: Final = "wait for it: `ebscrypt snapshot show {}`"


class Source(NamedTuple):
    """A snapshot whose blocks stay for now, and the store that they lie in."""

    store: Store
    manifest: Manifest


def find_source(site: Site, snapshot_id: str) -> Snapshot:
    """The snapshot of this id, if something can be made from it.

    Raises `InvalidParameter` for what is no id, `SnapshotNotFound`, and `StateError` for one that is not completed or
    is being deleted.
    """
    snapshot = site.catalog.snapshots.get(check_snapshot_id(snapshot_id))
    if snapshot.deleting:
        raise StateError(f"snapshot {snapshot_id} is being deleted", hint=_OTHER)
    if snapshot.state is SnapshotState.PENDING:
        raise StateError(f"snapshot {snapshot_id} is pending", hint=_WAIT.format(snapshot_id))
    if snapshot.state is not SnapshotState.COMPLETED:
        told = f": {snapshot.state_message}" if snapshot.state_message else ""
        raise StateError(
            f"snapshot {snapshot_id} is {snapshot.state}{told}", hint="name another: `ebscrypt snapshot ls`"
        )
    return snapshot


def witness_of(site: Site, snapshot: Snapshot) -> Witness:
    """What must vouch for its manifest: the digest in the catalog, else a tag by this installation's manifest key.

    While a rewrap is under way the catalog has the digests of both manifests.
    """
    if snapshot.digest is not None:
        rewrap = site.catalog.snapshots.rewrap(snapshot.snapshot_id)
        successor = None if rewrap is None else bytes.fromhex(rewrap.digest)
        return Witness(digest=bytes.fromhex(snapshot.digest), successor=successor)
    return Witness(keys=(load_manifest_key(site.settings.manifest_key_path),))


def largest(snapshot: Snapshot) -> int:
    """Bytes of the longest manifest that the snapshot can have."""
    return largest_manifest(-(-snapshot.volume_size // BLOCK_SIZE))


def data_size(manifest: Manifest) -> int:
    """Bytes of the blocks that a manifest lists; equal ones count each time."""
    header = manifest.header
    return sum(
        (count - 1) * BLOCK_SIZE + header.block_length(first + count - 1) for first, count in manifest.blocks.runs()
    )


def check_length(index: int, stored: bytes, length: int) -> None:
    """Raise `ManifestDamaged` unless a block has the ``length`` that its place in the volume asks for."""
    if len(stored) != length:
        raise ManifestDamaged(
            f"block {index} has {len(stored)} bytes where {length} belong: the manifest names a wrong block",
            hint="`ebscrypt snapshot verify` looks for more",
        )


@contextmanager
def held(site: Site, snapshot: Snapshot, owner: str) -> Iterator[Source]:
    """The snapshot's manifest and store; every block is there until this ends. ``owner`` is the new volume or copy.

    Raises `StoreError` of the fitting kind: no such store, a manifest that is damaged or that nothing vouches for.
    """
    with closing(open_store(site.settings, snapshot.store, create=False)) as store:
        witness = witness_of(site, snapshot)
        pin, manifest = hold(store, owner, snapshot.snapshot_id, witness, largest=largest(snapshot))
        try:
            yield Source(store, manifest)
        finally:
            _release(site, pin)


def _release(site: Site, pin: Pin) -> None:
    """What was made is whole or is taken back by now: a store that is away in this moment changes nothing about it."""
    try:
        pin.release()
    except StoreError as error:
        site.notes.append(f"the blocks that {pin.owner} needed stay pinned: {error.message}")


def let_go(site: Site, snapshot_id: str, owner: str) -> None:
    """Release what a process that died had pinned for ``owner``. What cannot be reached now becomes a note."""
    try:
        names = [site.catalog.snapshots.get(snapshot_id).store]
    except SnapshotNotFound:
        # Deleted meanwhile, and with it what the catalog knew of its place.
        names = list(dict.fromkeys([site.settings.stores.default, LOCAL, *site.settings.stores.urls]))
    for name in names:
        try:
            with closing(open_store(site.settings, name, create=False)) as store:
                release_pins(store, owner)
        except EbscryptError as error:
            if len(names) == 1:
                site.notes.append(f"the blocks that {owner} needed stay pinned in the store {name}: {error.message}")

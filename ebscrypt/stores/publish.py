"""How a snapshot comes into a store, and how its blocks are relied on, while sweeps remove what nobody needs.

    pin = Pin(store, snapshot_id)
    … put_block(…) for each block; pin.add(names) now and then, so that a long upload is not swept behind one's back …
    publish(store, snapshot_id, raw, names=names, pin=pin, put_again=put_again)

    pin, manifest = hold(store, volume_id, snapshot_id, witness)      # reads may go on after the snapshot's deletion
    … get_block(…) …
    pin.release()

Nothing is locked, and no clock of two machines is compared. The argument is in docs/decisions/0040-*.md: whoever relies
on blocks says so first (a pin) and looks afterwards; a sweep says so first (a marker) and looks afterwards. So one of
the two sees the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from ebscrypt.errors import BlockMissing, SnapshotNotFound
from ebscrypt.stores.manifest import Manifest, decode
from ebscrypt.stores.names import RELEASED, BlockName, new_pin
from ebscrypt.stores.store import LARGEST_PIN, Store
from ebscrypt.stores.witness import Witness

PATIENCE: Final = 90.0
"""Seconds after which a sweep whose marker still stands is taken for dead: its last request began within 15 seconds of
the marker, and `stores.timeout` gives it 30 more to connect and 30 to answer at most."""
_POLL: Final = 0.25
_TRIES: Final = 3


class Pin:
    """Names that ``owner`` (a snapshot or volume id) relies on. They are kept until `release`, however long that takes.

    A pin outlives its process. Who knows that an owner is gone for good says `release_pins`.
    """

    def __init__(self, store: Store, owner: str) -> None:
        self.owner = owner
        self._store, self._folder, self._parts, self._released = store, new_pin(owner), 0, False

    def add(self, names: Iterable[BlockName]) -> None:
        """Pin more names: durable, with every block put before, when this returns."""
        if self._released:
            raise ValueError(f"the pin of {self.owner} is released: a sweep may be removing it")
        rest = iter(names)
        while part := b"".join(islice(rest, LARGEST_PIN)):
            self._store.put_pin(self._folder, self._parts, part)
            self._parts += 1

    def release(self) -> None:
        """Not needed any more; again is fine. The next sweep removes it."""
        if self._parts and not self._released:
            self._store.release_pin(self._folder)
        self._released = True


def release_pins(store: Store, owner: str) -> None:
    """Release every pin of an owner that is gone: a snapshot that ended in an error, a volume that was deleted."""
    parts: dict[str, set[str]] = {}
    for folder, of, part in store.list_pins():
        if of == owner:
            parts.setdefault(folder, set()).add(part)
    for folder, found in parts.items():
        if RELEASED not in found:
            store.release_pin(folder)


def secure(
    store: Store,
    names: AbstractSet[BlockName],
    *,
    pin: Pin,
    put_again: Callable[[set[BlockName]], None],
    wait: Callable[[Store], None] | None = None,
) -> None:
    """When this returns, every one of ``names`` is there, durably, and stays until ``pin`` is released.

    For who cannot keep the data until the manifest is there; `publish` takes these names as ``held`` then.
    """
    pin.add(names)
    (wait or wait_for_sweeps)(store)
    # Every sweep that does not know of the pin is over. What is here now stays; what is not can be put, and stays.
    absent = store.missing(names)
    for _ in range(_TRIES):
        if not absent:
            break
        put_again(absent)
        store.sync()
        absent = store.missing(absent)
    if absent:
        raise BlockMissing(
            f"{len(absent)} blocks of {pin.owner} do not stay in {store.url}: block {min(absent).hex()} is one",
            hint="something other than ebscrypt deletes there: look for expiry (lifecycle) rules",
        )


def publish(
    store: Store,
    snapshot_id: str,
    raw: bytes,
    *,
    names: AbstractSet[BlockName],
    pin: Pin,
    put_again: Callable[[set[BlockName]], None],
    held: AbstractSet[BlockName] = frozenset(),
    wait: Callable[[Store], None] | None = None,
) -> None:
    """Make ``raw`` the manifest of ``snapshot_id``: when this returns, every one of its ``names`` is there to stay.

    ``put_again`` puts the blocks that a sweep has taken meanwhile; the data must still be at hand. ``held`` are names
    that an unreleased pin of the caller keeps since `hold` or `secure`, and need not be looked at. ``pin`` is released
    at the end.
    """
    secure(store, names - held, pin=pin, put_again=put_again, wait=wait)
    store.put_manifest(snapshot_id, raw)
    pin.release()


def hold(
    store: Store, owner: str, snapshot_id: str, witness: Witness, *, largest: int | None = None
) -> tuple[Pin, Manifest]:
    """A snapshot's manifest, and a pin on its blocks, which can be read until the release, also after its deletion.

    ``largest`` is `manifest.largest_manifest` of the volume where its size is known from elsewhere, so that nobody who
    can write to the store decides how much memory is used. Raises `SnapshotNotFound` when the snapshot is not there, or
    was deleted just now.
    """
    manifest = decode(store.get_manifest(snapshot_id, largest), snapshot_id, witness)
    pin = Pin(store, owner)
    pin.add(manifest.blocks.names())
    # The manifest kept the blocks until now, and the pin does from before now on.
    if not store.has_manifest(snapshot_id):
        pin.release()
        raise SnapshotNotFound(f"snapshot {snapshot_id} was deleted from {store.url} just now")
    return pin, manifest


def wait_for_sweeps(
    store: Store,
    *,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Return once every sweep that is under way now has finished this round of its deletions, or is dead.

    A round takes seconds. A marker that stands for ``patience`` seconds of our own clock is a dead sweep's; removing it
    bars that sweep from going on, should it only have been asleep.
    """
    began = clock()
    waiting = {entry.path for entry in store.list_markers()}
    while waiting:
        if clock() - began >= patience:
            for marker in waiting:
                store.remove_marker(marker)
            return
        pause(_POLL)
        waiting &= {entry.path for entry in store.list_markers()}

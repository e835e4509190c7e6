"""Mark and sweep: remove the blocks that no snapshot lists and nobody has pinned, while everything else goes on.

A sweep works in rounds of some seconds. Each says that it is under way (a marker), then reads which manifests and pins
there are, then deletes, then removes its marker. A writer who has pinned blocks waits for the rounds of that moment
only. docs/decisions/0040-*.md has the argument. A manifest or pin that cannot be read stops a sweep before it deletes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ebscrypt.errors import SnapshotNotFound, SweepLost, TransferCancelled
from ebscrypt.stores.manifest import decode
from ebscrypt.stores.names import RELEASED, BlockName, new_sweep
from ebscrypt.stores.store import Store
from ebscrypt.stores.witness import UNCHECKED

ROUND: Final = 15.0
"""Seconds after its marker in which a round may begin to delete; see `publish.PATIENCE`."""
MOST_LIVE: Final = 2_000_000
"""Names in memory at once (some 220 MB, those of 1 TiB); a store with more is swept in several passes."""
_BATCH: Final = 1000
_DEAD_MARKER: Final = 3600.0
_ATTEMPTS: Final = 20


@dataclass(slots=True)
class Swept:
    """What a sweep did: blocks and bytes freed, blocks kept because they are needed, or only because they are young."""

    freed: int = 0
    freed_bytes: int = 0
    needed: int = 0
    young: int = 0
    pins_removed: int = 0
    leftovers: int = 0


def boot_clock() -> float:
    """Seconds since boot, those in suspend included: a sweep that slept must know that it did."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def sweep(
    store: Store,
    *,
    grace: float,
    clock: Callable[[], float] = boot_clock,
    cancel: threading.Event | None = None,
    most_live: int = MOST_LIVE,
) -> Swept:
    """Free what nobody needs and is older than ``grace`` seconds by the store's clock. Several at once do no harm.

    ``grace`` only spares writers from putting blocks twice which they have not pinned yet; no block's safety rests on
    it. Raises `ManifestDamaged` or `StoreUnsupported` for what it cannot read, `SweepLost` when a writer took it for
    dead, `TransferCancelled` when ``cancel`` was set. What it had freed by then was not needed either.
    """
    return _Sweeper(store, clock, cancel or threading.Event(), most_live).run(grace)


class _Sweeper:
    def __init__(self, store: Store, clock: Callable[[], float], cancel: threading.Event, most_live: int) -> None:
        self._store, self._clock, self._cancel, self._most_live = store, clock, cancel, most_live
        self._marker: str | None = None
        self._began = 0.0
        self._low, self._high = 0, 256
        self._live: set[BlockName] = set()
        self._read: set[str] = set()
        self._done = Swept()

    def run(self, grace: float) -> Swept:
        released = self._released()
        cutoff = self._now() - grace
        self._done.leftovers = self._store.clean_up()
        try:
            while self._low < 256:
                self._mark()
                while self._low < self._high:
                    self._sweep_shard(self._low, cutoff)
                    self._low += 1
                self._low, self._high, self._live, self._read = self._high, 256, set(), set()
            self._remove_pins(released)
        finally:
            self._end_round()
        return self._done

    def _now(self) -> float:
        """The time by the store's clock. Removes the markers of sweeps that died long ago."""
        marker = new_sweep()
        self._store.put_marker(marker)
        found = {entry.path: entry.modified for entry in self._store.list_markers()}
        for path, modified in found.items():
            if path == marker or modified < found[marker] - _DEAD_MARKER:
                self._store.remove_marker(path)
        return found[marker]

    def _released(self) -> dict[str, list[str]]:
        """The released pins with their parts."""
        parts: dict[str, list[str]] = {}
        for folder, _, part in self._store.list_pins():
            parts.setdefault(folder, []).append(part)
        return {folder: found for folder, found in parts.items() if RELEASED in found}

    def _mark(self) -> None:
        """Take in every manifest and pin that was not read yet. The order matters.

        A pin released before the manifests are listed has its manifest in that list, or a later pin. Every other pin
        outlives the second listing of pins, and whoever comes to rely on blocks later writes one first.
        """
        passed_over = self._released()
        for snapshot_id in self._store.list_manifests():
            if snapshot_id not in self._read:
                self._check_cancelled()
                try:
                    raw = self._store.get_manifest(snapshot_id)
                except SnapshotNotFound:
                    continue  # deleted since it was listed; who still relies on its blocks has a pin
                self._add(name for _, name in decode(raw, snapshot_id, UNCHECKED).blocks)
                self._read.add(snapshot_id)
        for folder, _, part in self._store.list_pins():
            if folder not in passed_over and part != RELEASED and folder + part not in self._read:
                self._add(self._store.get_pin(folder, part))
                self._read.add(folder + part)

    def _add(self, names: Iterable[BlockName]) -> None:
        """Keep names in mind, if they are in the range of this pass; a range that is too large is halved."""
        rest = iter(names)
        while batch := list(islice(rest, 100_000)):
            self._live.update(name for name in batch if self._low <= name[0] < self._high)
            while len(self._live) > self._most_live and self._high - self._low > 1:
                self._high = (self._low + self._high + 1) // 2
                self._live = {name for name in self._live if name[0] < self._high}

    def _sweep_shard(self, shard: int, cutoff: float) -> None:
        doomed: dict[BlockName, int] = {}
        for block in self._store.list_blocks(shard):
            if block.name in self._live:
                self._done.needed += 1
            elif block.modified > cutoff:
                self._done.young += 1
            else:
                doomed[block.name] = block.size
        rest = iter(doomed)
        while batch := list(islice(rest, _BATCH)):
            self._in_round()
            # What was unneeded when it was listed may have been pinned since; this round has looked again.
            free = [name for name in batch if name not in self._live]
            self._check_marker()
            self._store.delete_blocks(free)
            self._done.needed += len(batch) - len(free)
            self._done.freed += len(free)
            self._done.freed_bytes += sum(doomed[name] for name in free)

    def _in_round(self) -> None:
        """Be in a round with time left to delete in."""
        for _ in range(_ATTEMPTS):
            self._check_cancelled()
            if self._marker is not None and self._clock() - self._began < ROUND:
                return
            self._end_round()
            self._began, marker = self._clock(), new_sweep()
            self._store.put_marker(marker)
            self._marker = marker
            # If there is much to read, the round is over before it deletes; the next one need not read it again.
            self._mark()
        raise SweepLost(
            f"the sweep of {self._store.url} does not keep up: reading what is new takes over {ROUND:.0f} seconds",
            hint="the store is too slow now: try again later",
        )

    def _check_marker(self) -> None:
        if self._marker is None or not self._store.has_marker(self._marker):
            raise SweepLost(
                f"the sweep of {self._store.url} took so long that a snapshot took it for dead",
                hint="try again; nothing that anyone needs was removed",
            )

    def _end_round(self) -> None:
        if self._marker is not None:
            marker, self._marker = self._marker, None
            self._store.remove_marker(marker)

    def _remove_pins(self, released: dict[str, list[str]]) -> None:
        """Remove the pins that were released before this sweep began, unless another sweep may still look for them."""
        if not released:
            return
        self._in_round()
        if any(entry.path != self._marker for entry in self._store.list_markers()):
            return
        for folder, parts in released.items():
            self._store.remove_pin(folder, parts)
            self._done.pins_removed += 1

    def _check_cancelled(self) -> None:
        if self._cancel.is_set():
            raise TransferCancelled("the sweep was stopped", hint="the next one goes on")

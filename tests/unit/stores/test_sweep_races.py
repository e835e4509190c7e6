"""Snapshots, copies, restores, deletions and sweeps at once, in many orders: no block that anyone needs ever goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from ebscrypt import errors
from ebscrypt.stores import sweep as sweeping
from ebscrypt.stores.manifest import decode
from ebscrypt.stores.names import block_name, block_path
from ebscrypt.stores.publish import Pin, hold, publish, release_pins, wait_for_sweeps
from ebscrypt.stores.store import Store
from ebscrypt.stores.sweep import sweep
from ebscrypt.stores.witness import UNCHECKED
from tests.snapshot_samples import VOLUME_ID, block, blocks_of, manifest_of, put_blocks, snapshot_id
from tests.unit.stores.memory_objects import Memory, Turns

OLD = range(3)
NEW = range(1, 5)
SEEDS = 250


class World:
    """A store with one snapshot and some garbage, and what people do in it."""

    def __init__(self, seed: int) -> None:
        self.memory, self.turns = Memory(), Turns(seed)
        self.store = Store(self.memory)
        put_blocks(self.store, range(6))
        self.store.put_manifest(snapshot_id(1), manifest_of(1, OLD))
        self.memory.step, self.memory.changed = self.turns.step, self.check

    def check(self) -> None:
        """Every snapshot that can be seen is whole, at every moment."""
        for path, (raw, _) in list(self.memory.objects.items()):
            if path.startswith("manifests/"):
                listed = decode(raw, path[10:-9], UNCHECKED).blocks.names()
                lost = [name.hex() for name in listed if block_path(name) not in self.memory.objects]
                assert not lost, f"{path} has lost {lost}"

    def wait(self, store: Store) -> None:
        wait_for_sweeps(store, clock=lambda: 0.0, pause=lambda _: self.turns.step())

    def write(self, *, wait: Callable[[Store], None] | None = None) -> None:
        """A snapshot of which some blocks are there already: some belong to the old one, some are garbage."""
        pin = Pin(self.store, snapshot_id(2))
        put_blocks(self.store, NEW)
        self._publish(2, NEW, pin, wait)

    def copy(self) -> None:
        """Hold the old snapshot, read it, make a copy of it, and be done with both."""
        with contextlib.suppress(errors.SnapshotNotFound):
            pin, manifest = hold(self.store, snapshot_id(3), snapshot_id(1), UNCHECKED)
            for index, name in manifest.blocks:
                assert self.store.get_block(name) == block(index)
            own = Pin(self.store, snapshot_id(3))
            publish(
                self.store,
                snapshot_id(3),
                manifest_of(3, OLD),
                names=manifest.blocks.names(),
                held=manifest.blocks.names(),
                pin=own,
                put_again=lambda _: pytest.fail("held blocks do not go"),
                wait=self.wait,
            )
            pin.release()

    def restore(self) -> None:
        """Read the old snapshot slowly, whatever happens to it meanwhile."""
        with contextlib.suppress(errors.SnapshotNotFound):
            pin, manifest = hold(self.store, VOLUME_ID, snapshot_id(1), UNCHECKED)
            for _ in range(3):
                for index, name in manifest.blocks:
                    assert self.store.get_block(name) == block(index)
            pin.release()

    def delete(self) -> None:
        self.store.delete_manifest(snapshot_id(1))

    def sweep(self) -> None:
        sweep(self.store, grace=0, clock=lambda: 0.0)

    def _publish(self, number: int, numbers: range, pin: Pin, wait: Callable[[Store], None] | None) -> None:
        by_name = {block_name(block(index)): block(index) for index in numbers}

        def put_again(absent: set[bytes]) -> None:
            for name in absent:
                self.store.put_block(name, by_name[name])

        publish(
            self.store,
            snapshot_id(number),
            manifest_of(number, numbers),
            names=blocks_of(numbers).names(),
            pin=pin,
            put_again=put_again,
            wait=wait or self.wait,
        )

    def leaks(self) -> set[str]:
        """What is left after two sweeps with nobody at work, and no snapshot needs."""
        self.sweep()
        self.sweep()
        needed = {"store.json"}
        for path, (raw, _) in self.memory.objects.items():
            if path.startswith("manifests/"):
                needed |= {path, *(block_path(name) for name in decode(raw, path[10:-9], UNCHECKED).blocks.names())}
        return set(self.memory.objects) - needed


@pytest.mark.parametrize("part", range(4))
def test_no_order_loses_a_block_or_leaks_one(part: int) -> None:
    """A snapshot, a copy, a restore, a deletion and two sweeps at once, one request at a time, in many seeded orders.

    After every single request each snapshot is whole; readers get every block; at the end nothing is left over.
    """
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        world = World(seed)
        world.turns.run(world.write, world.copy, world.restore, world.delete, world.sweep, world.sweep)
        world.memory.step = lambda: None
        assert world.leaks() == set(), f"seed {seed}"


def _found(make: Callable[[World], list[Callable[[], None]]]) -> bool:
    """Whether some order of these shows a loss."""
    for seed in range(2000):
        world = World(seed)
        try:
            world.turns.run(*make(world))
        except (AssertionError, errors.BlockMissing):
            return True
    return False


def test_the_orders_tried_find_a_writer_who_does_not_wait() -> None:
    """Without waiting for the sweeps under way a block is lost: the orders tried here are mean enough to show it."""
    assert _found(lambda world: [lambda: world.write(wait=lambda _: None), world.sweep])


def test_the_orders_tried_find_a_reader_without_a_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its pin a restore loses blocks when the snapshot is deleted."""
    monkeypatch.setattr(Pin, "add", lambda *_: None)
    assert _found(lambda world: [world.restore, world.delete, world.sweep])


def test_the_orders_tried_find_manifests_that_are_read_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that lists manifests before it looks which pins are released loses the blocks of one made in between."""
    original = sweeping._Sweeper._mark

    def manifests_first(self: sweeping._Sweeper) -> None:
        listed = list(self._store.list_manifests())
        with monkeypatch.context() as patch:
            patch.setattr(self._store, "list_manifests", lambda: iter(listed))
            original(self)

    monkeypatch.setattr(sweeping._Sweeper, "_mark", manifests_first)
    assert _found(lambda world: [world.write, world.sweep])


def test_abandoned_pins_can_be_released() -> None:
    """What a killed owner pinned goes once someone who knows says so, and only his."""
    world = World(0)
    world.memory.step = lambda: None
    Pin(world.store, snapshot_id(2)).add([block_name(block(4))])
    Pin(world.store, VOLUME_ID).add([block_name(block(5))])

    release_pins(world.store, snapshot_id(2))
    release_pins(world.store, snapshot_id(2))
    world.sweep()

    assert world.store.missing([block_name(block(4)), block_name(block(5))]) == {block_name(block(4))}
    assert [owner for _, owner, _ in world.store.list_pins()] == [VOLUME_ID]


def test_a_released_pin_takes_no_more() -> None:
    """A sweep may be removing it: adding to it is a mistake that is told."""
    world = World(0)
    world.memory.step = lambda: None
    pin = Pin(world.store, VOLUME_ID)
    pin.add([block_name(b"")])
    pin.release()
    pin.release()
    with pytest.raises(ValueError, match="released"):
        pin.add([block_name(b"x")])

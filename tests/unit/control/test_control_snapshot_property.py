"""An attached volume under random requests, snapshots, deletions, sweeps and ends of every kind, against a model.

The model of a snapshot is a copy of what was stored at its instant. Every snapshot that is there in the end is read
from the store and compared with its copy, so what a later one, a deletion or a sweep did to it would show.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ebscrypt.config import AttachSettings, KmsSettings, PathSettings, Settings, StoreSettings
from ebscrypt.control import attached_source, block_storing, storing
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot, sweep_store
from ebscrypt.control.unfinished import settle_snapshots
from ebscrypt.control.verify_snapshots import verify_snapshot
from ebscrypt.model import SnapshotState
from ebscrypt.stores.names import BLOCK_SIZE
from tests.unit.control.attached_inline import Attached
from tests.unit.control.storing_inline import block, snapshot_bytes, stored_bytes, unreleased_pins

RUNS = 12
STEPS = 30
BLOCKS = 12
LARGEST = 16 * BLOCK_SIZE
PLACES = st.integers(0, BLOCKS * BLOCK_SIZE // 4096 - 1)


class DiedError(BaseException):
    """The storing process is no more."""


class Machine(RuleBasedStateMachine):
    """One volume. ``models`` has what each snapshot must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ep-", dir="/tmp"))
        self.site = Site(
            Settings(
                paths=PathSettings(state=str(self.folder / "s"), runtime=str(self.folder / "r")),
                kms=KmsSettings(region="eu-central-1", account="111122223333"),
                attach=AttachSettings(start_timeout=0.3),
                stores=StoreSettings(workers=2, grace=0),
            )
        )
        request = VolumeRequest(size=BLOCKS * BLOCK_SIZE, encrypted=False)
        self.volume_id = create_volume(self.site, request).volume_id
        self.models: dict[str, bytes] = {}
        self.pending: str | None = None
        self.there: Attached | None = None
        self.numbers = 0
        self.attach()

    def teardown(self) -> None:
        if self.pending is not None:
            self.store()
        if self.there is not None:
            self.there.detach()
        settle_snapshots(self.site)
        whole = self.site.catalog.snapshots.list(SnapshotState.COMPLETED)
        assert {snapshot.snapshot_id for snapshot in whole} == set(self.models)
        for snapshot_id, model in self.models.items():
            assert snapshot_bytes(self.site, self.site.catalog.snapshots.get(snapshot_id)) == model
        if self.models:
            assert verify_snapshot(self.site).damage == []
            assert unreleased_pins(self.site) == set()
        self.site.forget_catalog()
        shutil.rmtree(self.folder)

    def attach(self) -> None:
        self.there = Attached(self.site, self.site.catalog.volume(self.volume_id))

    @precondition(lambda self: self.there is not None)
    @rule(place=PLACES, sectors=st.sampled_from((1, 3, 128, 200)), what=st.sampled_from(("write", "zero", "discard")))
    def change(self, place: int, sectors: int, what: str) -> None:
        """A request of any kind to any place."""
        assert self.there is not None
        device, offset = self.there.device, place * 4096
        length = min(sectors * 4096, device.size - offset)
        self.numbers += 1
        if what == "write":
            device.pwrite((block(self.numbers) * 2)[:length], offset)
        elif what == "zero":
            device.write_zeroes(offset, length)
        else:
            device.discard(offset, length)

    @precondition(lambda self: self.pending is None)
    @rule()
    def begin(self) -> None:
        """A snapshot of this instant, not stored yet."""
        volume = self.site.catalog.volume(self.volume_id)
        snapshot = create_snapshot(self.site, self.volume_id)
        self.pending = snapshot.snapshot_id
        self.models[self.pending] = stored_bytes(volume)

    @precondition(lambda self: self.pending is not None)
    @rule()
    def store(self) -> None:
        """Store what is pending, to its end."""
        assert self.pending is not None
        storing.settle_snapshot(self.site, self.pending)
        snapshot = self.site.catalog.snapshots.get(self.pending)
        assert snapshot.state is SnapshotState.COMPLETED, snapshot.state_message
        assert snapshot_bytes(self.site, snapshot) == self.models[self.pending]
        self.pending = None

    @precondition(lambda self: self.pending is not None)
    @rule(batches=st.integers(0, 3))
    def store_in_part(self, batches: int) -> None:
        """The storing process is killed after some batches, if there are so many."""
        assert self.pending is not None
        left, died = batches, False

        def stored(storing: block_storing.BlockStoring, *arguments: object) -> object:
            nonlocal left, died
            if left == 0:
                died = True
                raise DiedError
            left -= 1
            return whole(storing, *arguments)  # type: ignore[arg-type]

        whole, release = block_storing.BlockStoring._stored, storing._release
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(block_storing.BlockStoring, "_stored", stored)
            # Who is killed releases nothing.
            patch.setattr(storing, "_release", lambda *arguments: None if died else release(*arguments))
            try:
                storing.settle_snapshot(self.site, self.pending)
            except DiedError:
                return
        self.store()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Delete any snapshot, the pending one too, and sweep."""
        chosen = data.draw(st.sampled_from(sorted(self.models)))
        delete_snapshot(self.site, chosen)
        del self.models[chosen]
        if chosen == self.pending:
            self.pending = None
        sweep_store(self.site, "local")

    @precondition(lambda self: self.there is not None and self.pending is None)
    @rule(ending=st.sampled_from(("detach", "die", "die at once")))
    def end(self, ending: str) -> None:
        """The attachment ends: in order, by a kill a while after the last write, or at once."""
        assert self.there is not None
        if ending == "die":
            self.there.note()
        getattr(self.there, ending.partition(" ")[0])()
        self.there = None

    @precondition(lambda self: self.there is not None and self.pending is not None)
    @rule()
    def die_with_a_snapshot(self) -> None:
        """With the daemon the instant is gone, and the snapshot has failed."""
        assert self.there is not None
        assert self.pending is not None
        kept = attached_source.under_way(self.site.settings, self.volume_id) == self.pending
        self.there.die()
        self.there = None
        if not kept:  # it is one of the detached volume
            return
        storing.settle_snapshot(self.site, self.pending)
        assert self.site.catalog.snapshots.get(self.pending).state is SnapshotState.ERROR
        del self.models[self.pending]
        self.pending = None

    @precondition(lambda self: self.there is None and self.pending is None)
    @rule(place=PLACES)
    def write_past_the_daemon(self, place: int) -> None:
        """Somebody else writes to the backing of the detached volume."""
        self.numbers += 1
        with Path(self.site.catalog.volume(self.volume_id).backing).open("r+b") as backing:
            backing.seek(place * 4096)
            backing.write(block(self.numbers)[:4096])

    @precondition(lambda self: self.there is None)
    @rule()
    def attach_again(self) -> None:
        """The volume is attached again; a snapshot of the detached one is stored first."""
        if self.pending is not None:
            self.store()
        self.attach()

    @precondition(lambda self: self.there is not None and self.there.device.size < LARGEST)
    @rule()
    def grow(self) -> None:
        """The volume gets two blocks more, whatever is under way."""
        size = self.site.catalog.volume(self.volume_id).size + 2 * BLOCK_SIZE
        resize_volume(self.site, self.volume_id, size)


def delete_now(site: Site, snapshot_id: str) -> None:
    """In place of a process of its own: a deletion that waited is finished, and what is pending waits for its step."""
    if site.catalog.snapshots.get(snapshot_id).deleting:
        storing.settle_snapshot(site, snapshot_id)


class Chosen:
    """In place of Hypothesis's data: one of the snapshots there are."""

    def __init__(self, machine: Machine, chance: random.Random) -> None:
        self._machine, self._chance = machine, chance

    def draw(self, _strategy: object) -> str:
        return self._chance.choice(sorted(self._machine.models))


def step(machine: Machine, chance: random.Random) -> None:
    """One step of any kind that is possible now."""
    there, pending = machine.there, machine.pending
    place = chance.randrange(BLOCKS * BLOCK_SIZE // 4096)
    steps: list[Callable[[], object]] = []
    if there is not None:
        sectors, what = chance.choice((1, 3, 128, 200)), chance.choice(("write", "write", "zero", "discard"))
        steps += [lambda: machine.change(place=place, sectors=sectors, what=what)] * 4
        if there.device.size < LARGEST:
            steps.append(machine.grow)
        if pending is None:
            ending = chance.choice(("detach", "die", "die at once"))
            steps.append(lambda: machine.end(ending=ending))
        else:
            steps.append(machine.die_with_a_snapshot)
    else:
        steps.append(machine.attach_again)
        if pending is None:
            steps.append(lambda: machine.write_past_the_daemon(place=place))
    if machine.models:
        steps.append(lambda: machine.delete(data=Chosen(machine, chance)))
    if pending is None:
        steps += [machine.begin] * 2
    else:
        batches = chance.randrange(4)
        steps += [machine.store, machine.store, lambda: machine.store_in_part(batches=batches)]
    chance.choice(steps)()


@pytest.mark.parametrize("seed", range(RUNS))
def test_snapshots_against_a_model(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever happens, in whichever order: a snapshot that is completed has its instant, to the byte."""
    monkeypatch.setattr(storing, "start_storing", delete_now)
    monkeypatch.setattr(block_storing, "_BATCH", 4)
    machine, chance = Machine(), random.Random(seed)  # noqa: S311 - the same in every run
    for _ in range(STEPS):
        step(machine, chance)
    machine.teardown()

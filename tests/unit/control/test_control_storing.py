"""`storing`: a pending snapshot comes to its end, whoever dies, deletes or sweeps meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from ebscrypt.config import StoreSettings
from ebscrypt.control import block_source, block_storing
from ebscrypt.control.block_source import BlockSource, NamedBlock
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot
from ebscrypt.control.storing import settle_snapshot, wait_for_snapshot
from ebscrypt.errors import SnapshotNotFound, StateError, StoreFull
from ebscrypt.model import Snapshot, SnapshotState, Volume
from ebscrypt.stores.manifest import encode
from ebscrypt.stores.names import BLOCK_SIZE, BlockName, block_name
from ebscrypt.stores.publish import secure
from ebscrypt.stores.store import Store
from ebscrypt.stores.sweep import sweep
from ebscrypt.stores.witness import ManifestKey
from tests.unit.control import storing_inline
from tests.unit.control.storing_inline import (
    Started,
    block,
    block_files,
    opened,
    snapshot_bytes,
    stored_bytes,
    unreleased_pins,
    write_blocks,
)

PENDING, COMPLETED, ERROR = SnapshotState.PENDING, SnapshotState.COMPLETED, SnapshotState.ERROR


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


class Died(BaseException):
    """The process ends here."""


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], None]:
    """Does something the first time that a step of the storing is done."""

    def arrange(step: str, action: Callable[[], None]) -> None:
        waiting = [action]

        def reach(name: str) -> None:
            if name == step and waiting:
                waiting.pop()()

        monkeypatch.setattr("ebscrypt.control.faultpoints.reach", reach)

    return arrange


def die() -> None:
    raise Died


@pytest.mark.parametrize("step", ["snapshot.secured", "snapshot.published", "snapshot.released"])
def test_another_process_takes_up_what_died(
    site: Site, volume: Volume, at: Callable[[str, Callable[[], None]], None], step: str
) -> None:
    """Wherever: the snapshot is completed with the right bytes, one event tells it, and nothing stays pinned."""
    write_blocks(volume, {1: block(1), 9: block(2)})
    snapshot = create_snapshot(site, volume.volume_id)
    at(step, die)
    with pytest.raises(Died):
        settle_snapshot(site, snapshot.snapshot_id)
    assert site.catalog.snapshots.get(snapshot.snapshot_id).state is PENDING

    settle_snapshot(site, snapshot.snapshot_id)

    completed = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert completed.state is COMPLETED
    assert snapshot_bytes(site, completed) == stored_bytes(volume)
    assert unreleased_pins(site) == set()
    assert [event["detail"]["event"] for _, event in site.catalog.events()].count("createSnapshot") == 1


def test_a_foreign_manifest_is_not_taken_for_ours(site: Site, volume: Volume, plain_volume: Volume) -> None:
    """Somebody who can write to the store put one in our snapshot's place: the snapshot fails."""
    ours = storing_inline.manifest_of(site, storing_inline.take(site, plain_volume))
    snapshot = create_snapshot(site, volume.volume_id)
    forged = msgspec.structs.replace(ours.header, snapshot_id=snapshot.snapshot_id)
    with opened(site) as store:
        store.put_manifest(snapshot.snapshot_id, encode(forged, ours.blocks, ManifestKey(bytes(32))))

    settle_snapshot(site, snapshot.snapshot_id)

    failed = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert failed.state is ERROR
    assert "nothing vouches" in (failed.state_message or "")


def test_a_full_store_ends_in_error(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason and event; nothing stays pinned, and the next snapshot of the volume can be made."""
    write_blocks(volume, {0: block(1)})
    snapshot = create_snapshot(site, volume.volume_id)

    def full(*_: object, **__: object) -> bool:
        raise StoreFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_block", full)
        settle_snapshot(site, snapshot.snapshot_id)

    failed = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert (failed.state, failed.state_message) == (ERROR, "no room")
    assert site.catalog.events()[-1][1]["detail"] | {"startTime": "", "endTime": ""} == {
        "event": "createSnapshot",
        "result": "failed",
        "cause": "no room.",
        "request-id": "",
        "snapshot_id": f"arn:aws:ec2::eu-central-1:snapshot/{snapshot.snapshot_id}",
        "source": f"arn:aws:ec2::eu-central-1:volume/{volume.volume_id}",
        "startTime": "",
        "endTime": "",
    }
    assert unreleased_pins(site) == set()
    assert storing_inline.take(site, volume).state is COMPLETED


def test_a_fault_of_our_own_ends_in_error_too(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every command from then on would try it again. The fault is not hidden either."""
    snapshot = create_snapshot(site, volume.volume_id)

    def broken(*_: object) -> bytes:
        raise ValueError("a fault")

    monkeypatch.setattr(block_storing, "encode", broken)
    with pytest.raises(ValueError, match="a fault"):
        settle_snapshot(site, snapshot.snapshot_id)
    assert site.catalog.snapshots.get(snapshot.snapshot_id).state is ERROR


def test_a_write_meanwhile_ends_in_error(
    site: Site, volume: Volume, at: Callable[[str, Callable[[], None]], None]
) -> None:
    """Somebody who heeds no lock writes when all blocks are read: no manifest of two instants is made."""
    write_blocks(volume, {0: block(1)})
    snapshot = create_snapshot(site, volume.volume_id)
    at("snapshot.secured", lambda: write_blocks(volume, {7: block(2)}))

    settle_snapshot(site, snapshot.snapshot_id)

    assert "written to" in (site.catalog.snapshots.get(snapshot.snapshot_id).state_message or "")
    with opened(site) as store:
        assert not store.has_manifest(snapshot.snapshot_id)


def test_a_deletion_ends_the_work(site: Site, volume: Volume, at: Callable[[str, Callable[[], None]], None]) -> None:
    """The progress is noted, nobody wants it any more: no manifest is made, and there is no event."""
    write_blocks(volume, {0: block(1)})
    snapshot = create_snapshot(site, volume.volume_id)

    def begin_deletion() -> None:
        site.catalog.snapshots.begin_deletion(snapshot.snapshot_id)

    at("snapshot.secured", begin_deletion)

    settle_snapshot(site, snapshot.snapshot_id)
    with opened(site) as store:
        assert not store.has_manifest(snapshot.snapshot_id)
    assert delete_snapshot(site, snapshot.snapshot_id).deleting

    assert site.catalog.snapshots.list() == []
    assert [event["detail"]["event"] for _, event in site.catalog.events()] == ["createVolume"]
    assert unreleased_pins(site) == set()


def test_a_sweep_beside_it_takes_nothing_that_stays_missing(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that a sweep takes before they are pinned are put again, from the volume."""
    write_blocks(volume, {index: block(index) for index in range(4)})
    snapshot = create_snapshot(site, volume.volume_id)
    swept: list[int] = []

    def beside(store: Store, names: set[BlockName], **options: Any) -> None:
        if not swept:
            store.sync()
            storing_inline.age(site)
            swept.append(sweep(store, grace=0).freed)
        secure(store, names, **options)

    monkeypatch.setattr(block_storing, "secure", beside)
    settle_snapshot(site, snapshot.snapshot_id)

    assert swept == [4]
    completed = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert snapshot_bytes(site, completed) == stored_bytes(volume)


def test_a_volume_of_many_batches(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one batch ends and the next begins nothing is lost, and equal blocks are stored once."""
    monkeypatch.setattr(block_storing, "_BATCH", 3)
    write_blocks(volume, {index: block(index // 2) for index in range(11)})

    snapshot = storing_inline.take(site, volume)

    assert snapshot_bytes(site, snapshot) == stored_bytes(volume)
    assert len(block_files(site)) == 6
    assert snapshot.bytes_done == snapshot.bytes_total == 11 * BLOCK_SIZE


class Changes:
    """A source that has what changed since a snapshot, as that of an attached volume."""

    group = 2
    stored: Final[Mapping[int, BlockName | None]] = {}

    def __init__(self, content: bytes, base: str, changed: list[int]) -> None:
        self.size, self.base, self._content, self._changed = len(content), base, content, changed
        self.were_read: list[int] = []
        self.were_done: list[int] = []
        self.committed: str | None = None

    def indexes(self) -> Iterator[int]:
        return iter(self._changed)

    @contextlib.contextmanager
    def reading(self, indexes: Sequence[int]) -> Iterator[list[NamedBlock]]:
        assert not set(indexes) & set(self.were_done), "a block that is done is gone"
        self.were_read.extend(indexes)
        contents = [self._content[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE] for index in indexes]
        names = [block_name(content) if any(content) else None for content in contents]
        yield list(map(NamedBlock, indexes, names, contents))

    def done(self, blocks: Mapping[int, BlockName | None]) -> None:
        self.were_done.extend(blocks)

    def commit(self, snapshot_id: str) -> None:
        self.committed = snapshot_id

    def check(self) -> None:
        pass


def test_a_source_with_a_base_is_read_where_it_changed(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is the base's: changed, new and zeroed blocks give the same as reading all."""
    write_blocks(volume, {index: block(index) for index in range(6)})
    base = storing_inline.take(site, volume)
    write_blocks(volume, {2: block(50), 4: bytes(BLOCK_SIZE), 9: block(51)})
    source = Changes(stored_bytes(volume), base.snapshot_id, [2, 4, 9])

    @contextlib.contextmanager
    def opened_source(*_: object) -> Iterator[BlockSource]:
        yield source

    monkeypatch.setattr(block_source, "opened_source", opened_source)
    snapshot = storing_inline.take(site, volume)

    assert snapshot_bytes(site, snapshot) == stored_bytes(volume)
    assert sorted(source.were_read) == source.were_done == [2, 4, 9]
    assert source.committed == snapshot.snapshot_id
    assert snapshot.bytes_total == 3 * BLOCK_SIZE
    assert unreleased_pins(site) == set()


def test_progress_is_told_to_who_waits(site: Site, volume: Volume) -> None:
    """The waiter sees what the catalog has, and returns with the completed snapshot."""
    write_blocks(volume, {0: block(1)})
    snapshot = create_snapshot(site, volume.volume_id)
    seen: list[Snapshot] = []

    def look(now: Snapshot) -> None:
        seen.append(now)
        if len(seen) == 1:
            settle_snapshot(site, snapshot.snapshot_id)

    assert wait_for_snapshot(site, snapshot.snapshot_id, look, poll=0.01).state is COMPLETED
    assert [now.state for now in seen] == [PENDING, COMPLETED]


def test_who_waits_for_nobody_is_told(site: Site, volume: Volume) -> None:
    """When no process is at work for as long as one takes to start, waiting ends; also when the snapshot is deleted."""
    snapshot = create_snapshot(site, volume.volume_id)
    attach = msgspec.structs.replace(site.settings.attach, start_timeout=0.05)
    with Site(msgspec.structs.replace(site.settings, attach=attach)) as hasty:
        with pytest.raises(StateError, match="nothing stores"):
            wait_for_snapshot(hasty, snapshot.snapshot_id, poll=0.01)
        delete_snapshot(hasty, snapshot.snapshot_id)
        with pytest.raises(SnapshotNotFound):
            wait_for_snapshot(hasty, snapshot.snapshot_id)


def test_the_store_of_the_call_is_the_store_of_the_process(site: Site, volume: Volume, tmp_path: Path) -> None:
    """Whatever the settings say by the time the blocks are stored."""
    named = StoreSettings(urls={"far": (tmp_path / "far").as_uri()}, default="far")
    with Site(msgspec.structs.replace(site.settings, stores=named)) as other:
        snapshot = create_snapshot(other, volume.volume_id)
    settle_snapshot(site, snapshot.snapshot_id)

    assert site.catalog.snapshots.get(snapshot.snapshot_id).store == "far"
    assert (tmp_path / "far" / "manifests" / f"{snapshot.snapshot_id}.manifest").exists()

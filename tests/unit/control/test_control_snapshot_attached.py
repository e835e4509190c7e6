"""`create_snapshot` of attached volumes: which instant it has, what is read for it, and how it ends with the daemon."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio

from ebscrypt.control import attached_source, block_storing, runtime, storing
from ebscrypt.control.attached_source import AttachedSource
from ebscrypt.control.block_source import NamedBlock
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.detach import detach_volume
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot, sweep_store
from ebscrypt.control.storing import settle_snapshot
from ebscrypt.control.unfinished import settle_snapshots
from ebscrypt.daemon import snapshot_view, snapshotting
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.errors import InvalidParameter, SnapshotLimit, SnapshotNotFound, StateError
from ebscrypt.model import MIB, Snapshot, SnapshotState, Volume, VolumeState
from ebscrypt.stores.names import BLOCK_SIZE
from tests.behaviour.volume.place import wait_until
from tests.unit.control import storing_inline
from tests.unit.control.attached_inline import Attached, attached
from tests.unit.control.storing_inline import (
    Started,
    block,
    manifest_of,
    opened,
    snapshot_bytes,
    stored_bytes,
    unreleased_pins,
)

COMPLETED, ERROR, PENDING = SnapshotState.COMPLETED, SnapshotState.ERROR, SnapshotState.PENDING


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Blocks are stored when the test says so."""
    return Started(monkeypatch)


@pytest.fixture
def there(site: Site, plain_volume: Volume) -> Iterator[Attached]:
    """A plain volume of 8 MiB, attached."""
    with attached(site, plain_volume) as there:
        yield there


def take(site: Site, volume: Volume) -> Snapshot:
    """A snapshot, stored by this process."""
    return settled(site, create_snapshot(site, volume.volume_id))


def settled(site: Site, snapshot: Snapshot) -> Snapshot:
    """The snapshot after the work of its process."""
    settle_snapshot(site, snapshot.snapshot_id)
    return site.catalog.snapshots.get(snapshot.snapshot_id)


def write(there: Attached, blocks: dict[int, int]) -> None:
    """Fill blocks of the device with the content of these numbers."""
    for index, number in blocks.items():
        there.device.pwrite(block(number), index * BLOCK_SIZE)


@pytest.mark.usefixtures("unwrapping")
def test_the_instant_of_an_encrypted_volume(site: Site, volume: Volume) -> None:
    """What is written, zeroed and discarded after the call is not in it, to the byte of what is stored."""
    with attached(site, volume) as there:
        write(there, {0: 1, 3: 2, 5: 3, 15: 4})
        there.device.flush()
        before = stored_bytes(volume)
        snapshot = create_snapshot(site, volume.volume_id)
        write(there, {0: 5, 1: 6})
        there.device.discard(3 * BLOCK_SIZE, BLOCK_SIZE)
        there.device.write_zeroes(15 * BLOCK_SIZE, 4096)
        done = settled(site, snapshot)
        assert stored_bytes(volume) != before

    assert (snapshot.state, done.state) == (PENDING, COMPLETED)
    assert snapshot_bytes(site, done) == before
    assert [index for index, _ in manifest_of(site, done).blocks] == [0, 3, 5, 15]
    assert manifest_of(site, done).header.encryption is not None


def test_only_what_changed_is_read(site: Site, plain_volume: Volume, there: Attached) -> None:
    """Also what became zeros; and what changed while the snapshot before was made."""
    write(there, {index: index for index in range(8)})
    first = create_snapshot(site, plain_volume.volume_id)
    write(there, {2: 20})
    first = settled(site, first)
    write(there, {4: 40, 12: 120})
    there.device.discard(6 * BLOCK_SIZE, BLOCK_SIZE)
    second = take(site, plain_volume)

    assert (first.bytes_total, second.bytes_total) == (8 * BLOCK_SIZE, 4 * BLOCK_SIZE)
    assert second.parent == first.snapshot_id
    assert snapshot_bytes(site, second) == stored_bytes(plain_volume)
    assert snapshot_bytes(site, first)[2 * BLOCK_SIZE : 3 * BLOCK_SIZE] == block(2)
    assert unreleased_pins(site) == set()


@pytest.mark.parametrize("ending", ["detach", "die"])
def test_what_is_known_outlives_the_attachment(site: Site, plain_volume: Volume, ending: str) -> None:
    """Whether it ended in order or by a kill, only what changed since the last snapshot is read after it."""
    with attached(site, plain_volume) as there:
        write(there, {index: index for index in range(8)})
        take(site, plain_volume)
        write(there, {2: 20})
        there.note()
        getattr(there, ending)()
    with attached(site, plain_volume) as there:
        write(there, {5: 50})
        snapshot = take(site, plain_volume)

    assert snapshot.bytes_total == 2 * BLOCK_SIZE
    assert snapshot_bytes(site, snapshot) == stored_bytes(plain_volume)


@pytest.mark.parametrize("ending", ["detach", "die"])
def test_who_writes_past_the_daemon_is_noticed(site: Site, plain_volume: Volume, ending: str) -> None:
    """Then everything is read, although nothing of it went through a device."""
    with attached(site, plain_volume) as there:
        write(there, {index: index for index in range(8)})
        take(site, plain_volume)
        there.note()
        getattr(there, ending)()
    with Path(plain_volume.backing).open("r+b") as backing:
        backing.write(block(99))
    with attached(site, plain_volume):
        snapshot = take(site, plain_volume)

    assert snapshot.bytes_total == 8 * BLOCK_SIZE
    assert snapshot_bytes(site, snapshot) == stored_bytes(plain_volume)


def test_a_last_write_that_no_mark_has(site: Site, plain_volume: Volume) -> None:
    """A daemon that is killed within a second of a write leaves nobody who knows whose it was: everything is read."""
    with attached(site, plain_volume) as there:
        write(there, {index: index for index in range(8)})
        take(site, plain_volume)
        there.note()
        write(there, {1: 10})
        there.die()
    with attached(site, plain_volume):
        snapshot = take(site, plain_volume)

    assert snapshot.bytes_total == 8 * BLOCK_SIZE
    assert snapshot_bytes(site, snapshot) == stored_bytes(plain_volume)


def test_a_snapshot_of_the_detached_volume_is_no_base(site: Site, plain_volume: Volume) -> None:
    """What an attachment noted is since an older snapshot: on that the next one does not build."""
    with attached(site, plain_volume) as there:
        write(there, {0: 1, 1: 2})
        take(site, plain_volume)
        write(there, {0: 3})
    between = take(site, plain_volume)
    with attached(site, plain_volume) as there:
        write(there, {1: 4})
        last = take(site, plain_volume)

    assert last.parent == between.snapshot_id
    assert snapshot_bytes(site, last) == stored_bytes(plain_volume)


def test_a_deleted_base_is_none(site: Site, plain_volume: Volume, there: Attached) -> None:
    """The next snapshot is whole, and builds on nothing."""
    write(there, {0: 1, 1: 2})
    delete_snapshot(site, take(site, plain_volume).snapshot_id)
    snapshot = take(site, plain_volume)

    assert (snapshot.parent, snapshot.bytes_total) == (None, 2 * BLOCK_SIZE)
    assert snapshot_bytes(site, snapshot) == stored_bytes(plain_volume)


def test_another_process_goes_on(
    site: Site, plain_volume: Volume, there: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first one stored and let go before it died is in the snapshot, although nobody can read it again."""
    monkeypatch.setattr(block_storing, "_BATCH", 4)
    write(there, {index: index for index in range(12)})
    before = stored_bytes(plain_volume)
    snapshot = create_snapshot(site, plain_volume.volume_id)

    class KilledError(BaseException):
        pass

    def die(source: AttachedSource, blocks: dict[int, bytes | None]) -> None:
        done(source, blocks)
        if min(blocks) >= 4:
            raise KilledError

    done = AttachedSource.done
    with monkeypatch.context() as patch:
        patch.setattr(AttachedSource, "done", die)
        patch.setattr(storing, "_release", lambda *_: None)
        with pytest.raises(KilledError):
            settle_snapshot(site, snapshot.snapshot_id)
    write(there, {index: 100 + index for index in range(12)})
    read: list[int] = []
    reading = AttachedSource.reading

    def noted(source: AttachedSource, indexes: Sequence[int]) -> AbstractContextManager[list[NamedBlock]]:
        read.extend(indexes)
        return reading(source, indexes)

    monkeypatch.setattr(AttachedSource, "reading", noted)
    completed = settled(site, snapshot)

    assert sorted(read) == [8, 9, 10, 11]
    assert snapshot_bytes(site, completed) == before
    assert completed.bytes_done == completed.bytes_total == 12 * BLOCK_SIZE
    assert unreleased_pins(site) == set()
    assert list((Path(site.settings.paths.state) / "spool").iterdir()) == []


def test_with_the_daemon_the_instant_is_gone(site: Site, plain_volume: Volume) -> None:
    """The snapshot ends in an error, with its event, and stands in the way of nothing."""
    with attached(site, plain_volume) as there:
        write(there, {0: 1})
        snapshot = create_snapshot(site, plain_volume.volume_id)
        there.die()
    failed = settled(site, snapshot)

    assert failed.state is ERROR
    assert [event["detail"]["result"] for _, event in site.catalog.events()][-1] == "failed"
    assert unreleased_pins(site) == set()
    with attached(site, plain_volume):
        assert take(site, plain_volume).state is COMPLETED


def test_one_at_a_time(site: Site, plain_volume: Volume, there: Attached) -> None:
    """A second one is refused while the first is pending, and nothing becomes of the first."""
    write(there, {0: 1})
    snapshot = create_snapshot(site, plain_volume.volume_id)
    write(there, {0: 2})
    with pytest.raises(SnapshotLimit, match=snapshot.snapshot_id):
        create_snapshot(site, plain_volume.volume_id)

    assert snapshot_bytes(site, settled(site, snapshot))[:BLOCK_SIZE] == block(1)


def test_an_instant_that_nobody_knows_of(site: Site, plain_volume: Volume, there: Attached) -> None:
    """A command that died before the catalog had its snapshot is not in the way of the next one."""
    write(there, {0: 1})
    attached_source.begin(site, plain_volume.volume_id, "snap-0123456789abcdef0", since=None)
    write(there, {0: 2})

    assert snapshot_bytes(site, take(site, plain_volume))[:BLOCK_SIZE] == block(2)


def test_a_deletion_ends_it(site: Site, plain_volume: Volume, there: Attached) -> None:
    """The daemon keeps nothing for it any more, and the next snapshot can be made."""
    write(there, {0: 1})
    snapshot = create_snapshot(site, plain_volume.volume_id)
    delete_snapshot(site, snapshot.snapshot_id)

    assert attached_source.under_way(site.settings, plain_volume.volume_id) is None
    with pytest.raises(SnapshotNotFound):
        site.catalog.snapshots.get(snapshot.snapshot_id)
    assert take(site, plain_volume).state is COMPLETED


def test_growth_meanwhile(site: Site, plain_volume: Volume, there: Attached) -> None:
    """The snapshot has the size of its instant, the next one the new one, and builds on it."""
    write(there, {0: 1, 15: 2})
    before = stored_bytes(plain_volume)
    snapshot = create_snapshot(site, plain_volume.volume_id)
    grown = resize_volume(site, plain_volume.volume_id, 12 * MIB)
    there.device.pwrite(block(7), 11 * MIB)
    first = settled(site, snapshot)
    second = take(site, plain_volume)

    assert (first.volume_size, second.volume_size) == (8 * MIB, 12 * MIB)
    assert snapshot_bytes(site, first) == before
    assert second.bytes_total == BLOCK_SIZE
    assert snapshot_bytes(site, second) == stored_bytes(grown)


def test_growth_behind_a_short_last_block(site: Site) -> None:
    """The last block is longer then, though nobody wrote to it: the next snapshot is a whole one."""
    volume = create_volume(site, VolumeRequest(size=MIB + 4096, encrypted=False))
    with attached(site, volume) as there:
        there.device.pwrite(b"x" * 4096, MIB)
        take(site, volume)
        grown = resize_volume(site, volume.volume_id, 2 * MIB)
        snapshot = take(site, volume)

    assert snapshot_bytes(site, snapshot) == stored_bytes(grown)
    with opened(site) as store:
        [(_, name)] = manifest_of(site, snapshot).blocks
        assert len(store.get_block(name)) == BLOCK_SIZE


def test_a_volume_whose_snapshot_is_made_is_not_detached(site: Site, plain_volume: Volume, there: Attached) -> None:
    """`detach` names the snapshot; once that is complete nothing stands in the way."""
    write(there, {0: 1})
    snapshot = create_snapshot(site, plain_volume.volume_id)
    with pytest.raises(StateError, match=snapshot.snapshot_id):
        detach_volume(site, plain_volume.volume_id)

    assert site.catalog.volume(plain_volume.volume_id).state is VolumeState.IN_USE
    assert settled(site, snapshot).state is COMPLETED


def test_while_it_is_suspended(site: Site, plain_volume: Volume, there: Attached) -> None:
    """A volume whose requests wait has a state that can be kept, too."""
    write(there, {0: 1})
    there.device.suspend()
    snapshot = take(site, plain_volume)
    there.device.resume()

    assert snapshot_bytes(site, snapshot) == stored_bytes(plain_volume)


def test_a_read_only_attachment(site: Site, plain_volume: Volume) -> None:
    """Nobody writes to it, so its backing is read, and no change file is made."""
    with Path(plain_volume.backing).open("r+b") as backing:
        backing.write(block(1))
    with attached(site, plain_volume, read_only=True):
        snapshot = take(site, plain_volume)

    assert snapshot_bytes(site, snapshot) == stored_bytes(plain_volume)
    assert not (Path(site.settings.paths.state) / "changes").exists()


def test_a_spool_that_is_full(
    site: Site, plain_volume: Volume, there: Attached, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot fails and says why; no write does."""
    write(there, {index: index for index in range(8)})
    monkeypatch.setattr(attached_source, "_spool_directory", lambda _: small_disk)
    snapshot = create_snapshot(site, plain_volume.volume_id)
    write(there, {index: 50 + index for index in range(8)})
    failed = settled(site, snapshot)

    assert failed.state is ERROR
    assert "no room" in (failed.state_message or "")
    assert stored_bytes(plain_volume)[:BLOCK_SIZE] == block(50)
    assert take(site, plain_volume).state is COMPLETED


@pytest.mark.parametrize("force", [False, True])
def test_a_base_that_is_deleted_at_once(
    site: Site, plain_volume: Volume, there: Attached, monkeypatch: pytest.MonkeyPatch, *, force: bool
) -> None:
    """It goes when what builds on it is stored, whoever dies at that work meanwhile; nothing of either is lost."""
    write(there, {0: 1, 1: 2, 2: 3})
    base = take(site, plain_volume)
    write(there, {1: 3})
    snapshot = create_snapshot(site, plain_volume.volume_id)

    delete_snapshot(site, base.snapshot_id, force=force)
    assert f"goes when {snapshot.snapshot_id}, which builds on it, is stored" in site.notes[-1]
    settle_snapshots(site)
    assert site.catalog.snapshots.get(base.snapshot_id).deleting
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)
    done = settled(site, snapshot)
    assert [left.snapshot_id for left in site.catalog.snapshots.list()] == [snapshot.snapshot_id]
    storing_inline.age(site)
    sweep_store(site, "local")

    assert done.parent == base.snapshot_id
    assert snapshot_bytes(site, done) == stored_bytes(plain_volume)


def test_memory_that_could_be_cut_off_is_refused(site: Site, plain_volume: Volume, there: Attached) -> None:
    """A peer that shortened it would end the daemon; so it must be sealed, and long enough for a block."""
    write(there, {0: 1})
    snapshot_id = create_snapshot(site, plain_volume.volume_id).snapshot_id
    place = runtime.directory(site.settings, plain_volume.volume_id).control_socket
    plain, short = os.memfd_create("plain"), os.memfd_create("short", os.MFD_ALLOW_SEALING)
    os.ftruncate(plain, BLOCK_SIZE)
    fcntl.fcntl(short, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with DaemonClient(place) as daemon:
        for memory in (plain, short):
            with pytest.raises(InvalidParameter, match="sealed"):
                daemon.call("snapshot_memory", descriptor=memory, snapshot_id=snapshot_id)
            os.close(memory)
        with pytest.raises(InvalidParameter, match="no memory"):
            daemon.call("snapshot_read", snapshot_id=snapshot_id, slot=0, indexes=[0])
        with pytest.raises(StateError, match="does not know"):
            daemon.call("snapshot_status", snapshot_id="snap-0123456789abcdef0")


def test_an_instant_that_nobody_asks_for(
    site: Site, plain_volume: Volume, there: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an hour the daemon gives it up, and the snapshot ends in an error."""
    write(there, {0: 1})
    snapshot = create_snapshot(site, plain_volume.volume_id)
    monkeypatch.setattr(snapshotting, "_LOOK", 0.01)
    monkeypatch.setattr(snapshotting, "PATIENCE", 0.01)

    async def expire() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.service.snapshotting.expire)
            await trio.to_thread.run_sync(wait_until, is_given_up)
            nursery.cancel_scope.cancel()

    def is_given_up() -> bool:
        return attached_source.under_way(site.settings, plain_volume.volume_id) is None

    trio.run(expire)

    assert settled(site, snapshot).state is ERROR


def test_blocks_are_as_long_as_the_stores() -> None:
    """The daemon, which knows of no store, has the same block size."""
    assert snapshot_view.BLOCK_SIZE == BLOCK_SIZE

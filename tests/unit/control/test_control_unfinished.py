"""`unfinished`: commands that must wait for a snapshot, and what the next command does after a crash."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebscrypt.control import locks, storing
from ebscrypt.control.attach import prepare_attachment
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.errors import StateError, VolumeNotFound
from ebscrypt.model import MIB, Snapshot, SnapshotState, Volume, VolumeState, new_snapshot_id, utc_now
from tests.unit.control import storing_inline
from tests.unit.control.storing_inline import Started

DOINGS: dict[str, Callable[[Site, str], object]] = {
    "attached": prepare_attachment,
    "deleted": delete_volume,
    "resized": lambda site, volume_id: resize_volume(site, volume_id, 16 * MIB),
}


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


@pytest.mark.parametrize("wanted", DOINGS)
def test_a_volume_waits_for_its_snapshot(site: Site, volume: Volume, wanted: str) -> None:
    """While a process stores the blocks: the command is refused, says why, and changes nothing."""
    snapshot = create_snapshot(site, volume.volume_id)
    doing = DOINGS[wanted]

    refused = pytest.raises(StateError, match=f"cannot be {wanted}: {snapshot.snapshot_id}")
    with locks.held(site.settings, snapshot.snapshot_id, storing.COMMAND), refused:
        doing(site, volume.volume_id)

    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE
    assert site.catalog.snapshots.get(snapshot.snapshot_id).state is SnapshotState.PENDING


@pytest.mark.parametrize("wanted", DOINGS)
def test_a_volume_does_not_wait_for_the_dead(site: Site, volume: Volume, wanted: str) -> None:
    """Where nobody stores the blocks any more the command goes on, and the snapshot ends in error with its event."""
    snapshot = create_snapshot(site, volume.volume_id)
    doing = DOINGS[wanted]

    doing(site, volume.volume_id)

    failed = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert failed.state is SnapshotState.ERROR
    assert wanted in (failed.state_message or "")
    events = [event["detail"] for _, event in site.catalog.events()]
    assert ("createSnapshot", "failed") in [(detail["event"], detail["result"]) for detail in events]
    if wanted == "deleted":
        with pytest.raises(VolumeNotFound):
            site.catalog.volume(volume.volume_id)


def test_a_pending_snapshot_goes_on(site: Site, volume: Volume, started: Started) -> None:
    """The next command starts a process for it, unless one is at work."""
    snapshot = create_snapshot(site, volume.volume_id)
    started.snapshot_ids.clear()
    with locks.held(site.settings, snapshot.snapshot_id, storing.COMMAND):
        recover(site)
    assert started.snapshot_ids == []

    recover(site)

    assert started.snapshot_ids == [snapshot.snapshot_id]


def test_an_interrupted_copy_ends_in_error(site: Site, volume: Volume, started: Started) -> None:
    """Nobody can go on with it: its keys were in the command that died. Its event is copySnapshot."""
    source = storing_inline.take(site, volume)
    started.snapshot_ids.clear()
    copy = Snapshot(
        snapshot_id=new_snapshot_id(),
        volume_id=source.volume_id,
        state=SnapshotState.PENDING,
        volume_size=source.volume_size,
        sector_size=source.sector_size,
        encrypted=True,
        start_time=utc_now(),
        store="local",
        copied_from=source.snapshot_id,
    )
    site.catalog.snapshots.add(copy)
    with locks.held(site.settings, copy.snapshot_id, "snapshot copy"):
        recover(site)
    assert site.catalog.snapshots.get(copy.snapshot_id) == copy

    recover(site)

    assert site.catalog.snapshots.get(copy.snapshot_id).state is SnapshotState.ERROR
    assert started.snapshot_ids == []
    detail = site.catalog.events()[-1][1]["detail"]
    assert (detail["event"], detail["result"]) == ("copySnapshot", "failed")
    assert detail["source"] == f"arn:aws:ec2::eu-central-1:snapshot/{source.snapshot_id}"


def test_a_deletion_goes_on(site: Site, volume: Volume, started: Started) -> None:
    """Elsewhere: no command waits for the store of another's snapshot."""
    snapshot = storing_inline.take(site, volume)
    site.catalog.snapshots.begin_deletion(snapshot.snapshot_id)
    started.snapshot_ids.clear()

    recover(site)

    assert started.snapshot_ids == [snapshot.snapshot_id]
    storing.settle_snapshot(site, snapshot.snapshot_id)
    assert site.catalog.snapshots.list() == []


def test_what_cannot_be_started_now_becomes_a_note(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command on something else does not fail for it."""
    create_snapshot(site, volume.volume_id)

    def refuse(*_: object) -> None:
        raise StateError("no process")

    monkeypatch.setattr(storing, "start_storing", refuse)
    recover(site)

    assert any("no process" in note for note in site.notes)

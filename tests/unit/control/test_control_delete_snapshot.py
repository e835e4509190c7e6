"""`delete_snapshot` and `sweep_store`: a deletion harms no other snapshot, and frees what nobody needs."""

from __future__ import annotations

import shutil

import pytest

from ebscrypt.control import block_storing, locks, storing
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot, sweep_store
from ebscrypt.errors import InvalidParameter, SnapshotNotFound, StateError, StoreNotFound
from ebscrypt.model import MIB, SnapshotState, Volume, new_snapshot_id
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


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


def test_shared_blocks_stay_for_the_others(site: Site, volume: Volume) -> None:
    """What only the deleted one had is freed; the other is whole, also of another volume."""
    twin = create_volume(site, VolumeRequest(size=8 * MIB, encrypted=False))
    write_blocks(volume, {0: block(0), 1: block(1)})
    write_blocks(twin, {7: block(0)})
    first, second = storing_inline.take(site, volume), storing_inline.take(site, twin)

    assert delete_snapshot(site, first.snapshot_id).snapshot_id == first.snapshot_id
    storing_inline.age(site)
    swept = sweep_store(site, "local")

    assert (swept.freed, swept.needed) == (1, 1)
    assert snapshot_bytes(site, second) == stored_bytes(twin)
    assert site.catalog.snapshots.list() == [second]
    assert not locks.lock_path(site.settings, first.snapshot_id).exists()


def test_young_blocks_are_kept_for_a_while(site: Site, volume: Volume) -> None:
    """stores.grace spares writers that have put what they have not pinned yet."""
    write_blocks(volume, {0: block(0)})
    delete_snapshot(site, storing_inline.take(site, volume).snapshot_id)

    swept = sweep_store(site, "local")

    assert (swept.freed, swept.young) == (0, 1)


def test_a_pending_one_is_given_up(site: Site, volume: Volume) -> None:
    """Nobody goes on with it, and the volume is free."""
    snapshot = create_snapshot(site, volume.volume_id)

    delete_snapshot(site, snapshot.snapshot_id)
    storing.settle_snapshot(site, snapshot.snapshot_id)

    assert site.catalog.snapshots.list() == []
    assert not locks.lock_path(site.settings, snapshot.snapshot_id).exists()
    assert storing_inline.take(site, volume).state is SnapshotState.COMPLETED


def test_a_process_that_does_not_let_go_delays_it(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deletion is noted, so that process stops; `recover` finishes it then."""
    snapshot = storing_inline.take(site, volume)
    held = locks.held

    def hasty(*arguments: object, **options: object) -> object:
        return held(*arguments, **options | {"timeout": 0.05})  # type: ignore[arg-type]

    with held(site.settings, snapshot.snapshot_id, storing.COMMAND):
        monkeypatch.setattr(locks, "held", hasty)
        with pytest.raises(StateError, match=storing.COMMAND):
            delete_snapshot(site, snapshot.snapshot_id)
        recover(site)
        assert site.catalog.snapshots.get(snapshot.snapshot_id).deleting
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)
    recover(site)

    assert site.catalog.snapshots.list() == []


def test_a_store_that_is_away_delays_it(site: Site, volume: Volume) -> None:
    """It is told, nothing can be made from the snapshot any more, and a later try finishes the deletion."""
    snapshot = storing_inline.take(site, volume)
    place = site.settings.snapshots_dir
    place.rename(place.with_name("away"))

    with pytest.raises(StoreNotFound, match=snapshot.snapshot_id) as caught:
        delete_snapshot(site, snapshot.snapshot_id)
    assert "--force" in str(caught.value.hint)
    assert site.catalog.snapshots.get(snapshot.snapshot_id).deleting
    place.with_name("away").rename(place)
    delete_snapshot(site, snapshot.snapshot_id)
    assert site.catalog.snapshots.list() == []
    with opened(site) as store:
        assert list(store.list_manifests()) == []


def test_force_forgets_what_cannot_be_reached(site: Site, volume: Volume) -> None:
    """The store is gone for good: the record goes, and a note says what that means."""
    snapshot = storing_inline.take(site, volume)
    shutil.rmtree(site.settings.snapshots_dir)

    delete_snapshot(site, snapshot.snapshot_id, force=True)

    assert site.catalog.snapshots.list() == []
    assert any("left there" in note for note in site.notes)


def test_what_a_failed_snapshot_had_pinned_is_released(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its store did not answer at the time of the failure: nothing is kept for ever."""
    write_blocks(volume, {0: block(0)})
    snapshot = create_snapshot(site, volume.volume_id)
    with monkeypatch.context() as patch:
        patch.setattr(storing, "_release", lambda *_: None)
        patch.setattr(block_storing, "publish", lambda *_, **__: storing_inline.opened(site, "nowhere").__enter__())
        storing.settle_snapshot(site, snapshot.snapshot_id)
    assert site.catalog.snapshots.get(snapshot.snapshot_id).state is SnapshotState.ERROR
    assert len(unreleased_pins(site)) == 1

    delete_snapshot(site, snapshot.snapshot_id)
    storing_inline.age(site)

    assert sweep_store(site, "local").freed == 1
    assert block_files(site) == []


def test_what_is_no_snapshot_is_told(site: Site) -> None:
    """By the same errors as everywhere."""
    with pytest.raises(InvalidParameter):
        delete_snapshot(site, "snap-1")
    with pytest.raises(SnapshotNotFound):
        delete_snapshot(site, new_snapshot_id())

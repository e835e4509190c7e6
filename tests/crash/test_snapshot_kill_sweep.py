"""Everything about snapshots is killed at every point; what is left goes on, and nothing leaks."""

from __future__ import annotations

from functools import partial

import pytest

from ebscrypt import config
from ebscrypt.control import storing
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot, sweep_store
from ebscrypt.control.storing import settle_snapshot, wait_for_snapshot
from ebscrypt.control.verify_snapshots import verify_snapshot
from ebscrypt.model import SnapshotState, Volume
from ebscrypt.stores import publish
from tests.crash.sweep import Killer, newest
from tests.unit.control.storing_inline import (
    block,
    block_files,
    opened,
    snapshot_bytes,
    stored_bytes,
    take,
    unreleased_pins,
    write_blocks,
)


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process stores blocks itself, and takes a sweep that was killed for dead at once, not after 90 seconds."""
    monkeypatch.setattr(storing, "start_storing", settle_snapshot)
    monkeypatch.setattr(publish, "wait_for_sweeps", partial(publish.wait_for_sweeps, patience=0))


@pytest.fixture(autouse=True)
def no_grace(killer: Killer) -> None:
    """Blocks that nobody needs may be swept at once."""
    killer.environ["EBSCRYPT_STORES_GRACE"] = "0"
    killer.settings = config.load(killer.environ)


def made(killer: Killer, option: str) -> Volume:
    """A volume of 8 MiB with four blocks of data, two of them equal."""
    killer.do("create", "--size", "8M", option)
    with Site(killer.settings) as site:
        volume = site.catalog.volume(newest(site))
    write_blocks(volume, {0: block(0), 3: block(1), 4: block(1), 15: block(2)})
    return volume


def expect_whole(site: Site, volume: Volume) -> None:
    """One completed snapshot of the volume as it is, told by one event; nothing is pinned, nothing is damaged."""
    [snapshot] = site.catalog.snapshots.list(volume_id=volume.volume_id)
    assert snapshot.state is SnapshotState.COMPLETED, snapshot
    assert snapshot_bytes(site, snapshot) == stored_bytes(volume)
    assert unreleased_pins(site) == set()
    found = verify_snapshot(site)
    assert (found.damage, found.foreign) == ([], [])
    told = [event["detail"].get("snapshot_id", "").rpartition("/")[2] for _, event in site.catalog.events()]
    assert told.count(snapshot.snapshot_id) == 1


def expect_nothing_left(site: Site) -> None:
    """With the last snapshot the last block, pin and half-written file go."""
    for snapshot in site.catalog.snapshots.list():
        delete_snapshot(site, snapshot.snapshot_id)
    with opened(site) as store:
        # An hour passes: then a sweep takes a marker for that of one that was killed.
        for marker in store.list_markers():
            store.remove_marker(marker.path)
    sweep_store(site, "local")
    assert block_files(site) == []
    with opened(site) as store:
        assert [*store.list_manifests(), *store.list_pins(), *store.list_markers()] == []
    assert list((site.settings.snapshots_dir / "incoming").iterdir()) == []


@pytest.mark.slow
def test_settle_snapshot(killer: Killer) -> None:
    """Whoever goes on with it completes the snapshot, of the same instant."""
    volume = made(killer, "--encrypted")

    def prepare() -> list[str]:
        with Site(killer.settings) as site, pytest.MonkeyPatch.context() as patch:
            patch.setattr(storing, "start_storing", lambda *_: None)
            snapshot = create_snapshot(site, volume.volume_id)
        return ["snapshot", "settle", snapshot.snapshot_id]

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            expect_whole(site, volume)
            expect_nothing_left(site)

    assert killer.sweep(prepare, verify) >= 8


@pytest.mark.slow
def test_create(killer: Killer) -> None:
    """There is no snapshot, or one that is completed by a process that outlives the command."""
    volume = made(killer, "--encrypted")

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            for snapshot in site.catalog.snapshots.list():
                recover(site)
                wait_for_snapshot(site, snapshot.snapshot_id)
                expect_whole(site, volume)
            for snapshot in site.catalog.snapshots.list():
                delete_snapshot(site, snapshot.snapshot_id)

    assert killer.sweep(lambda: ["snapshot", "create", volume.volume_id], verify) >= 3


@pytest.mark.slow
def test_delete(killer: Killer) -> None:
    """The snapshot is there and whole, or it goes; the other one, which shares its blocks, never notices."""
    volume, other = made(killer, "--encrypted"), made(killer, "--no-encrypted")
    with Site(killer.settings) as site:
        take(site, other)

    def prepare() -> list[str]:
        with Site(killer.settings) as site:
            return ["snapshot", "delete", take(site, volume).snapshot_id]

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            for snapshot in site.catalog.snapshots.list(volume_id=volume.volume_id):
                assert not snapshot.deleting
                expect_whole(site, volume)
                delete_snapshot(site, snapshot.snapshot_id)
            expect_whole(site, other)
            sweep_store(site, "local")
            assert len(block_files(site)) == 3

    assert killer.sweep(prepare, verify) >= 4
    with Site(killer.settings) as site:
        expect_nothing_left(site)

"""Snapshots of an attached volume: command, storing process and daemon are killed at every point of the way.

The volume is written to again after each kill: so a block from another instant would be seen.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.control import faultpoints, runtime, storing
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot, sweep_store
from ebscrypt.control.storing import settle_snapshot, wait_for_snapshot
from ebscrypt.control.verify_snapshots import verify_snapshot
from ebscrypt.model import SnapshotState, Volume
from ebscrypt.stores import publish
from tests.crash.sweep import MIB, Killer, newest
from tests.unit.control.storing_inline import block_files, snapshot_bytes, stored_bytes, unreleased_pins

STORING = ("snapshot.secured", "snapshot.published", "snapshot.released", "snapshot.completed")


@pytest.fixture(autouse=True)
def inline(killer: Killer, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process stores blocks itself, takes no sweep for living, and sweeps blocks of any age."""
    monkeypatch.setattr(storing, "start_storing", settle_snapshot)
    monkeypatch.setattr(publish, "wait_for_sweeps", partial(publish.wait_for_sweeps, patience=0))
    killer.environ["EBSCRYPT_STORES_GRACE"] = "0"
    killer.settings = config.load(killer.environ)


def write(killer: Killer, volume_id: str, pattern: int) -> None:
    """Fill the first 3 MiB with a pattern, through the attached device."""
    with Site(killer.settings) as site:
        attachment = runtime.read_attachment(site.settings, volume_id)
    assert attachment is not None
    command = ["qemu-io", "-f", "raw", "-c", f"write -P {pattern} 0 3M", attachment.device]
    subprocess.run(command, check=True, capture_output=True)


def made(killer: Killer) -> Volume:
    """A plain volume of 8 MiB, attached, with 3 MiB of data."""
    killer.do("create", "--size", "8M", "--no-encrypted")
    with Site(killer.settings) as site:
        volume = site.catalog.volume(newest(site))
    killer.place.do("attach", volume.volume_id, "--export", "socket")
    write(killer, volume.volume_id, 1)
    return volume


def pattern_of(content: bytes) -> int:
    """The pattern that a state of the volume has, if it is one state."""
    assert content == bytes([content[0]]) * (3 * MIB) + bytes(5 * MIB), "blocks of more than one instant"
    return content[0]


def expect_nothing_left(site: Site) -> None:
    for snapshot in site.catalog.snapshots.list():
        delete_snapshot(site, snapshot.snapshot_id)
    sweep_store(site, "local")
    assert block_files(site) == []
    assert list((Path(site.settings.paths.state) / "spool").iterdir()) == []


@pytest.mark.slow
def test_settle_snapshot(killer: Killer) -> None:
    """The daemon has the instant still, and another process completes the snapshot of it."""
    volume, pattern = made(killer), 1

    def prepare() -> list[str]:
        with Site(killer.settings) as site, pytest.MonkeyPatch.context() as patch:
            patch.setattr(storing, "start_storing", lambda *_: None)
            return ["snapshot", "settle", create_snapshot(site, volume.volume_id).snapshot_id]

    def verify(_: str) -> None:
        nonlocal pattern
        write(killer, volume.volume_id, pattern + 1)
        with Site(killer.settings) as site:
            recover(site)
            [snapshot] = site.catalog.snapshots.list()
            assert snapshot.state is SnapshotState.COMPLETED, snapshot
            assert pattern_of(snapshot_bytes(site, snapshot)) == pattern
            assert unreleased_pins(site) == set()
            assert verify_snapshot(site).damage == []
            expect_nothing_left(site)
        pattern += 1

    assert killer.sweep(prepare, verify) >= 8


@pytest.mark.slow
def test_create(killer: Killer) -> None:
    """There is no snapshot, or one of the instant of the call; the next one can be made in any case."""
    volume, pattern = made(killer), 1

    def verify(_: str) -> None:
        nonlocal pattern
        write(killer, volume.volume_id, pattern + 1)
        with Site(killer.settings) as site:
            recover(site)
            for snapshot in site.catalog.snapshots.list():
                done = wait_for_snapshot(site, snapshot.snapshot_id)
                assert done.state is SnapshotState.COMPLETED, done
                assert pattern_of(snapshot_bytes(site, done)) == pattern
            after = create_snapshot(site, volume.volume_id)
            assert pattern_of(snapshot_bytes(site, site.catalog.snapshots.get(after.snapshot_id))) == pattern + 1
            expect_nothing_left(site)
        pattern += 1

    assert killer.sweep(lambda: ["snapshot", "create", volume.volume_id], verify) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("point", STORING)
def test_the_daemon(killer: Killer, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while blocks are stored: the snapshot is whole or in error, and the volume has all that was written."""
    volume = made(killer)
    reach = faultpoints.reach

    def kill_daemon(name: str) -> None:
        reach(name)
        if name == point and killer.place.daemons():
            write(killer, volume.volume_id, 2)
            killer.place.kill_daemon(volume.volume_id)

    with Site(killer.settings) as site:
        with monkeypatch.context() as patch:
            patch.setattr(faultpoints, "reach", kill_daemon)
            snapshot = site.catalog.snapshots.get(create_snapshot(site, volume.volume_id).snapshot_id)
        assert killer.place.daemons() == []
        if snapshot.state is SnapshotState.COMPLETED:
            assert pattern_of(snapshot_bytes(site, snapshot)) == 1
        assert (snapshot.state is SnapshotState.ERROR) == (point == "snapshot.secured" and snapshot.digest is None)
        assert unreleased_pins(site) == set()
        assert pattern_of(stored_bytes(volume)) == 2
    killer.place.do("attach", volume.volume_id)
    with Site(killer.settings) as site:
        after = site.catalog.snapshots.get(create_snapshot(site, volume.volume_id).snapshot_id)
        assert pattern_of(snapshot_bytes(site, after)) == 2
        expect_nothing_left(site)
    killer.place.do("detach", volume.volume_id)

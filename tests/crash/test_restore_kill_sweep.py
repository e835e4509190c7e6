"""A restore and a copy are killed at every point: whole, or nothing but a record; nothing leaks or stays pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebscrypt import config, luks2
from ebscrypt.control import storing
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot, sweep_store
from ebscrypt.control.storing import settle_snapshot
from ebscrypt.control.verify_snapshots import verify_snapshot
from ebscrypt.model import Snapshot, SnapshotState, Volume, VolumeState
from tests.crash.sweep import Killer, expect_sound, newest
from tests.unit.control.storing_inline import (
    block,
    block_files,
    snapshot_bytes,
    stored_bytes,
    take,
    unreleased_pins,
    write_blocks,
)


@pytest.fixture(autouse=True)
def source(killer: Killer, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """A snapshot of an encrypted volume with three blocks of data; blocks that nobody needs may be swept at once."""
    monkeypatch.setattr(storing, "start_storing", settle_snapshot)
    killer.environ["EBSCRYPT_STORES_GRACE"] = "0"
    killer.settings = config.load(killer.environ)
    killer.do("create", "--size", "8M")
    with Site(killer.settings) as site:
        volume = site.catalog.volume(newest(site))
        write_blocks(volume, {0: block(0), 3: block(1), 15: block(2)})
        return take(site, volume)


def expect_source_alone(site: Site, source: Snapshot) -> None:
    """The blocks are those of the snapshot, whole and undamaged; nobody relies on any."""
    assert unreleased_pins(site) == set()
    found = verify_snapshot(site)
    assert (found.damage, found.foreign) == ([], [])
    sweep_store(site, "local")
    assert len(block_files(site)) == 3
    assert snapshot_bytes(site, source) == stored_bytes(site.catalog.volume(source.volume_id))


def restored(site: Site, source: Snapshot) -> list[Volume]:
    return [volume for volume in site.catalog.volumes() if volume.volume_id != source.volume_id]


@pytest.mark.slow
def test_restore(killer: Killer, source: Snapshot) -> None:
    """The volume is available with all of its data and both events, or in `error` without a file."""

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            for volume in restored(site, source):
                told = [event["detail"] for _, event in site.catalog.events() if volume.volume_id in str(event)]
                if volume.state is VolumeState.AVAILABLE:
                    expect_sound(site, volume.volume_id)
                    assert stored_bytes(volume) == snapshot_bytes(site, source)
                    assert [detail["event"] for detail in told] == ["createVolume", "initializeVolume"]
                else:
                    assert volume.state is VolumeState.ERROR
                    assert [detail["result"] for detail in told] == ["failed"]
                    assert not Path(volume.backing).exists()
                delete_volume(site, volume.volume_id)
            expect_source_alone(site, source)

    assert killer.sweep(lambda: ["create", "--snapshot-id", source.snapshot_id], verify) >= 8


@pytest.mark.slow
def test_restore_to_a_file_of_the_users(killer: Killer, source: Snapshot, tmp_path: Path) -> None:
    """The same; if it is taken back no header is left in the file, so it is no volume."""
    mine = tmp_path / "mine"

    def prepare() -> list[str]:
        mine.unlink(missing_ok=True)
        mine.touch()
        return ["create", "--snapshot-id", source.snapshot_id, "--backing", str(mine), "--size", "8M"]

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            for volume in restored(site, source):
                if volume.state is VolumeState.AVAILABLE:
                    expect_sound(site, volume.volume_id)
                    assert stored_bytes(volume) == snapshot_bytes(site, source)
                else:
                    assert volume.state is VolumeState.ERROR
                    assert not any(mine.read_bytes()[: luks2.DATA_OFFSET])
                delete_volume(site, volume.volume_id)
            expect_source_alone(site, source)

    assert killer.sweep(prepare, verify) >= 8


@pytest.mark.slow
def test_copy(killer: Killer, source: Snapshot) -> None:
    """The copy is completed and whole, or in `error`; its event says which; the source never notices."""

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            for copy in site.catalog.snapshots.list():
                if copy.copied_from is None:
                    continue
                told = [event["detail"] for _, event in site.catalog.events() if copy.snapshot_id in str(event)]
                if copy.state is SnapshotState.COMPLETED:
                    assert snapshot_bytes(site, copy) == snapshot_bytes(site, source)
                    assert [detail["result"] for detail in told] == ["succeeded"]
                else:
                    assert copy.state is SnapshotState.ERROR
                    assert [detail["result"] for detail in told] == ["failed"]
                delete_snapshot(site, copy.snapshot_id)
            expect_source_alone(site, source)

    assert killer.sweep(lambda: ["snapshot", "copy", source.snapshot_id], verify) >= 8

"""A lazy creation and its filler are killed at every point: whole in the end, and nothing stays pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.control import filler, storing
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.fill_job import is_filling
from ebscrypt.control.filling import fill_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.storing import settle_snapshot
from ebscrypt.model import Snapshot, Volume, VolumeState
from tests.crash.sweep import Killer, expect_sound, newest
from tests.unit.control.storing_inline import block, snapshot_bytes, stored_bytes, take, unreleased_pins, write_blocks


@pytest.fixture(autouse=True)
def source(killer: Killer, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """A snapshot of an encrypted volume with three blocks of data; its volumes are filled by this process."""
    monkeypatch.setattr(storing, "start_storing", settle_snapshot)
    monkeypatch.setattr(filler, "start_filler", lambda _, __: None)
    killer.do("create", "--size", "8M")
    killer.settings = config.load(killer.environ)
    with Site(killer.settings) as site:
        volume = site.catalog.volume(newest(site))
        write_blocks(volume, {0: block(0), 3: block(1), 15: block(2)})
        return take(site, volume)


def expect_whole(site: Site, volume: Volume, source: Snapshot) -> None:
    """What the killed command left is finished by the next one: content, events, and nothing left over."""
    fill_volume(site, volume.volume_id)
    assert stored_bytes(volume) == snapshot_bytes(site, source)
    expect_sound(site, volume.volume_id)
    told = [event["detail"]["event"] for _, event in site.catalog.events() if volume.volume_id in str(event)]
    assert told == ["createVolume", "initializeVolume"]
    assert not is_filling(site.settings, volume.volume_id)


def others(site: Site, source: Snapshot) -> list[Volume]:
    return [volume for volume in site.catalog.volumes() if volume.volume_id != source.volume_id]


@pytest.mark.slow
def test_fill(killer: Killer, source: Snapshot) -> None:
    """The next filler goes on: every byte is the snapshot's, one event tells it."""

    def prepare() -> list[str]:
        with Site(killer.settings) as site:
            for volume in others(site, source):
                delete_volume(site, volume.volume_id)
        killer.do("create", "--snapshot-id", source.snapshot_id, "--lazy")
        with Site(killer.settings) as site:
            return ["fill", newest(site)]

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            expect_whole(site, site.catalog.volume(newest(site)), source)
            assert unreleased_pins(site) == set()

    assert killer.sweep(prepare, verify) >= 8


@pytest.mark.slow
def test_lazy_creation(killer: Killer, source: Snapshot) -> None:
    """The volume is available and can be filled, or in `error` without a file and without a pin."""

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            for volume in others(site, source):
                if volume.state is VolumeState.AVAILABLE:
                    expect_whole(site, volume, source)
                else:
                    assert volume.state is VolumeState.ERROR
                    assert not Path(volume.backing).exists()
                    assert not is_filling(site.settings, volume.volume_id)
                delete_volume(site, volume.volume_id)
            assert unreleased_pins(site) == set()

    assert killer.sweep(lambda: ["create", "--snapshot-id", source.snapshot_id, "--lazy"], verify) >= 8

"""Commands on detached volumes are killed at every point; the next command puts everything in order.

The sweep is automatic: the points are counted first, so a step that is added is tested by being there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt import config, luks2
from ebscrypt.control import faultpoints
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.errors import VolumeNotFound
from ebscrypt.model import VolumeState
from tests.crash.sweep import MIB, Killer, expect_sound, newest


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A block device of 32 MiB."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    ran = subprocess.run(["losetup", "-f", "--show", disk], capture_output=True, text=True, check=True)
    yield ran.stdout.strip()
    subprocess.run(["losetup", "-d", ran.stdout.strip()], check=True)


def expect_tidy(site: Site) -> None:
    """Files and rows agree: each volume has its files, and no file is without a volume."""
    wanted = set()
    for volume in site.catalog.volumes():
        assert volume.state in (VolumeState.AVAILABLE, VolumeState.IN_USE, VolumeState.ERROR)
        if volume.state is not VolumeState.ERROR:
            wanted.add(Path(volume.backing).name)
            wanted |= set() if volume.encrypted else {f"{volume.volume_id}.json"}
    directory = site.settings.volumes_dir
    there = {path.name for path in directory.iterdir()} if directory.exists() else set()
    assert there == {name for name in wanted if (directory / name).exists()}
    assert all(Path(volume.backing).exists() for volume in site.catalog.volumes() if volume.state != VolumeState.ERROR)
    assert site.catalog.resizes() == {}


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--encrypted", "--no-encrypted"])
def test_create(killer: Killer, option: str) -> None:
    """A volume is there and sound, or it is a record of an interruption; no file is left over."""

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            expect_tidy(site)
            for volume in site.catalog.volumes():
                if volume.state is VolumeState.AVAILABLE:
                    expect_sound(site, volume.volume_id)
                else:
                    assert volume.state_message == "the creation was interrupted"
            events = [event["detail"]["result"] for _, event in site.catalog.events()]
            assert len(events) == len(site.catalog.volumes())

    assert killer.sweep(lambda: ["create", "--size", "8M", option], verify) >= 8


@pytest.mark.slow
def test_create_on_a_device(killer: Killer, device: str) -> None:
    """The device is a sound volume, or as empty as before: it can be tried again at once, without force."""

    def prepare() -> list[str]:
        return ["create", "--backing", device]

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            made = site.catalog.volumes(VolumeState.AVAILABLE)
            if not made:
                killer.do(*prepare())
                made = site.catalog.volumes(VolumeState.AVAILABLE)
            [volume] = made
            expect_sound(site, volume.volume_id)
        killer.do("delete", volume.volume_id)
        with Path(device).open("rb") as disk:
            assert not any(disk.read(luks2.DATA_OFFSET))

    assert killer.sweep(prepare, verify) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--encrypted", "--no-encrypted"])
def test_delete(killer: Killer, option: str) -> None:
    """The volume is gone with all its files, or it is there and sound."""
    chosen = ""

    def prepare() -> list[str]:
        nonlocal chosen
        killer.do("create", "--size", "8M", option)
        with Site(killer.settings) as site:
            chosen = newest(site)
        return ["delete", chosen]

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            expect_tidy(site)
            try:
                volume = site.catalog.volume(chosen)
            except VolumeNotFound:
                assert site.catalog.events()[-1][1]["detail"]["event"] == "deleteVolume"
                return
            assert volume.state is VolumeState.AVAILABLE
            expect_sound(site, chosen)

    assert killer.sweep(prepare, verify) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--encrypted", "--no-encrypted"])
def test_resize(killer: Killer, option: str) -> None:
    """Backing, header and catalog have the old size or the new one, all the same."""
    chosen = ""

    def prepare() -> list[str]:
        nonlocal chosen
        killer.do("create", "--size", "8M", option)
        with Site(killer.settings) as site:
            chosen = newest(site)
        return ["resize", chosen, "--size", "16M"]

    def verify(name: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            expect_tidy(site)
            expect_sound(site, chosen)
            assert site.catalog.volume(chosen).size in (8 * MIB, 16 * MIB)
            if name.startswith("resize."):
                assert site.catalog.volume(chosen).size == 16 * MIB

    assert killer.sweep(prepare, verify) >= 5


@pytest.mark.slow
def test_check_with_repair(killer: Killer) -> None:
    """At every point there is a sound copy, and a second try mends the other."""
    chosen = ""

    def prepare() -> list[str]:
        nonlocal chosen
        killer.do("create", "--size", "8M")
        with Site(killer.settings) as site:
            chosen = newest(site)
            backing = site.catalog.volume(chosen).backing
            site.catalog.correct(chosen, size=4 * MIB)
        with Path(backing).open("r+b") as file:
            file.seek(5000)
            file.write(b"????")
        return ["check", chosen, "--repair"]

    def verify(_: str) -> None:
        with Site(killer.settings) as site:
            assert {Result.BAD} & {finding.result for finding in check_volume(site, chosen)} == set()
            check_volume(site, chosen, repair=True)
            expect_sound(site, chosen)

    assert killer.sweep(prepare, verify) >= 3


@pytest.mark.slow
def test_rebuild_catalog(killer: Killer) -> None:
    """Run again, it enters the rest."""
    for option in ("--encrypted", "--no-encrypted"):
        killer.do("create", "--size", "8M", option)
    with Site(killer.settings) as site:
        made = {volume.volume_id for volume in site.catalog.volumes()}

    def prepare() -> list[str]:
        for path in killer.settings.catalog_path.parent.glob("catalog.db*"):
            path.unlink()
        killer.settings.catalog_path.write_bytes(b"damaged" * 1000)
        return ["rebuild-catalog"]

    def verify(_: str) -> None:
        killer.do("rebuild-catalog")
        with Site(killer.settings) as site:
            assert {volume.volume_id for volume in site.catalog.volumes()} == made
            for volume_id in made:
                expect_sound(site, volume_id)

    assert killer.sweep(prepare, verify) >= 3


def test_production_has_no_switch_for_it() -> None:
    """The hook is an empty function: neither a setting nor a variable nor an argument can reach it."""
    assert "faultpoint" not in (Path(config.__file__).read_text())
    assert faultpoints.reach.__code__.co_names == ()
    assert faultpoints.reach.__code__.co_consts[1:] in ((), (None,))

"""Backings that cannot be served, and places that cannot be written: each a clear error, and nothing changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ebscrypt import luks2
from tests.behaviour.volume.place import Place
from tests.behaviour.volume.refusal import attach_is_refused, damage

MIB = 1 << 20


@pytest.mark.parametrize("offset", [0, luks2.COPY_SIZE])
def test_one_damaged_header_copy_is_mended_and_said(place: Place, volume_id: str, offset: int) -> None:
    """The volume is served, and both copies are sound afterwards."""
    damage(place.show(volume_id)["Backing"], offset)

    ran = place.run("attach", volume_id, "--export", "socket")

    assert ran.status == 0
    assert "written again from the good copy" in ran.err
    place.do("detach", volume_id)
    place.do("check", volume_id)


def test_two_damaged_header_copies_are_refused(place: Place, volume_id: str) -> None:
    """Corrupted or tampered with; not a byte is written."""
    damage(place.show(volume_id)["Backing"], 0, luks2.COPY_SIZE)

    assert "corrupted or tampered with" in attach_is_refused(place, volume_id)


def test_the_header_of_another_volume(place: Place, volume_id: str) -> None:
    """Backing files that were swapped are noticed."""
    other = place.do("create", "--size", "64M")
    Path(place.show(volume_id)["Backing"]).write_bytes(Path(place.show(other)["Backing"]).read_bytes())

    assert other in attach_is_refused(place, volume_id)


def test_a_backing_that_is_gone(place: Place, volume_id: str) -> None:
    """Named, with what may have happened."""
    Path(place.show(volume_id)["Backing"]).unlink()

    said = place.refused("attach", volume_id)

    assert "is not there" in said
    assert place.show(volume_id)["State"] == "available"


def test_a_backing_that_was_cut_off(place: Place, volume_id: str) -> None:
    """Never served half."""
    os.truncate(place.show(volume_id)["Backing"], luks2.DATA_OFFSET + MIB)

    assert "cut off" in attach_is_refused(place, volume_id)


def test_a_full_disk_while_creating(place: Place) -> None:
    """The volumes' file system is full: said as that; the record stays, no file does, and there is room again."""
    small = place.directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], check=True)
    try:
        environ = {"EBSCRYPT_STATE_DIR": str(small / "s")}
        said = place.refused("create", "--size", "8M", "--preallocate", **environ)
        assert "No space left on device" in said
        assert "are free in" in said
        [failed] = place.run("ls", "--output", "json", environ=environ).json["Volumes"]
        assert failed["State"] == "error"
        assert "No space left" in failed["StateMessage"]
        assert list((small / "s" / "volumes").iterdir()) == []
        place.do("delete", failed["VolumeId"], **environ)
        assert place.run("ls", "--output", "json", environ=environ).json == {"Volumes": []}
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_read_only_file_system(place: Place, volume_id: str) -> None:
    """The volumes cannot be written: said, with the file's name, and the volume is as it was."""
    subprocess.run(["mount", "--bind", place.volumes_dir, place.volumes_dir], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place.volumes_dir], check=True)
        assert "Read-only file system" in place.refused("create", "--size", "8M")
        said = attach_is_refused(place, volume_id)
        assert "Read-only file system" in said
        assert volume_id in said
    finally:
        subprocess.run(["umount", place.volumes_dir], check=True)
    place.do("attach", volume_id, "--export", "socket")


def test_an_export_that_this_machine_does_not_have(place: Place, volume_id: str) -> None:
    """Nbd without the kernel's nbd: the error says what there is instead. (Where there is nbd, it works.)"""
    ran = place.run("attach", volume_id, "--export", "nbd")

    if ran.status == 0:
        assert ran.out.startswith("/dev/nbd")
    else:
        assert "nbd" in ran.err
        assert "hint: " in ran.err
        assert place.show(volume_id)["State"] == "available"


def test_a_runtime_directory_with_too_long_a_name(place: Place, volume_id: str) -> None:
    """Unix sockets have short names: said before anything starts, with the setting that helps."""
    ran = place.run("attach", volume_id, environ={"EBSCRYPT_RUNTIME_DIR": str(place.directory / ("x" * 100))})

    assert ran.status == 2
    assert "EBSCRYPT_RUNTIME_DIR" in ran.err
    assert place.show(volume_id)["State"] == "available"

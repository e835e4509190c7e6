"""`delete_volume`: the data is gone, the user's things stay, and what cannot be done changes nothing."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.control import locks, remains
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.sidecar import sidecar_path
from ebscrypt.control.site import Site
from ebscrypt.errors import BackingError, BackingInUse, InvalidParameter, VolumeInUse, VolumeNotFound
from ebscrypt.model import MIB, Volume, VolumeState


def test_nothing_of_an_owned_volume_is_left(site: Site, volume: Volume) -> None:
    """No file, no row, no lock file; the event says deleted."""
    delete_volume(site, volume.volume_id)

    assert list(site.settings.volumes_dir.iterdir()) == []
    assert site.catalog.volumes() == []
    assert not locks.lock_path(site.settings, volume.volume_id).exists()
    assert [event["detail"]["event"] for _, event in site.catalog.events()] == ["createVolume", "deleteVolume"]
    assert site.catalog.events()[-1][1]["detail"]["result"] == "deleted"


def test_the_wrapped_key_is_overwritten_before_the_file_goes(site: Site, volume: Volume) -> None:
    """Who holds the file open, or reads the free space later, does not find the header."""
    descriptor = os.open(volume.backing, os.O_RDONLY)
    try:
        # The descriptor is our own, so it is not in the way as another program's would be.
        delete_volume(site, volume.volume_id)
        assert not any(os.pread(descriptor, luks2.DATA_OFFSET, 0))
    finally:
        os.close(descriptor)


def test_a_plain_volume_goes_with_its_sidecar(site: Site, plain_volume: Volume) -> None:
    """Both files are ours."""
    delete_volume(site, plain_volume.volume_id)

    assert not Path(plain_volume.backing).exists()
    assert not sidecar_path(site.settings, plain_volume.volume_id).exists()


def test_a_device_stays_without_its_header(site: Site, make_loop: Callable[[int], str]) -> None:
    """The device is empty where the header was, so it can be used again at once."""
    device = make_loop(luks2.DATA_OFFSET + 8 * MIB)
    volume = create_volume(site, VolumeRequest(backing=device))

    delete_volume(site, volume.volume_id)

    with Path(device).open("rb") as disk:
        assert not any(disk.read(luks2.DATA_OFFSET))
    create_volume(site, VolumeRequest(backing=device))


def test_a_header_that_is_damaged_is_still_ours(site: Site, tmp_path: Path) -> None:
    """Both copies unreadable but labelled with the volume: the wrapped key may be in there, so it goes."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB, backing=str(tmp_path / "mine.img")))
    with Path(volume.backing).open("r+b") as file:
        for offset in (4096, luks2.COPY_SIZE + 4096):
            file.seek(offset)
            file.write(b"?")

    delete_volume(site, volume.volume_id)

    assert not any(Path(volume.backing).read_bytes())


def test_a_device_that_went_to_somebody_else_is_not_touched(site: Site, make_loop: Callable[[int], str]) -> None:
    """A file system where our header was: the record goes, the file system stays, and a note says so."""
    device = make_loop(luks2.DATA_OFFSET + 64 * MIB)
    volume = create_volume(site, VolumeRequest(backing=device))
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)

    delete_volume(site, volume.volume_id)

    assert subprocess.run(["e2fsck", "-fn", device], check=False, capture_output=True).returncode == 0
    assert any("left as it is" in note for note in site.notes)
    assert site.catalog.volumes() == []


def test_a_backing_that_is_gone_is_no_hindrance(site: Site, volume: Volume, tmp_path: Path) -> None:
    """The record can always be got rid of."""
    other = create_volume(site, VolumeRequest(size=8 * MIB, backing=str(tmp_path / "mine.img")))
    Path(volume.backing).unlink()
    Path(other.backing).unlink()

    delete_volume(site, volume.volume_id)
    delete_volume(site, other.volume_id)

    assert site.catalog.volumes() == []
    assert any("nothing to erase" in note for note in site.notes)


def test_an_attached_volume_is_refused(site: Site, volume: Volume) -> None:
    """Detach it first; nothing has changed."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    with pytest.raises(VolumeInUse, match="is attached"):
        delete_volume(site, volume.volume_id)

    assert Path(volume.backing).exists()
    assert site.catalog.volume(volume.volume_id).state is VolumeState.IN_USE


def test_a_locked_backing_is_refused(site: Site, volume: Volume) -> None:
    """cryptsetup, or a daemon that the catalog does not know of, has it: not deleted under their hands."""
    with Path(volume.backing).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BackingInUse):
            delete_volume(site, volume.volume_id)

    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE


def test_a_backing_that_another_program_has_open_is_refused(site: Site, volume: Volume) -> None:
    """The program is named."""
    with Path(volume.backing).open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as program:
        try:
            with pytest.raises(BackingInUse, match=rf"open in sleep \(process {program.pid}\)"):
                delete_volume(site, volume.volume_id)
        finally:
            program.kill()


def test_unknown_and_impossible_ids_are_told_apart(site: Site) -> None:
    """One is not there, the other never can be."""
    with pytest.raises(VolumeNotFound):
        delete_volume(site, "vol-00000000000000000")
    with pytest.raises(InvalidParameter):
        delete_volume(site, "vol-zzz")


def test_a_deletion_that_fails_half_way_is_finished_later(
    site: Site, make_loop: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device gives errors: the volume stays in `deleting`, and the next command that can finishes it."""
    volume = create_volume(site, VolumeRequest(backing=make_loop(luks2.DATA_OFFSET + 8 * MIB)))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(remains, "overwrite", fail)
        with pytest.raises(BackingError, match="Input/output error"):
            delete_volume(site, volume.volume_id)
        assert site.catalog.volume(volume.volume_id).state is VolumeState.DELETING
        recover(site)
        assert any("could not be put in order" in note for note in site.notes)

    recover(site)

    assert site.catalog.volumes() == []

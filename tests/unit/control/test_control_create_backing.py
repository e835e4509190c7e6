"""`create_volume` on files and block devices that the user names: taken when empty, never damaged."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.control import faultpoints
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    BackingError,
    BackingInUse,
    BackingNotEmpty,
    InvalidParameter,
    KmsKeyDisabled,
)
from ebscrypt.model import MIB, BackingKind, VolumeState
from tests.unit.control.disks import disabled_key, header_of, partition_table, start_of

HEADER = luks2.DATA_OFFSET


def test_a_new_file_is_made_where_it_was_named(site: Site, tmp_path: Path) -> None:
    """It is the user's: never removed by us, though we made it."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB, backing=str(tmp_path / "mine.img")))

    assert volume.backing == str(tmp_path / "mine.img")
    assert not volume.backing_owned
    assert Path(volume.backing).stat().st_size == HEADER + 8 * MIB


def test_an_empty_file_is_extended(site: Site, tmp_path: Path) -> None:
    """An existing file of no or only zero bytes becomes as long as it must be."""
    path = tmp_path / "mine.img"
    path.write_bytes(bytes(5 * MIB))

    create_volume(site, VolumeRequest(size=8 * MIB, backing=str(path)))

    assert path.stat().st_size == HEADER + 8 * MIB


def test_all_of_an_existing_file_can_be_taken(site: Site, tmp_path: Path) -> None:
    """Without a size the volume has what the file has, less the header."""
    path = tmp_path / "mine.img"
    with path.open("wb") as file:
        file.truncate(HEADER + 8 * MIB + 100)

    assert create_volume(site, VolumeRequest(backing=str(path))).size == 8 * MIB


def test_a_new_file_needs_a_size(site: Site, tmp_path: Path) -> None:
    """Nothing to take the size from."""
    with pytest.raises(InvalidParameter, match="needs a size"):
        create_volume(site, VolumeRequest(backing=str(tmp_path / "new.img")))


def test_all_of_a_block_device_is_taken(site: Site, make_loop: Callable[[int], str]) -> None:
    """The size is the device's, less the header; it is no file of ours."""
    device = make_loop(HEADER + 8 * MIB)

    volume = create_volume(site, VolumeRequest(backing=device))

    assert (volume.size, volume.backing_kind, volume.backing_owned) == (8 * MIB, BackingKind.BLOCK, False)
    assert volume.backing == device
    assert header_of(device).token().volume_id == volume.volume_id


@pytest.mark.parametrize(("length", "size"), [(HEADER, None), (HEADER + 8 * MIB, 16 * MIB)])
def test_a_block_device_that_is_too_small_is_refused(
    site: Site, make_loop: Callable[[int], str], length: int, size: int | None
) -> None:
    """A volume never ends behind its device."""
    with pytest.raises(BackingError, match="room"):
        create_volume(site, VolumeRequest(backing=make_loop(length), size=size))

    assert site.catalog.volumes() == []


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["mkfs.ext4", "-q"], "ext4"),
        (["mkfs.xfs", "-q"], "xfs"),
        (["mkswap"], "swap"),
        (["cryptsetup", "luksFormat", "--batch-mode", "--pbkdf-force-iterations=1000", "--pbkdf=pbkdf2"], "LUKS"),
    ],
)
def test_a_device_with_something_on_it_is_refused(
    site: Site, make_loop: Callable[[int], str], command: list[str], found: str
) -> None:
    """File systems, swap, LUKS and partition tables are recognised and left alone."""
    device = make_loop(400 * MIB)
    subprocess.run([*command, device], input="" if "sfdisk" in command else "secret", text=True, check=True, timeout=60)
    before = start_of(device, 4 * MIB)

    with pytest.raises(BackingNotEmpty, match=found):
        create_volume(site, VolumeRequest(backing=device))

    assert start_of(device, 4 * MIB) == before
    assert site.catalog.volumes() == []


@pytest.mark.parametrize("kind", ["dos", "gpt"])
def test_a_partitioned_device_is_refused(site: Site, make_loop: Callable[[int], str], kind: str) -> None:
    """An empty partition table is a partition table."""
    device = make_loop(64 * MIB)
    with Path(device).open("r+b") as disk:
        disk.write(partition_table(kind, 64 * MIB // 512))

    with pytest.raises(BackingNotEmpty, match=f"a {kind} partition table"):
        create_volume(site, VolumeRequest(backing=device))


@pytest.mark.parametrize("offset", [0, 700_000, -1])
def test_bytes_of_no_known_kind_are_not_overwritten(site: Site, tmp_path: Path, offset: int) -> None:
    """One byte in the first or the last MiB is enough to refuse."""
    path = tmp_path / "mine.img"
    with path.open("wb") as file:
        file.truncate(HEADER + 8 * MIB)
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(b"x")
    before = path.read_bytes()

    with pytest.raises(BackingNotEmpty, match="bytes in its"):
        create_volume(site, VolumeRequest(backing=str(path)))

    assert path.read_bytes() == before


def test_force_takes_a_file_and_empties_it(site: Site, tmp_path: Path) -> None:
    """Old bytes would decrypt to noise: the new volume starts with holes."""
    path = tmp_path / "mine.img"
    path.write_bytes(b"x" * (HEADER + 8 * MIB))

    volume = create_volume(site, VolumeRequest(backing=str(path), force=True))

    assert volume.size == 8 * MIB
    assert not any(path.read_bytes()[HEADER:])


def test_force_keeps_the_bytes_of_a_plain_volume(site: Site, tmp_path: Path) -> None:
    """A raw disk that exists already can be taken in as a plain volume."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 8 * MIB)

    create_volume(site, VolumeRequest(backing=str(path), encrypted=False, force=True))

    assert path.read_bytes() == b"x" * 8 * MIB


def test_a_mounted_device_is_refused_even_by_force(site: Site, make_loop: Callable[[int], str], tmp_path: Path) -> None:
    """The message says where it is mounted."""
    device, mountpoint = make_loop(64 * MIB), tmp_path / "mnt"
    mountpoint.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, mountpoint], check=True)
    try:
        with pytest.raises(BackingInUse, match=f"mounted on {mountpoint}"):
            create_volume(site, VolumeRequest(backing=device, force=True))
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_a_file_behind_a_loop_device_is_refused(site: Site, make_loop: Callable[[int], str]) -> None:
    """Two ways to the same bytes would destroy both users' data."""
    device = make_loop(64 * MIB)
    file = Path(f"/sys/block/{Path(device).name}/loop/backing_file").read_text().strip()

    with pytest.raises(BackingInUse, match=device):
        create_volume(site, VolumeRequest(backing=file, force=True))


def test_the_backing_of_another_volume_is_refused(site: Site, tmp_path: Path) -> None:
    """By any name, even by force: a link leads to the same file."""
    path, link = tmp_path / "mine.img", tmp_path / "link.img"
    owner = create_volume(site, VolumeRequest(size=8 * MIB, backing=str(path)))
    os.link(path, link)

    with pytest.raises(BackingInUse, match=owner.volume_id):
        create_volume(site, VolumeRequest(backing=str(link), force=True))


def test_a_volume_that_the_catalog_lost_is_recognised(site: Site, tmp_path: Path) -> None:
    """A header of ours is not nothing: the message names the volume."""
    path = tmp_path / "mine.img"
    lost = create_volume(site, VolumeRequest(size=8 * MIB, backing=str(path)))
    site.catalog.change_state(lost.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)
    site.catalog.remove(lost.volume_id)

    with pytest.raises(BackingNotEmpty, match=lost.volume_id):
        create_volume(site, VolumeRequest(backing=str(path)))


def test_a_failure_gives_the_file_back_as_it_was(site: Site, tmp_path: Path) -> None:
    """Length and bytes: the user's file is what it was before."""
    path = tmp_path / "mine.img"
    path.write_bytes(bytes(3 * MIB))

    with pytest.raises(KmsKeyDisabled):
        create_volume(site, VolumeRequest(size=8 * MIB, backing=str(path), kms_key_id=disabled_key(site)))

    assert path.read_bytes() == bytes(3 * MIB)
    create_volume(site, VolumeRequest(size=8 * MIB, backing=str(path)))


def test_a_failure_after_the_header_takes_it_off_the_device(
    site: Site, make_loop: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device whose volume never became available is empty again, and can be tried at once."""
    device = make_loop(HEADER + 8 * MIB)

    def strike(name: str) -> None:
        if name == "create.described":
            raise BackingError("the disk has gone mad")

    monkeypatch.setattr(faultpoints, "reach", strike)
    with pytest.raises(BackingError, match="gone mad"):
        create_volume(site, VolumeRequest(backing=device))
    monkeypatch.undo()

    assert not any(start_of(device, HEADER))
    create_volume(site, VolumeRequest(backing=device))


def test_a_file_that_comes_in_between_is_not_removed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes the named file after we looked: creation fails, and the file stays."""
    path = tmp_path / "mine.img"

    def strike(name: str) -> None:
        if name == "create.entered":
            path.write_text("theirs")

    monkeypatch.setattr(faultpoints, "reach", strike)

    with pytest.raises(BackingError, match="File exists"):
        create_volume(site, VolumeRequest(size=8 * MIB, backing=str(path)))

    assert path.read_text() == "theirs"

"""The device stack on backings other than an ordinary file: block devices, and a disk that is full."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt.core import Device, SecretMemory

SIZE = 8 << 20
OFFSET = 1 << 20


@pytest.fixture
def key() -> Iterator[SecretMemory]:
    memory = SecretMemory()
    memory.fill(os.urandom(64))
    yield memory
    memory.wipe()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, OFFSET + SIZE)
    return path


@pytest.fixture(params=[512, 4096], ids=["logical blocks of 512", "logical blocks of 4096"])
def block_device(request: pytest.FixtureRequest, file: Path) -> Iterator[Path]:
    """A loop device over the file."""
    command = ["losetup", "--find", "--show", "--sector-size", str(request.param), str(file)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield Path(name)
    subprocess.run(["losetup", "--detach", name], check=True)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("direct", [0, os.O_DIRECT], ids=["page cache", "O_DIRECT"])
@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_block_device(file: Path, block_device: Path, key: SecretMemory, direct: int, *, encrypted: bool) -> None:
    """Requests of any alignment work; discard gives space back; all of it is data; the device's end is the end."""
    fd = os.open(block_device, os.O_RDWR | os.O_CLOEXEC | direct)
    arguments = {"data_offset": OFFSET, "key": key if encrypted else None}
    try:
        with pytest.raises(OSError, match="room for") as caught:
            Device(fd, size=SIZE + 4096, **arguments)  # type: ignore[arg-type]
        assert caught.value.errno == errno.EINVAL
        device = Device(fd, size=SIZE, **arguments)  # type: ignore[arg-type]
        model = bytearray(SIZE)
        for offset, length in ((0, 1 << 20), (1, 5000), (SIZE - 3, 3), (3 << 20, 300_001)):
            data = os.urandom(length)
            device.pwrite(data, offset, fua=True)
            model[offset : offset + length] = data
        assert device.pread(SIZE, 0) == model
        device.flush()
        full = allocated(file)
        device.discard(0, 1 << 20)
        device.write_zeroes((3 << 20) + 5, 200_000)
        device.write_zeroes(2 << 20, 4096, no_hole=True)
        model[: 1 << 20] = bytes(1 << 20)
        model[(3 << 20) + 5 : (3 << 20) + 200_005] = bytes(200_000)
        assert device.pread(SIZE, 0) == model
        device.flush()
        assert allocated(file) < full - (1 << 20)
        assert [(extent.offset, extent.length, extent.hole) for extent in device.extents(7, 8192)] == [(7, 8192, False)]
        device.close()
    finally:
        os.close(fd)
    assert file.read_bytes()[:OFFSET] == bytes(OFFSET)


def test_full_disk_and_room_again(tmp_path: Path, key: SecretMemory) -> None:
    """On a full disk a write fails with ENOSPC and nothing else suffers; with room again the same write succeeds."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", mount], check=True)
    try:
        ballast, path = mount / "ballast", mount / "backing"
        ballast.write_bytes(bytes(512 * 1024))
        path.touch()
        os.truncate(path, SIZE)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        device = Device(fd, size=SIZE, key=key)
        os.close(fd)
        kept = os.urandom(64 * 1024)
        device.pwrite(kept, 0)
        with pytest.raises(OSError, match="No space left") as caught:
            device.pwrite(bytes(1 << 20), 1 << 20)
        assert caught.value.errno == errno.ENOSPC
        assert device.pread(len(kept), 0) == kept
        device.flush()
        ballast.unlink()
        device.discard(1 << 20, 1 << 20)
        device.pwrite(kept, 4 << 20)
        assert device.pread(len(kept), 4 << 20) == kept
        device.close()
    finally:
        subprocess.run(["umount", mount], check=True)

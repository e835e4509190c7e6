"""Full disks, long requests, second closes and forks: what must not spoil more than itself."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebscrypt.core import Device, SecretMemory

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def sparse(path: Path, size: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.ftruncate(fd, size)
    return fd


def test_a_durable_write_without_room_concerns_itself_alone(small_disk: Path, key: SecretMemory) -> None:
    """ENOSPC for a FUA write is no loss: flushes go on, and so do FUA writes once there is room again."""
    fd = sparse(small_disk / "backing", 4 * MIB)
    device = Device(fd, size=4 * MIB, key=key)
    os.close(fd)
    device.pwrite(b"x" * MIB, 0)
    with pytest.raises(OSError, match="space") as caught:
        device.pwrite(b"y" * 4096, 2 * MIB, fua=True)
    assert caught.value.errno == errno.ENOSPC

    device.flush()
    device.discard(0, MIB // 2)
    device.pwrite(b"y" * 4096, 2 * MIB, fua=True)

    assert device.pread(4096, 2 * MIB) == b"y" * 4096
    device.close()


def test_a_long_zeroing_lets_others_in(key: SecretMemory) -> None:
    """While gigabytes are zeroed the slow way, one byte can be written and sectors elsewhere be read in between."""
    path = Path("/dev/shm") / f"ebscrypt-zeroing-{os.getpid()}"  # noqa: S108 - a tmpfs cannot zero fast
    size = 1024 * MIB
    fd = sparse(path, size)
    path.unlink()
    device = Device(fd, size=size, key=key)
    os.close(fd)
    finished = threading.Event()

    def zero() -> None:
        device.write_zeroes(256 * MIB, size - 256 * MIB, no_hole=True)
        finished.set()

    long = threading.Thread(target=zero)
    long.start()
    served = 0
    while not finished.is_set():
        device.pwrite(b"y", 100)
        device.pread(4096, 0)
        served += 1
    long.join()
    device.close()
    assert served >= 5, "they waited for nearly all of it"


def test_closing_cuts_a_long_zeroing_off(key: SecretMemory) -> None:
    """A detachment does not wait for gigabytes of zeros; who asked for them is told that the device was closed."""
    path = Path("/dev/shm") / f"ebscrypt-closing-{os.getpid()}"  # noqa: S108 - the same
    size = 4096 * MIB
    fd = sparse(path, size)
    path.unlink()
    device = Device(fd, size=size, key=key)
    os.close(fd)
    told: list[BaseException] = []

    def zero() -> None:
        try:
            device.write_zeroes(0, size, no_hole=True)
        except OSError as error:
            told.append(error)

    long = threading.Thread(target=zero)
    long.start()
    while not device.extents(0, 4096)[0].length or device.extents(0, 4096)[0].hole:
        pass
    device.close()
    long.join()
    assert [type(error) for error in told] == [BrokenPipeError]


def test_who_closes_second_finds_it_closed(path: Path, key: SecretMemory) -> None:
    """No `close` returns before the first one has flushed and wiped."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    device = Device(fd, size=8 * MIB, key=key)
    os.close(fd)
    device.pwrite(os.urandom(8 * MIB), 0)
    ended: list[int] = []

    def close() -> None:
        device.close()
        ended.append(1)

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 4
    with pytest.raises(BrokenPipeError):
        device.flush()


def test_without_discard_nothing_tells_where_zeros_are(
    make: Callable[..., Device], path: Path, key: SecretMemory
) -> None:
    """With ``discard=False`` zeros are enciphered like any data: no hole, no zeros on the backing, and not fast."""
    device = make(key=key, discard=False)
    device.pwrite(os.urandom(8 * MIB), 0)
    with pytest.raises(OSError, match="not supported") as caught:
        device.write_zeroes(0, MIB, fast=True)
    assert caught.value.errno == errno.EOPNOTSUPP

    for no_hole in (False, True):
        device.write_zeroes(100, 3 * MIB, no_hole=no_hole)
    device.discard(0, 8 * MIB)

    assert device.pread(3 * MIB, 100) == bytes(3 * MIB)
    assert not any(extent.hole for extent in device.extents(0, 8 * MIB))
    stored = path.read_bytes()
    assert not [at for at in range(0, len(stored), 4096) if not any(stored[at : at + 4096])]


def test_a_forked_child_unmaps_nothing_of_its_own(key: SecretMemory) -> None:
    """The place of secret memory is free in a child, and what the kernel puts there survives the parent's objects."""
    child = os.fork()
    if child == 0:
        try:
            mine = [mmap.mmap(-1, 4096) for _ in range(64)]
            for number, page in enumerate(mine):
                page[0] = number
            key.wipe()
            os._exit(0 if all(page[0] == number for number, page in enumerate(mine)) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

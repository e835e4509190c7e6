"""The FUSE export's file, asked directly: where requests run, and what becomes of errors."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from ebscrypt.core import Device
from ebscrypt.daemon.exports import fuse_file
from ebscrypt.daemon.exports.fuse_file import FILE_INODE, TASKS, VolumeFile

SIZE = 1 << 20


class Disk:
    """Stands for the core's device: counts, can be slow, can fail."""

    def __init__(self) -> None:
        self.size = SIZE
        self.access = "read-write"
        self.delay = 0.0
        self.failure: Exception | None = None
        self.threads: list[int] = []
        self.waiting = self.most_waiting = 0
        self._lock = threading.Lock()

    def pread(self, length: int, offset: int) -> bytes:
        self._serve()
        return bytes([offset & 0xFF]) * length

    def pwrite(self, data: memoryview, offset: int) -> None:  # noqa: ARG002 - the core's signature
        self._serve()

    def flush(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.threads.append(threading.get_ident())
        if self.failure is not None:
            raise self.failure
        with self._lock:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
        if self.delay:
            time.sleep(self.delay)
        with self._lock:
            self.waiting -= 1


@pytest.fixture
def disk() -> Disk:
    """A device that does what the test says."""
    return Disk()


def volume_file(disk: Any, *, read_only: bool = False) -> VolumeFile:
    return VolumeFile(disk, "vol-0123456789abcdef0", read_only=read_only)


def test_fast_requests_stay_in_the_thread(disk: Disk) -> None:
    """While the backing answers from memory no request pays for a hop to another thread."""

    async def use() -> None:
        file = volume_file(disk)
        for number in range(200):
            assert await file.read(1, number * 4096, 4096) == bytes([number * 4096 & 0xFF]) * 4096
            assert await file.write(1, number * 4096, b"x" * 4096) == 4096

    trio.run(use)
    assert set(disk.threads) == {threading.get_ident()}


def test_slow_requests_wait_side_by_side(disk: Disk) -> None:
    """Once the backing makes requests wait, many wait at a time, and the event loop goes on meanwhile."""
    disk.delay = 0.02
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.005)
            ticks += 1

    async def use() -> None:
        file = volume_file(disk)
        for _ in range(fuse_file._SLOW_IN_A_ROW):
            await file.read(1, 0, 512)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            async with trio.open_nursery() as requests:
                for _ in range(TASKS * 3):
                    requests.start_soon(file.read, 1, 0, 512)
            nursery.cancel_scope.cancel()

    trio.run(use)
    assert 1 < disk.most_waiting <= TASKS
    assert ticks > 2


def test_it_comes_back_to_the_thread(disk: Disk) -> None:
    """When the backing is fast again, so are the requests, after as many as were sent to threads at once."""

    async def use() -> None:
        file = volume_file(disk)
        disk.delay = 0.005
        for _ in range(fuse_file._SLOW_IN_A_ROW):
            await file.read(1, 0, 512)
        disk.delay = 0
        for _ in range(fuse_file._IN_THREADS):
            await file.read(1, 0, 512)
        disk.threads.clear()
        for _ in range(10):
            await file.read(1, 0, 512)

    trio.run(use)
    assert set(disk.threads) == {threading.get_ident()}


def test_flush_never_blocks_the_loop(disk: Disk) -> None:
    """A flush waits for a disk by nature: it goes to a thread from the first one on."""
    trio.run(volume_file(disk).fsync, 1, True)
    assert disk.threads != [threading.get_ident()]


def test_a_suspended_volume_does_not_block_the_loop(tmp_path: Path) -> None:
    """Requests to a suspended volume wait in threads, and end when it is resumed, or with ESHUTDOWN when aborted."""
    path = tmp_path / "backing"
    path.write_bytes(bytes(SIZE))
    fd = os.open(path, os.O_RDWR)
    device = Device(fd, size=SIZE)
    os.close(fd)
    file = volume_file(device)
    ends: list[int | bytes | None] = []

    async def read() -> None:
        try:
            ends.append(await file.read(1, 0, 4))
        except pyfuse3.FUSEError as error:
            ends.append(error.errno)

    async def use(end: Callable[[], None]) -> None:
        device.suspend()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            before = len(ends)
            end()
            assert len(ends) == before

    trio.run(use, device.resume)
    assert ends == [bytes(4)] * 2
    trio.run(use, device.abort)
    assert ends[2:] == [errno.ESHUTDOWN] * 2
    device.close()


def test_read_only_does_not_flush(disk: Disk) -> None:
    """A read-only volume has nothing to flush, and closing a file of it is no error."""
    trio.run(volume_file(disk, read_only=True).flush, 1)
    assert disk.threads == []


def test_read_only_cannot_be_opened_for_writing(disk: Disk) -> None:
    """Neither for writing alone nor for both."""
    file = volume_file(disk, read_only=True)
    for flags in (os.O_WRONLY, os.O_RDWR):
        assert fails(lambda flags=flags: file.open(FILE_INODE, flags, None)) == errno.EROFS
    assert file.handles == 0
    trio.run(file.open, FILE_INODE, os.O_RDONLY, None)
    assert file.handles == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EPERM])
def test_errno_arrives(disk: Disk, code: int) -> None:
    """The client gets the errno that the core gave."""
    disk.failure = OSError(code, os.strerror(code))
    file = volume_file(disk)
    for call in (lambda: file.read(1, 0, 512), lambda: file.write(1, 0, b"x"), lambda: file.fsync(1, datasync=True)):
        assert fails(call) == code


def test_unforeseen_error_is_an_io_error(disk: Disk) -> None:
    """An error that nobody foresaw fails the one request, and never ends the session."""
    disk.failure = ValueError("a bug")
    assert fails(lambda: volume_file(disk).read(1, 0, 512)) == errno.EIO


def fails(call: Any) -> int | None:
    """The errno of the FUSEError that a request ends with."""

    async def attempt() -> int | None:
        try:
            await call()
        except pyfuse3.FUSEError as error:
            return int(error.errno)
        return None

    return trio.run(attempt)


def test_the_end_is_the_end(disk: Disk) -> None:
    """Reads are short at the end and empty behind it; writes are cut at it, and get ENOSPC behind it."""

    async def use() -> None:
        file = volume_file(disk)
        assert len(await file.read(1, SIZE - 100, 512)) == 100
        assert await file.read(1, SIZE, 512) == b""
        assert await file.read(1, SIZE + 512, 512) == b""
        assert await file.write(1, SIZE - 100, b"x" * 512) == 100

    trio.run(use)
    for offset in (SIZE, SIZE + 512):
        assert fails(lambda offset=offset: volume_file(disk).write(1, offset, b"x")) == errno.ENOSPC


def test_growth_shows_at_once(disk: Disk) -> None:
    """Attributes are good for no time at all, so the kernel asks for the size whenever somebody does."""

    async def use() -> None:
        file = volume_file(disk)
        before = await file.getattr(FILE_INODE)
        disk.size *= 2
        after = await file.getattr(FILE_INODE)
        assert (before.st_size, after.st_size) == (SIZE, 2 * SIZE)
        assert before.attr_timeout == 0

    trio.run(use)


def test_no_other_name_is_there(disk: Disk) -> None:
    """The volume's id is the one name, and only in the root directory."""
    file = volume_file(disk)
    assert fails(lambda: file.lookup(pyfuse3.ROOT_INODE, b"other")) == errno.ENOENT
    assert fails(lambda: file.lookup(FILE_INODE, b"vol-0123456789abcdef0")) == errno.ENOENT
    assert fails(lambda: file.lookup(pyfuse3.ROOT_INODE, b"vol-0123456789abcdef0")) is None

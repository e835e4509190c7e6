"""Requests to a `Device`: buffers, ranges, zeroing, extents, durability, errors, counters."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.core import Device, Extent, SecretMemory

SIZE = 8 << 20
TIB = 1 << 40


def ranges(extents: list[Extent]) -> list[tuple[int, int, bool]]:
    return [(extent.offset, extent.length, extent.hole) for extent in extents]


def error_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared by the caller
        call()
    return caught.value.errno


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_written_and_left_alone(make: Callable[..., Device], key: SecretMemory, kind: Any) -> None:
    """Whatever has the buffer protocol can be written, and holds the same plaintext afterwards."""
    data = os.urandom(100_000)
    buffer = kind(data)
    device = make(key=key)
    device.pwrite(buffer, 777)
    assert bytes(buffer) == data
    assert device.pread(len(data), 777) == data


def test_reading_into_buffers(make: Callable[..., Device], key: SecretMemory) -> None:
    """A writable buffer is filled exactly; one that is read-only or has gaps is refused."""
    device = make(key=key)
    device.pwrite(bytes(range(256)) * 64, 0)
    target = bytearray(300)
    device.pread_into(memoryview(target)[10:266], 256)
    assert target == bytes(10) + bytes(range(256)) + bytes(34)
    device.pread_into(bytearray(), SIZE)
    for refused in (bytes(16), memoryview(bytearray(32))[::2]):
        with pytest.raises(BufferError):
            device.pread_into(refused, 0)
    with pytest.raises(BufferError):
        device.pwrite(memoryview(bytearray(32))[::2], 0)
    with pytest.raises(TypeError):
        device.pwrite("text", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [SIZE, SIZE - 1, -1, 1 << 63, 1 << 64, 1 << 100])
def test_out_of_range_is_einval(make: Callable[..., Device], offset: int) -> None:
    """No request reaches beyond the volume, whatever the number, and nothing of it is carried out."""
    device = make()
    calls: list[Callable[[], object]] = [
        lambda: device.pread(2, offset),
        lambda: device.pread_into(bytearray(2), offset),
        lambda: device.pwrite(b"ab", offset),
        lambda: device.discard(offset, 2),
        lambda: device.write_zeroes(offset, 2),
        lambda: device.extents(offset, 2),
        lambda: device.pread(offset + 2, 0),
        lambda: device.discard(0, offset + 2),
    ]
    if offset < 0:
        calls = calls[:6]
    for call in calls:
        assert error_of(call) == errno.EINVAL
    assert device.extents(0, SIZE)[0].hole


def test_a_long_write_past_the_end_writes_nothing(make: Callable[..., Device]) -> None:
    """A write that goes in pieces is refused as a whole when only its end is outside."""
    device = make()
    assert error_of(lambda: device.pwrite(b"x" * (SIZE // 2 + 1), SIZE // 2)) == errno.EINVAL
    assert ranges(device.extents(0, SIZE)) == [(0, SIZE, True)]


def test_read_only_refuses_changes(make: Callable[..., Device], path: Path) -> None:
    """Everything that changes a read-only volume is EPERM; a flush is in order."""
    device = make(read_only=True)
    assert error_of(lambda: device.pwrite(b"", 0)) == errno.EPERM
    assert error_of(lambda: device.pwrite(b"x", 0)) == errno.EPERM
    assert error_of(lambda: device.discard(0, 4096)) == errno.EPERM
    assert error_of(lambda: device.write_zeroes(0, 4096)) == errno.EPERM
    device.flush()
    assert path.read_bytes() == bytes(SIZE)


@pytest.mark.parametrize("encrypted", [False, True])
def test_zeroing_and_discarding(make: Callable[..., Device], key: SecretMemory, *, encrypted: bool) -> None:
    """Both make holes that read as zeros; no_hole keeps the space; the rest of a sector stays as it is."""
    device = make(key=key if encrypted else None)
    data = os.urandom(1 << 20)
    device.pwrite(data, 0)
    device.discard(4096, 8192)
    device.write_zeroes(100_000, 50_000, fua=True)
    device.write_zeroes(204_800, 8192, no_hole=True)
    model = bytearray(data)
    for start, length in ((4096, 8192), (100_000, 50_000), (204_800, 8192)):
        model[start : start + length] = bytes(length)
    assert device.pread(1 << 20, 0) == model
    holes = [(extent.offset, extent.length) for extent in device.extents(0, 1 << 20) if extent.hole]
    assert holes == [(4096, 8192), (102_400, 45_056)]


def test_discard_switched_off(make: Callable[..., Device]) -> None:
    """With discard=False a discard succeeds and changes nothing."""
    device = make(discard=False)
    device.pwrite(b"x" * 8192, 0)
    device.discard(0, 8192)
    assert device.pread(8192, 0) == b"x" * 8192


def test_extents_cover_the_range(make: Callable[..., Device], key: SecretMemory) -> None:
    """Extents begin and end where asked, in turns of data and hole; a sector written in part is data."""
    device = make(key=key)
    device.pwrite(b"x", 10_000)
    device.pwrite(b"x" * 4096, 1 << 20)
    assert ranges(device.extents(5, SIZE - 10)) == [
        (5, 8187, True),
        (8192, 4096, False),
        (12288, (1 << 20) - 12288, True),
        (1 << 20, 4096, False),
        ((1 << 20) + 4096, SIZE - 5 - (1 << 20) - 4096, True),
    ]
    assert ranges(device.extents(9000, 10)) == [(9000, 10, False)]
    assert device.extents(0, 0) == []


@pytest.mark.parametrize("direct", [0, os.O_DIRECT], ids=["page cache", "O_DIRECT"])
def test_durable_writes_arrive(make: Callable[..., Device], key: SecretMemory, path: Path, direct: int) -> None:
    """FUA writes, flushes and ordinary writes go through either kind of descriptor, at any offset."""
    device = make(direct, key=key)
    data = os.urandom(70_001)
    device.pwrite(data, 4097, fua=True)
    device.pwrite(data, 1 << 20)
    device.flush()
    device.close()
    again = make(key=key)
    assert again.pread(len(data), 4097) == again.pread(len(data), 1 << 20) == data
    assert data[:64] not in path.read_bytes()


def test_statistics(make: Callable[..., Device]) -> None:
    """Each operation counts its requests, bytes of successes, errors, and latencies in 40 buckets."""
    device = make()
    device.pwrite(b"x" * 1000, 0)
    device.pwrite(b"x" * 24, 5000)
    device.pread(500, 0)
    device.flush()
    device.discard(0, 4096)
    device.write_zeroes(0, 512)
    device.extents(0, SIZE)
    error_of(lambda: device.discard(SIZE, 1))
    statistics = device.statistics()
    counted = {name: (one.operations, one.bytes, one.errors) for name, one in statistics.items()}
    assert counted == {
        "read": (1, 500, 0),
        "write": (2, 1024, 0),
        "flush": (1, 0, 0),
        "discard": (2, 4096, 1),
        "write_zeroes": (1, 512, 0),
        "block_status": (1, SIZE, 0),
    }
    for one in statistics.values():
        assert len(one.latency) == 40
        assert sum(one.latency) == one.operations


def test_end_of_a_64_tebibyte_volume(key: SecretMemory) -> None:
    """The largest volume that EBS knows is served to its last byte, on a sparse file of tmpfs."""
    size = 64 * TIB
    path = Path(f"/dev/shm/ebscrypt-test-{os.getpid()}-{os.urandom(4).hex()}")  # noqa: S108 - ext4 ends at 16 TiB
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        os.truncate(fd, size + (16 << 20))
        device = Device(fd, size=size, data_offset=16 << 20, key=key)
        device.pwrite(b"the end", size - 7, fua=True)
        assert device.pread(10, size - 10) == b"\0\0\0the end"
        assert ranges(device.extents(0, size)) == [(0, size - 4096, True), (size - 4096, 4096, False)]
        device.write_zeroes(0, size)
        assert ranges(device.extents(0, size)) == [(0, size, True)]
        device.close()
    finally:
        os.close(fd)


def test_full_file_system_is_enospc(key: SecretMemory, tmp_path: Path) -> None:
    """Where the backing's file system is full a write fails with ENOSPC, and what was written before stays readable."""
    path = tmp_path / "backing"
    path.touch()
    os.truncate(path, SIZE)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        device = Device(fd, size=SIZE, key=key)
        # A limit on the size of files fails as a full disk does, and needs no mount; Python ignores its signal.
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
        device.pwrite(b"x" * 4096, 0)
        assert error_of(lambda: device.pwrite(b"y" * 4096, SIZE // 2)) == errno.ENOSPC
        assert error_of(lambda: device.pwrite(b"y" * 100_000, SIZE // 2 - 8192)) == errno.ENOSPC
        assert device.pread(4096, 0) == b"x" * 4096
        device.flush()
        device.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os.close(fd)


def test_sub_sector_writes_of_threads_do_not_lose_each_other(make: Callable[..., Device], key: SecretMemory) -> None:
    """Threads that write neighbouring bytes of the same encrypted sector each find their own bytes at the end."""
    device = make(key=key)

    def work(slot: int) -> None:
        for count in range(400):
            device.pwrite(bytes([count & 0xFF, slot]) * 8, slot * 16)

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = b"".join(bytes([399 & 0xFF, slot]) * 8 for slot in range(6))
    assert device.pread(4096, 0) == expected + bytes(4096 - len(expected))

"""The life of a `Device`: what it can be opened on, how it grows, and how it ends."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ebscrypt.core import Device, SecretMemory

SIZE = 8 << 20


def error_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared by the caller
        call()
    return caught.value.errno


def test_a_device_says_what_it_is(make: Callable[..., Device], key: SecretMemory) -> None:
    """Size, protection and encryption are as asked; the caller may close its descriptor and wipe the key."""
    device = make(key=key, size=SIZE - 4096)
    key.wipe()
    assert (device.size, device.read_only, device.encrypted) == (SIZE - 4096, False, True)
    device.pwrite(b"data", 0)
    assert device.pread(4, 0) == b"data"
    plain = make(read_only=True)
    assert (plain.size, plain.read_only, plain.encrypted) == (SIZE, True, False)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 0}, "size 0"),
        ({"size": 4095}, "size 4095 is not a positive multiple of 4096"),
        ({"data_offset": 512, "size": 4096}, "data offset 512"),
        ({"sector_size": 2048}, "sector size 2048"),
    ],
)
def test_impossible_volumes_are_value_errors(
    make: Callable[..., Device], key: SecretMemory, arguments: dict[str, int], match: str
) -> None:
    """A geometry that cannot be served is refused with the value that is wrong."""
    with pytest.raises(ValueError, match=match):
        make(key=key, **arguments)


@pytest.mark.parametrize("size", [32, 63, 65, 128])
def test_key_of_another_size_is_refused(make: Callable[..., Device], size: int) -> None:
    """Only 64 bytes are an AES-256-XTS key."""
    key = SecretMemory(size)
    key.fill(os.urandom(size))
    with pytest.raises(ValueError, match="64 bytes"):
        make(key=key)


def test_unsuitable_descriptors(path: Path) -> None:
    """A backing that is too short, a pipe, a directory, no descriptor, or one without the needed access is refused."""
    read_end, write_end = os.pipe()
    directory = os.open(path.parent, os.O_RDONLY)
    reader, appender = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR | os.O_APPEND)
    expected = {read_end: errno.EINVAL, directory: errno.EINVAL, appender: errno.EINVAL, reader: errno.EBADF}
    try:
        for fd, code in expected.items():
            assert error_of(lambda fd=fd: Device(fd, size=SIZE)) == code  # type: ignore[misc]
        assert error_of(lambda: Device(reader, size=SIZE + 512, read_only=True)) == errno.EINVAL
        assert error_of(lambda: Device(-1, size=SIZE)) == errno.EBADF
        assert error_of(lambda: Device(10_000, size=SIZE)) == errno.EBADF
        Device(reader, size=SIZE, read_only=True).close()
    finally:
        for fd in (read_end, write_end, directory, reader, appender):
            os.close(fd)


def test_grow(make: Callable[..., Device], path: Path, key: SecretMemory) -> None:
    """A volume grows as far as its backing goes, in whole sectors, and never shrinks."""
    device = make(key=key, size=SIZE // 2)
    device.pwrite(b"end", SIZE // 2 - 3)
    for size, match in ((SIZE // 4, "smaller"), (SIZE // 2 + 512, "multiple"), (0, "smaller")):
        with pytest.raises(ValueError, match=match):
            device.grow(size)
    assert error_of(lambda: device.grow(SIZE + 4096)) == errno.EINVAL
    device.grow(SIZE)
    assert device.size == SIZE
    os.truncate(path, 2 * SIZE)
    device.grow(2 * SIZE)
    device.pwrite(b"new end", 2 * SIZE - 7)
    assert device.pread(7, 2 * SIZE - 7) == b"new end"
    assert device.pread(3, SIZE // 2 - 3) == b"end"


def test_close_ends_it(make: Callable[..., Device]) -> None:
    """After close, which may be repeated, requests are ESHUTDOWN, and the backing's descriptor is free."""
    device = make()
    device.pwrite(b"x", 0)
    device.close()
    device.close()
    for call in (lambda: device.pread(1, 0), lambda: device.pwrite(b"x", 0), device.flush, lambda: device.grow(SIZE)):
        assert error_of(call) == errno.ESHUTDOWN
    assert device.size == SIZE


def descriptors_of(path: Path) -> int:
    """How many descriptors of this process are of a file."""
    return sum(Path(f"/proc/self/fd/{fd.name}").resolve() == path for fd in Path("/proc/self/fd").iterdir())


def test_close_leaves_no_descriptor(path: Path) -> None:
    """Everything that a device opened is closed with it."""
    fd = os.open(path, os.O_RDWR)
    device = Device(fd, size=SIZE)
    os.close(fd)
    device.pwrite(b"x", 0, fua=True)
    assert descriptors_of(path) > 0
    device.close()
    assert descriptors_of(path) == 0


def test_close_waits_for_requests(make: Callable[..., Device], key: SecretMemory) -> None:
    """Threads in full swing are let out with success or ESHUTDOWN, nothing else; what succeeded is on the backing."""
    device = make(key=key)
    last: dict[int, bytes] = {}
    ends: list[int | None] = []

    def work(slot: int) -> None:
        try:
            while True:
                data = os.urandom(20_000)
                device.pwrite(data, slot * (1 << 20) + 1)
                last[slot] = data
        except OSError as error:
            ends.append(error.errno)

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    while len(last) < len(threads):
        pass
    device.close()
    for thread in threads:
        thread.join()
    assert ends == [errno.ESHUTDOWN] * len(threads)
    again = make(key=key)
    for slot, data in last.items():
        assert again.pread(len(data), slot * (1 << 20) + 1) == data


def test_a_forked_child_gets_an_error(make: Callable[..., Device], key: SecretMemory) -> None:
    """A child after fork finds its parent's keys gone: requests fail with EBADFD, and it can end in peace."""
    device = make(key=key)
    device.pwrite(b"x", 0)
    child = os.fork()
    if child == 0:
        try:
            device.pread(1, 0)
        except OSError as error:
            device.close()
            os._exit(error.errno or 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == errno.EBADFD
    assert device.pread(1, 0) == b"x"

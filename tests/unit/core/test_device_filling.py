"""A device whose blocks are still to come, as the one that has them sees it; lossy disks: see the core's own tests."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebscrypt.core import Device, Filling, SecretMemory, create_fill_file

BLOCK = 512 * 1024
SIZE = 4 * BLOCK + 4096
VECTOR = Path(__file__).parents[2] / "vectors" / "fill" / "v1"


@contextmanager
def opened(
    folder: Path, *, key: SecretMemory | None = None, patience: float = 30.0, read_only: bool = False
) -> Iterator[tuple[Device, Filling]]:
    with (folder / "backing").open("r+b") as backing, (folder / "fill").open("r+b") as fill:
        device = Device(
            backing.fileno(),
            size=SIZE,
            key=key,
            fill_file=fill.fileno(),
            fill_patience=patience,
            read_only=read_only,
        )
    filling = device.filling
    assert filling is not None
    yield device, filling
    device.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backing without data, and a fill file that says that all but block 1 are missing."""
    with (tmp_path / "backing").open("wb") as backing:
        backing.truncate(SIZE)
    with (tmp_path / "fill").open("w+b") as fill:
        create_fill_file(fill.fileno(), SIZE, [(0, 1), (2, 3)])
    return tmp_path


def test_blocks_come_when_they_are_wanted(folder: Path) -> None:
    """A read waits in its thread; who supplies is told of its block, and the read gets it."""
    with opened(folder) as (device, filling):
        assert (filling.left, filling.next_missing(), filling.next_missing(1)) == (4, 0, 2)
        found: list[bytes] = []
        reading = threading.Thread(target=lambda: found.append(device.pread(512, 3 * BLOCK)))
        reading.start()
        assert filling.wanted(30.0) == [3]
        filling.supply(3, b"\3" * BLOCK)
        reading.join()
        assert found == [b"\3" * 512]
        assert filling.wanted(0.0) == []


def test_what_came_is_found_again(folder: Path) -> None:
    """Closed and opened, only the rest is missing; short blocks end in zeros, and at the end nothing is left."""
    with opened(folder) as (_, filling):
        filling.supply(0, b"\1" * 4096)
        filling.supply(0, b"\2" * 4096)
    with opened(folder) as (device, filling):
        assert filling.left == 3
        assert device.pread(BLOCK, 0) == b"\1" * 4096 + bytes(BLOCK - 4096)
        filling.supply(2, b"")
        filling.supply(3, memoryview(b"\3" * BLOCK))
        filling.supply(4, b"\4" * 4096)
        filling.settle()
        assert (filling.left, filling.next_missing()) == (0, None)
        assert device.pread(4096, 4 * BLOCK) == b"\4" * 4096


def test_what_is_supplied_is_stored_bytes(folder: Path) -> None:
    """Below the cipher: a block that another device with the same key has stored reads as what was written there."""
    key = SecretMemory()
    key.fill(bytes(range(64)))
    other = folder / "other"
    with other.open("w+b") as file:
        file.truncate(SIZE)
        writer = Device(file.fileno(), size=SIZE, key=key)
        writer.pwrite(b"text" * 1024, 2 * BLOCK)
        writer.close()
    with opened(folder, key=key) as (device, filling):
        filling.supply(2, other.read_bytes()[2 * BLOCK : 3 * BLOCK])
        assert device.pread(8192, 2 * BLOCK) == b"text" * 1024 + bytes(4096)


def test_it_works_while_suspended(folder: Path) -> None:
    """Who waits for a block is inside the gate: without its block it would keep the suspension waiting."""
    with opened(folder) as (device, filling):
        found: list[bytes] = []
        reading = threading.Thread(target=lambda: found.append(device.pread(512, 0)))
        reading.start()
        assert filling.wanted(30.0) == [0]
        suspending = threading.Thread(target=device.suspend)
        suspending.start()
        filling.supply(0, b"\1" * BLOCK)
        suspending.join()
        reading.join()
        assert (found, device.access) == ([b"\1" * 512], "suspended")
        filling.supply(2, b"\2" * BLOCK)
        device.resume()
        assert device.pread(1, 2 * BLOCK) == b"\2"


def test_what_is_refused(folder: Path) -> None:
    """With the errno that goes with it; nothing has changed afterwards."""
    os.truncate(folder / "backing", SIZE + BLOCK)
    with opened(folder, patience=0.01) as (device, filling):
        refusals: dict[int, list[Callable[[], object]]] = {
            errno.EINVAL: [lambda: filling.supply(5, b""), lambda: filling.supply(4, bytes(8192))],
            errno.EIO: [lambda: device.pread(1, 0), lambda: device.pwrite(b"x", 0)],
            errno.EBUSY: [lambda: device.grow(SIZE + BLOCK)],
        }
        for number, calls in refusals.items():
            for call in calls:
                with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is compared
                    call()
                assert caught.value.errno == number
        assert filling.left == 4
    for call in (lambda: filling.left, lambda: filling.wanted(0.0), lambda: filling.supply(0, b""), filling.settle):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is compared
            call()
        assert caught.value.errno == errno.ESHUTDOWN


@pytest.mark.parametrize("wrong", [float("nan"), -1.0])
def test_no_number_of_seconds(folder: Path, wrong: float) -> None:
    """ValueError, before anything is opened."""
    with pytest.raises(ValueError, match="seconds"), opened(folder, patience=wrong):
        pass


def test_files_that_are_none(folder: Path) -> None:
    """An empty file, one of another size of volume, and a read-only device are refused; blocks beyond the end too."""
    with pytest.raises(ValueError, match="read-only"), opened(folder, read_only=True):
        pass
    with (folder / "fill").open("w+b") as fill:
        with pytest.raises(OSError, match="fill file"), opened(folder):
            pass
        with pytest.raises(OSError, match="fill file"):
            create_fill_file(fill.fileno(), SIZE, [(4, 2)])
        fill.truncate(0)
        create_fill_file(fill.fileno(), SIZE + BLOCK, [])
        with pytest.raises(OSError, match="fill file is of"), opened(folder):
            pass


def test_the_golden_fill_file(folder: Path) -> None:
    """A fill file of version 1 is understood for ever, and made so until there is another version."""
    assert (folder / "fill").read_bytes() == VECTOR.read_bytes()
    shutil.copy(VECTOR, folder / "fill")
    with opened(folder) as (_, filling):
        missing = [index for index in range(5) if filling.next_missing(index) == index]
    assert missing == [0, 2, 3, 4]


def test_a_device_without_fill_file(tmp_path: Path) -> None:
    """It has nothing to fill."""
    with (tmp_path / "backing").open("w+b") as backing:
        os.truncate(backing.fileno(), SIZE)
        device = Device(backing.fileno(), size=SIZE)
    assert device.filling is None
    device.close()

"""Who uses a device or file: every kind of use is seen and named, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebscrypt.control import holders
from ebscrypt.control.holders import Use
from ebscrypt.model import MIB

HOLD = "import sys; f = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read()"


@contextmanager
def opened_by_another(path: str) -> Iterator[int]:
    """Another process that has ``path`` open; its number."""
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process.pid
        process.kill()


@pytest.fixture
def disk(make_loop: Callable[[int], str]) -> str:
    return make_loop(64 * MIB)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "a mount\tpoint"
    path.mkdir()
    return path


def test_a_device_that_nobody_uses_has_no_uses(disk: str) -> None:
    """The loop device itself, and our own descriptors, are no users."""
    with Path(disk).open("rb"):
        assert holders.of_device(disk) == []


def test_a_device_that_is_not_there_has_no_uses(tmp_path: Path) -> None:
    """Nor has a name that leads to something else."""
    assert holders.of_device("/dev/no-such-disk") == []
    assert holders.of_device(str(tmp_path)) == []


def test_a_mount_is_named(disk: str, mountpoint: Path) -> None:
    """Blanks in its name and all, as one that this process could unmount."""
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    subprocess.run(["mount", disk, mountpoint], check=True)
    try:
        [use] = holders.of_device(disk)
    finally:
        subprocess.run(["umount", mountpoint], check=True)

    assert use == Use("mount", str(mountpoint), os.getpid())
    assert str(use) == f"mounted on {mountpoint}"


def test_a_btrfs_mount_is_named_too(make_loop: Callable[[int], str], mountpoint: Path) -> None:
    """Its device number in the mount table is not the disk's."""
    disk = make_loop(128 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True)
    subprocess.run(["mount", disk, mountpoint], check=True)
    try:
        kinds = {use.kind for use in holders.of_device(disk)}
    finally:
        subprocess.run(["umount", mountpoint], check=True)

    assert "mount" in kinds


def test_a_mount_in_another_namespace_is_found(disk: str, mountpoint: Path) -> None:
    """As in a container: our own mount table has nothing of it."""
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    script = f"mount {disk} '{mountpoint}' && echo mounted && read line"
    command = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "mounted\n"

        found = holders.of_device(disk)

        process.stdin.write("\n")

    assert [(use.kind, use.where) for use in found] == [("mount", str(mountpoint))]
    assert found[0].pid == process.pid


def test_swap_is_named(disk: str) -> None:
    """Swap space on the device."""
    subprocess.run(["mkswap", "-q", disk], check=True)
    subprocess.run(["swapon", disk], check=True)
    try:
        assert Use("swap", disk) in holders.of_device(disk)
    finally:
        subprocess.run(["swapoff", disk], check=True)


def test_an_open_descriptor_is_named_with_its_process(disk: str) -> None:
    """By whatever name the device was opened."""
    with opened_by_another(disk) as pid:
        assert [use.pid for use in holders.of_device(disk)] == [pid]
        assert holders.of_device(disk, frozenset({pid})) == []
        [use] = holders.of_device(disk)
        assert str(use).startswith("open in python")


def test_a_node_of_another_name_is_found(disk: str, tmp_path: Path) -> None:
    """A container has device nodes of its own."""
    node = tmp_path / Path(disk).name
    os.mknod(node, 0o600 | 0o060000, Path(disk).stat().st_rdev)
    with opened_by_another(str(node)) as pid:
        assert [use.pid for use in holders.of_device(disk)] == [pid]


def test_a_file_with_a_loop_device_is_used(disk: str) -> None:
    """Except by the loop device that the caller knows of."""
    file = Path(Path(f"/sys/block/{Path(disk).name}/loop/backing_file").read_text().strip())

    assert holders.of_file(file) == [Use("device", disk)]
    assert holders.of_file(file, but_not=disk) == []


def test_a_file_that_is_open_is_used(tmp_path: Path) -> None:
    """The program is named."""
    path = tmp_path / "file"
    path.touch()

    with opened_by_another(str(path)) as pid:
        assert [use.pid for use in holders.of_file(path)] == [pid]
    assert holders.of_file(path) == []


def test_a_partition_of_the_device_counts(make_loop: Callable[[int], str], mountpoint: Path) -> None:
    """Who mounts /dev/nbd0p1 uses /dev/nbd0."""
    disk = make_loop(64 * MIB)
    entry = bytes([0, 0, 2, 0, 0x83, 0xFF, 0xFF, 0xFF]) + (2048).to_bytes(4, "little") + (65536).to_bytes(4, "little")
    with Path(disk).open("r+b") as table:
        table.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
    subprocess.run(["partx", "--add", disk], check=True)
    try:
        subprocess.run(["mkfs.ext4", "-q", f"{disk}p1"], check=True)
        subprocess.run(["mount", f"{disk}p1", mountpoint], check=True)
        try:
            assert [use.where for use in holders.of_device(disk)] == [str(mountpoint)]
        finally:
            subprocess.run(["umount", mountpoint], check=True)
    finally:
        subprocess.run(["partx", "--delete", disk], check=True)

"""qemu-io and qemu-img: another implementation of the protocol, with caches and an opinion of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nbd_volume import KIB, MIB, ServedVolume, run, served

SIZE = 128 * MIB


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def volume(request: pytest.FixtureRequest) -> Iterator[ServedVolume]:
    """A volume of 128 MiB."""
    with served(SIZE, encrypted=request.param) as volume:
        yield volume


def qemu_io(volume: ServedVolume, *commands: str, options: tuple[str, ...] = ()) -> str:
    """Run qemu-io's commands; it exits 0 also where one failed, so look at what it says."""
    arguments = [argument for command in commands for argument in ("-c", command)]
    output = run("qemu-io", "-f", "raw", *options, *arguments, volume.uri)
    failed = ("failed", "error", "Pattern verification", "Invalid")
    assert not any(word in output for word in failed), output
    return output


def test_patterns(volume: ServedVolume) -> None:
    """Patterns written at odd places are found by another connection, and nothing else is."""
    qemu_io(
        volume, "write -P 0xaa 0 1M", "write -P 0xbb 100k 3k", "write -P 0xcc 1048575 2", "write -P 1 127M 1M", "flush"
    )
    qemu_io(
        volume,
        "read -P 0xaa 0 100k",
        "read -P 0xbb 100k 3k",
        f"read -P 0xaa 103k {MIB - 103 * KIB - 1}",
        "read -P 0xcc 1048575 2",
        "read -P 0 1048577 1k",
        "read -P 1 127M 1M",
    )


def test_zero_and_discard(volume: ServedVolume) -> None:
    """Zeroed with and without unmapping, and discarded: all of it reads as zeros, and its neighbours do not."""
    qemu_io(volume, "write -P 5 0 8M")
    qemu_io(volume, "write -z 1M 1M", "write -z -u 3M 1M", "discard 5M 1M", options=("-d", "unmap"))
    for megabyte in range(8):
        qemu_io(volume, f"read -P {0 if megabyte in {1, 3, 5} else 5} {megabyte}M 1M")


def test_fua_needs_no_flush(volume: ServedVolume) -> None:
    """Ten writes with FUA carry their flag to the server: qemu sends no flush for them but the one when it closes."""
    qemu_io(volume, *(f"write -f -P 7 {start}k 64k" for start in range(0, 640, 64)))
    assert volume.operations("write") == 10
    assert volume.operations("flush") <= 1


def test_convert_and_compare(volume: ServedVolume, tmp_path: Path) -> None:
    """qemu-img brings a qcow2 disk in with sixteen coroutines, finds it identical, and takes it out again."""
    raw, disk = tmp_path / "raw", tmp_path / "disk.qcow2"
    with raw.open("wb") as file:
        file.truncate(SIZE)
        for megabyte in range(0, 128, 5):
            file.seek(megabyte * MIB + 1234)
            file.write(os.urandom(500 * KIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    run("qemu-img", "convert", "-n", "-m", "16", "-W", "-f", "qcow2", "-O", "raw", disk, volume.uri)
    assert "identical" in run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, volume.uri)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", volume.uri, tmp_path / "out")
    run("cmp", raw, tmp_path / "out")
    volume.device.pwrite(b"x", 100 * MIB)
    different = run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, volume.uri, status=1)
    assert f"mismatch at offset {100 * MIB}" in different


def test_map(volume: ServedVolume) -> None:
    """qemu-img sees data and holes where the volume has them."""
    volume.device.pwrite(b"x" * 64 * KIB, 3 * MIB)
    extents = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", volume.uri))
    assert [(extent["start"], extent["length"], extent["data"], extent["zero"]) for extent in extents] == [
        (0, 3 * MIB, False, True),
        (3 * MIB, 64 * KIB, True, False),
        (3 * MIB + 64 * KIB, SIZE - 3 * MIB - 64 * KIB, False, True),
    ]


def test_bench(volume: ServedVolume) -> None:
    """A queue of writes with a flush every hundred requests is served to the end."""
    output = run(
        *("qemu-img", "bench", "-f", "raw", "-t", "none", "-c", "4000", "-d", "64", "-s", "16384"),
        *("-w", "--flush-interval=100", "--pattern=3", volume.uri),
    )
    assert "Run completed" in output
    assert volume.operations("flush") >= 4000 // 100

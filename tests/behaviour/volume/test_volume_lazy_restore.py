"""`ebscrypt create --snapshot-id --lazy` with real daemons, fillers and clients, some of which die in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.behaviour.volume.place import Place, environ_of, is_running, running, wait_until

SIZE = 96
"""MiB of the volumes; the first 64 have data."""


def io(device: str, *commands: str) -> str:
    """What qemu-io says about reads and writes of an attached volume; it fails where a pattern is another one."""
    words = [word for command in commands for word in ("-c", command)]
    return subprocess.run(
        ["qemu-io", "-f", "raw", *words, device], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def fillers(place: Place) -> list[int]:
    """The processes that fill volumes of this place."""
    wanted = f"EBSCRYPT_PATHS_STATE={place.directory / 's'}\0".encode()
    return [pid for pid in running("fill") if wanted in environ_of(pid)]


def kill_fillers(place: Place) -> None:
    for pid in fillers(place):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda gone=pid: not is_running(gone))  # type: ignore[misc]


@pytest.fixture
def snapshot_id(place: Place) -> Iterator[str]:
    """Of a volume with another pattern in each 16 MiB of its first 64."""
    volume_id = place.do("create", "--size", f"{SIZE}M")
    device = place.do("attach", volume_id, "--export", "socket")
    io(device, *(f"write -P {part + 1} {part * 16}M 16M" for part in range(4)), "flush")
    place.do("detach", volume_id)
    yield place.do("snapshot", "create", volume_id, "--wait")
    kill_fillers(place)


@contextmanager
def blocks_away(place: Place) -> Iterator[None]:
    """The store cannot be read: no filler gets a block."""
    blocks = place.directory / "s" / "snapshots" / "blocks"
    aside = blocks.with_name("aside")
    blocks.rename(aside)
    try:
        yield
    finally:
        if blocks.exists():
            blocks.rmdir()
        aside.rename(blocks)


def whole(place: Place, volume_id: str) -> bool:
    return "InitializationPercent" not in place.show(volume_id)


def events_of(place: Place, volume_id: str) -> list[str]:
    lines = place.do("events", "--output", "json").splitlines()
    return [line for line in lines if volume_id in line and '"initializeVolume"' in line]


def test_it_is_used_while_its_blocks_come(place: Place, snapshot_id: str) -> None:
    """Attached at once, the last block is read first; what is written meanwhile stays, detached and attached again."""
    volume_id = place.do("create", "--snapshot-id", snapshot_id, "--lazy")
    device = place.do("attach", volume_id, "--export", "socket")

    said = io(device, "read -P 4 60M 4M", "write -P 9 20M 4k", "write -P 8 30M 2M", "read -P 2 16M 4M", "flush")
    assert "failed" not in said

    place.do("detach", volume_id)
    wait_until(lambda: whole(place, volume_id))
    device = place.do("attach", volume_id, "--export", "socket")
    said = io(device, "read -P 1 0 16M", "read -P 9 20M 4k", "read -P 2 20484k 8M")
    said += io(device, "read -P 8 30M 2M", "read -P 3 32M 16M")
    place.do("detach", volume_id)
    assert "failed" not in said
    assert len(events_of(place, volume_id)) == 1


def test_filler_and_daemon_are_killed(place: Place, snapshot_id: str) -> None:
    """A write that was flushed is there, and so is everything else in the end; a new filler goes on by itself."""
    with blocks_away(place):
        volume_id = place.do("create", "--snapshot-id", snapshot_id, "--lazy")
        device = place.do("attach", volume_id, "--export", "socket")
        wait_until(lambda: not fillers(place))
        io(device, "write -z 1M 512k", "flush")
        assert place.show(volume_id)["InitializationPercent"] == 0
    kill_fillers(place)
    place.kill_daemon(volume_id)
    device = place.do("attach", volume_id, "--export", "socket")

    said = io(device, "read -P 4 60M 4M", "read -P 0 1M 512k")
    kill_fillers(place)
    place.do("ls")
    said += io(device, "read -P 1 0 1M", "read -P 1 1536k 14M", "read -P 0 64M 32M")
    assert "failed" not in said
    wait_until(lambda: whole(place, volume_id))
    place.do("detach", volume_id)
    assert len(events_of(place, volume_id)) == 1


def test_under_another_key(place: Place, snapshot_id: str) -> None:
    """Every block is turned on its way, also by the filler that comes after the one that was killed."""
    key = place.do("kms", "create-key")
    volume_id = place.do("create", "--snapshot-id", snapshot_id, "--lazy", "--kms-key-id", key)
    kill_fillers(place)
    place.do("rewrap", volume_id, "--kms-key-id", place.do("kms", "create-key"))
    device = place.do("attach", volume_id, "--export", "socket")

    said = io(
        device, "read -P 4 60M 4M", "read -P 3 40M 1M", "write -P 9 41M 4k", "read -P 3 42M 6M", "read -P 9 41M 4k"
    )

    assert "failed" not in said
    wait_until(lambda: whole(place, volume_id))
    place.do("detach", volume_id)
    assert Path(place.show(volume_id)["Backing"]).exists()


def test_without_blocks_requests_end(place: Place, snapshot_id: str) -> None:
    """Where no block can be had a request fails in time, and with nothing; afterwards the volume is well again."""
    with blocks_away(place):
        volume_id = place.do("create", "--snapshot-id", snapshot_id, "--lazy")
        assert "cannot be attached read-only" in place.refused("attach", volume_id, "--read-only")
        device = place.do("attach", volume_id, "--export", "socket", EBSCRYPT_ATTACH_IO_TIMEOUT="2")
        ran = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "read -P 1 0 4k", device], capture_output=True, text=True, check=False
        )
        assert "Input/output error" in ran.stdout + ran.stderr
        place.do("detach", volume_id)
    place.do("ls")
    wait_until(lambda: whole(place, volume_id))

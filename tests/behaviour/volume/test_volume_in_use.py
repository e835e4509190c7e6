"""Who has a volume keeps it: detach and attach refuse by name, and --force does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.behaviour.volume.place import Place, loop_devices_over, mounts_below

MIB = 1 << 20


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture
def mounted(place: Place, volume_id: str, tmp_path: Path) -> Iterator[Path]:
    """The volume with a file system, attached and mounted; unmounted after the test where it still is."""
    mountpoint = tmp_path / "a mount"
    mountpoint.mkdir()
    device = place.do("attach", volume_id)
    run("mkfs.ext4", "-q", device)
    run("mount", device, mountpoint)
    yield mountpoint
    subprocess.run(["umount", mountpoint], check=False, capture_output=True)


@contextmanager
def client_of(uri: str) -> Iterator[subprocess.Popen[str]]:
    """A client that is connected and idle."""
    code = (
        "import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); print('connected', flush=True); sys.stdin.read()"
    )
    command = ["/usr/bin/python3", "-c", code, uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        yield process
        process.kill()


def test_a_mounted_volume_is_not_detached(place: Place, volume_id: str, mounted: Path) -> None:
    """The mount point is named, and the way out; it works on, and after umount detach works."""
    said = place.refused("detach", volume_id)

    assert f"mounted on {mounted}" in said
    assert f"hint: unmount it first: `umount {mounted}`" in said
    (mounted / "still").write_text("here")
    run("umount", mounted)
    place.do("detach", volume_id)


def test_an_open_device_is_not_detached(place: Place, volume_id: str) -> None:
    """The program and its process are named."""
    device = place.do("attach", volume_id)
    with Path(device).open("rb") as file, subprocess.Popen(["sleep", "600"], stdin=file) as program:
        try:
            assert f"open in sleep (process {program.pid})" in place.refused("detach", volume_id)
        finally:
            program.kill()
    place.do("detach", volume_id)


def test_a_volume_with_swap_is_not_even_detached_by_force(place: Place, volume_id: str) -> None:
    """That would kill programs which have nothing to do with the volume."""
    device = place.do("attach", volume_id)
    run("mkswap", device)
    run("swapon", device)
    try:
        assert f"swap space ({device})" in place.refused("detach", volume_id)
        assert f"swap space ({device})" in place.refused("detach", volume_id, "--force")
    finally:
        run("swapoff", device)
    place.do("detach", volume_id)


def test_a_socket_with_a_client_is_not_detached(place: Place, volume_id: str) -> None:
    """The client goes on; when it has gone, detach works."""
    uri = place.do("attach", volume_id, "--export", "socket")
    with client_of(uri):
        assert "1 client" in place.refused("detach", volume_id)
        assert int(run("nbdinfo", "--size", uri)) == 64 * MIB

    place.do("detach", volume_id)


def test_force_cuts_off_a_client_and_says_so(place: Place, volume_id: str) -> None:
    """What it had flushed is there; nothing is left of the attachment."""
    uri = place.do("attach", volume_id, "--export", "socket")
    run("qemu-io", "-f", "raw", "-c", "write -P 3 0 1M", "-c", "flush", uri)
    with client_of(uri):
        ran = place.run("detach", volume_id, "--force")

    assert ran.status == 0
    assert "cut off: used by 1 client" in ran.err
    uri = place.do("attach", volume_id, "--export", "socket")
    assert "failed" not in run("qemu-io", "-f", "raw", "-c", "read -P 3 0 1M", uri)


def test_force_syncs_and_unmounts(place: Place, volume_id: str, mounted: Path) -> None:
    """A file that was written and not synced is there afterwards, and the file system is clean."""
    (mounted / "file").write_bytes(b"x" * MIB)

    ran = place.run("detach", volume_id, "--force")

    assert ran.status == 0
    assert f"cut off: mounted on {mounted}" in ran.err
    assert not os.path.ismount(mounted)
    device = place.do("attach", volume_id)
    run("e2fsck", "-fn", device)
    run("mount", device, mounted)
    assert (mounted / "file").read_bytes() == b"x" * MIB


def test_force_detaches_a_busy_mount(place: Place, volume_id: str, mounted: Path) -> None:
    """A program stands in the mount: it is unmounted lazily; what was written before is there."""
    (mounted / "file").write_bytes(b"x" * MIB)
    with subprocess.Popen(["sleep", "600"], cwd=mounted) as program:
        try:
            ran = place.run("detach", volume_id, "--force")
            assert ran.status == 0, ran.err
            assert place.show(volume_id)["State"] == "available"
            assert place.daemons() == []
        finally:
            program.kill()
    assert mounts_below(place.directory) == []
    device = place.do("attach", volume_id)
    run("mount", device, mounted)
    assert (mounted / "file").read_bytes() == b"x" * MIB


def test_a_second_attach_is_told_who_has_it(place: Place, volume_id: str) -> None:
    """Process, device and time; the first is not disturbed."""
    device = place.do("attach", volume_id, "--export", "socket")
    pid = place.attachment(volume_id)["Pid"]

    said = place.refused("attach", volume_id)

    assert f"attached as {device} by process {pid}" in said
    assert re.search(r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", said)
    assert int(run("nbdinfo", "--size", device)) == 64 * MIB


def test_of_many_attaches_one_wins(place: Place, volume_id: str) -> None:
    """Started at once: one prints the device, each other is refused and names the winner's process."""
    racers = [place.start("attach", volume_id, "--export", "socket") for _ in range(5)]
    ended = []
    for racer in racers:
        with racer:
            out, err = racer.communicate(timeout=120)
        ended.append((racer.returncode, out, err))

    winners = [out.strip() for status, out, _ in ended if status == 0]
    assert len(winners) == 1
    pid = place.attachment(volume_id)["Pid"]
    assert len(place.daemons()) == 1
    for status, out, err in ended:
        if status:
            assert (status, out) == (1, "")
            assert f"attached as {winners[0]} by process {pid}" in err


def test_two_catalogs_cannot_attach_one_backing(place: Place, tmp_path: Path) -> None:
    """The lock on the backing itself holds, whatever the catalogs say."""
    backing = tmp_path / "shared.img"
    volume_id = place.do("create", "--size", "64M", "--backing", str(backing))
    place.do("attach", volume_id, "--export", "socket")
    other = Place()
    try:
        (other.directory / "s").mkdir()
        subprocess.run(["cp", "-r", place.directory / "s" / "kms", other.directory / "s" / "kms"], check=True)
        other.do("rebuild-catalog", str(backing))

        assert "in use" in other.refused("attach", volume_id, "--export", "socket")
        assert other.show(volume_id)["State"] == "available"
    finally:
        other.close()
    place.do("detach", volume_id)


def test_an_attached_volume_is_not_deleted(place: Place, volume_id: str) -> None:
    """Nothing has changed, and the hint says what to do first."""
    place.do("attach", volume_id, "--export", "socket")

    assert f"`ebscrypt detach {volume_id}`" in place.refused("delete", volume_id)

    place.do("check", volume_id)


def test_what_is_not_attached_cannot_be_detached(place: Place, volume_id: str) -> None:
    """Said as it is."""
    assert "is available: it is not attached" in place.refused("detach", volume_id)


def test_detach_leaves_the_time_to_a_command_under_way(place: Place, volume_id: str) -> None:
    """`detach` right behind `attach` waits for it instead of failing or tearing it apart."""
    with place.start("attach", volume_id, "--export", "socket") as attaching:
        time.sleep(0.5)  # the command is somewhere on its way: anywhere will do
        ran = place.run("detach", volume_id)
        attaching.communicate(timeout=120)

    assert attaching.returncode == 0
    assert ran.status == 0 or "is available: it is not attached" in ran.err
    if ran.status:
        place.do("detach", volume_id)
    assert place.daemons() == []
    assert loop_devices_over(place.directory) == []

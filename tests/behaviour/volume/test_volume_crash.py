"""A daemon that was killed: the next command sees it, says so and repairs it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.behaviour.volume.place import SOURCE, Place, is_running, loop_devices_over, mounts_below, wait_until

MIB = 1 << 20
EXPORTS = ("socket", "fuse")


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("export", EXPORTS)
def test_a_killed_daemon_is_shown_as_lost(place: Place, volume_id: str, export: str) -> None:
    """`ls`, `show` and `check` say so, and none of them changes anything."""
    place.do("attach", volume_id, "--export", export)
    place.kill_daemon(volume_id)

    assert "in-use (lost)" in place.do("ls")
    assert place.attachment(volume_id)["State"] == "lost"
    checked = place.run("check", volume_id)
    assert checked.status == 1
    assert "the daemon has died" in checked.out


@pytest.mark.parametrize("export", EXPORTS)
def test_attach_replaces_a_killed_daemon(place: Place, volume_id: str, export: str) -> None:
    """What was flushed is there; what the old daemon left is gone; a note says what happened."""
    device = place.do("attach", volume_id, "--export", export)
    run("qemu-io", "-f", "raw", "-c", "write -P 5 0 4M", "-c", "flush", device)
    place.kill_daemon(volume_id)

    ran = place.run("attach", volume_id, "--export", export)

    assert ran.status == 0, ran.err
    assert "had died" in ran.err
    assert "failed" not in run("qemu-io", "-f", "raw", "-c", "read -P 5 0 4M", ran.out.strip())
    assert place.attachment(volume_id)["State"] == "attached"
    assert len(place.daemons()) == 1
    assert len(loop_devices_over(place.directory)) == (1 if export == "fuse" else 0)


@pytest.mark.parametrize("export", EXPORTS)
def test_detach_clears_up_after_a_killed_daemon(place: Place, volume_id: str, export: str) -> None:
    """No mount, no loop device, no socket, no directory; the volume is available and sound."""
    place.do("attach", volume_id, "--export", export)
    place.kill_daemon(volume_id)

    place.do("detach", volume_id)

    assert loop_devices_over(place.directory) == []
    assert mounts_below(place.directory) == []
    assert list(place.runtime.iterdir()) == []
    assert place.show(volume_id)["State"] == "available"
    place.do("check", volume_id)


def test_a_mount_over_a_dead_loop_device_is_named(place: Place, volume_id: str, tmp_path: Path) -> None:
    """Its loop device cannot be saved: attach and detach say what to unmount; after that, or by force, all is well."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    device = place.do("attach", volume_id, "--export", "fuse")
    run("mkfs.ext4", "-q", device)
    run("mount", device, mountpoint)
    place.kill_daemon(volume_id)
    try:
        for command in ("attach", "detach"):
            assert f"mounted on {mountpoint}" in place.refused(command, volume_id)
    finally:
        subprocess.run(["umount", mountpoint], check=False, capture_output=True)

    device = place.do("attach", volume_id, "--export", "fuse")

    run("e2fsck", "-fy", device)
    assert loop_devices_over(place.directory) == [device]


def test_force_takes_down_a_mount_over_a_dead_device(place: Place, volume_id: str, tmp_path: Path) -> None:
    """Nothing waits for the dead daemon."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    device = place.do("attach", volume_id, "--export", "fuse")
    run("mkfs.ext4", "-q", device)
    run("mount", device, mountpoint)
    place.kill_daemon(volume_id)

    place.do("detach", volume_id, "--force")

    assert not os.path.ismount(mountpoint)
    assert place.show(volume_id)["State"] == "available"
    wait_until(lambda: loop_devices_over(place.directory) == [])


def test_a_daemon_that_hangs_is_ended_by_force(place: Place, volume_id: str) -> None:
    """Stopped by SIGSTOP it answers nothing; --force ends it all the same, and only --force."""
    place.do("attach", volume_id, "--export", "socket")
    pid = int(place.attachment(volume_id)["Pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "did not answer" in place.refused("detach", volume_id)
        assert is_running(pid)
        ran = place.run("detach", volume_id, "--force")
        assert ran.status == 0, ran.err
        assert not is_running(pid)
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGCONT)
    assert place.show(volume_id)["State"] == "available"


def test_an_attach_that_is_interrupted_leaves_nothing(place: Place, volume_id: str) -> None:
    """Ctrl-C while the daemon starts: it is ended, and the volume is available at once."""
    with place.start("attach", volume_id, "--export", "socket") as attaching:
        wait_until(lambda: place.daemons() != [])
        attaching.send_signal(signal.SIGINT)
        attaching.communicate(timeout=60)

    assert attaching.returncode in (0, 130)
    if attaching.returncode:
        assert place.daemons() == []
        assert place.show(volume_id)["State"] == "available"
        assert list(place.runtime.iterdir()) == []


def test_a_start_that_takes_too_long_is_given_up(place: Place, volume_id: str) -> None:
    """The daemon is ended, and the error says which setting to look at."""
    said = place.refused("attach", volume_id, "--export", "socket", EBSCRYPT_ATTACH_START_TIMEOUT="0.05")

    assert "was not ready within 0.05 s" in said
    assert "attach.start_timeout" in said
    assert place.daemons() == []
    assert place.show(volume_id)["State"] == "available"


FAILING = """
import os
from ebscrypt.daemon import privileges

def become(identity):
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    raise OSError(1, "half way")

privileges.become = become
"""


@pytest.mark.parametrize("export", EXPORTS)
def test_a_daemon_that_cannot_drop_its_privileges_leaves_nothing(place: Place, volume_id: str, export: str) -> None:
    """Half way it may not take its own device down any more: the command that waits for it does, at once."""
    patch = place.directory / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(FAILING)

    said = place.refused("attach", volume_id, "--export", export, PYTHONPATH=f"{patch}:{SOURCE}")

    assert "half way" in said
    assert place.daemons() == []
    assert loop_devices_over(place.directory) == []
    assert mounts_below(place.directory) == []
    assert list(place.runtime.iterdir()) == []
    shown = place.show(volume_id)
    assert (shown["State"], "half way" in shown["AttachFailure"]) == ("available", True)
    place.do("attach", volume_id, "--export", export)

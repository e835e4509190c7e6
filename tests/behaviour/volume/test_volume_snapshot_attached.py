"""Snapshots of attached volumes as a user makes them: under load, with a file system, with processes that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.control import freezing, runtime
from ebscrypt.control.site import Site
from tests.behaviour.volume.place import Place


def settings_of(place: Place) -> config.Settings:
    return config.load({name: value for name, value in place.environ.items() if name.startswith("EBSCRYPT_")})


@pytest.fixture
def mounted(place: Place, tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    """A volume with ext4 on it, mounted through the FUSE export and a loop device: id, device, mount point."""
    volume_id = place.do("create", "--size", "64M")
    device = place.do("attach", volume_id, "--export", "fuse")
    where = tmp_path / "mount"
    where.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, where], check=True)
    try:
        yield volume_id, device, where
    finally:
        subprocess.run(["umount", where], check=True)


def journal_is_clean(place: Place, snapshot_id: str) -> bool:
    """Whether the file system in a snapshot was left as by an unmount; it is without damage in any case."""
    volume_id = place.do("create", "--snapshot-id", snapshot_id)
    device = place.do("attach", volume_id, "--export", "fuse")
    try:
        told = subprocess.run(["dumpe2fs", "-h", device], check=True, capture_output=True, text=True).stdout
        if "needs_recovery" not in told:
            subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
            return True
        return False
    finally:
        place.do("detach", volume_id)


def test_a_file_system_is_frozen_for_the_instant_only(place: Place, mounted: tuple[str, str, Path]) -> None:
    """What a program wrote and did not sync is in the snapshot, whose journal needs no replay; then writing goes on."""
    volume_id, _, where = mounted
    (where / "file").write_bytes(b"not synced" * 1000)
    snapshot_id = place.do("snapshot", "create", volume_id, "--freeze")
    (where / "later").write_bytes(b"x")
    os.sync()
    place.do("snapshot", "show", snapshot_id, "--wait")

    assert journal_is_clean(place, snapshot_id)
    assert not journal_is_clean(place, place.do("snapshot", "create", volume_id, "--wait"))


def test_a_file_system_goes_on_when_who_froze_it_is_killed(place: Place, mounted: tuple[str, str, Path]) -> None:
    """The process that is to thaw it outlives the one that froze it."""
    volume_id, _, where = mounted
    settings = settings_of(place)
    attachment = runtime.read_attachment(settings, volume_id)
    assert attachment is not None
    pid = os.fork()
    if pid == 0:
        with Site(settings) as site, freezing.frozen(site, attachment):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    writing = subprocess.Popen(["sh", "-c", f"echo x > {where}/file && sync -f {where}"])

    assert writing.wait(20) == 0


def test_nothing_to_freeze_is_told(place: Place, volume_id: str) -> None:
    """Attached or not, the snapshot is made, and a note says that no file system had a part in it."""
    ran = place.run("snapshot", "create", volume_id, "--freeze", "--wait")
    assert ran.status == 0
    assert "nothing was frozen" in ran.err
    place.do("attach", volume_id, "--export", "fuse")
    ran = place.run("snapshot", "create", volume_id, "--freeze", "--wait")
    assert ran.status == 0
    assert "nothing was frozen" in ran.err


def test_detaching_by_force_ends_a_snapshot(place: Place, volume_id: str) -> None:
    """Without it detach names the snapshot; with it the snapshot has failed, and the next one can be made."""
    uri = place.do("attach", volume_id, "--export", "socket")
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 1 0 32M", uri], check=True, capture_output=True)
    place.environ["PYTHONPATH"] += f":{storing_held_up(place)}"
    snapshot_id = place.do("snapshot", "create", volume_id)

    assert snapshot_id in place.refused("detach", volume_id)
    ran = place.run("detach", volume_id, "--force")
    assert ran.status == 0
    assert snapshot_id in ran.err
    assert json.loads(place.do("snapshot", "show", snapshot_id, "--output", "json"))["State"] == "error"
    (place.directory / "go-on").touch()
    place.do("snapshot", "create", volume_id, "--wait")


def storing_held_up(place: Place) -> Path:
    """A place for PYTHONPATH that lets storing processes wait for a file to appear before they do anything."""
    folder = place.directory / "slow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "while 'settle' in sys.orig_argv and not os.path.exists(" + repr(str(place.directory / "go-on")) + "):\n"
        "    time.sleep(0.02)\n"
    )
    return folder

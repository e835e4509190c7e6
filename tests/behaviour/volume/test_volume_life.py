"""A volume's life at the command line, with real daemons and clients that nobody here wrote."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.behaviour.volume.place import (
    SOURCE,
    Place,
    environ_of,
    is_running,
    loop_devices_over,
    mounts_below,
    running,
    wait_until,
)

MIB = 1 << 20
SECRET = b"Attack at dawn. This sentence must not be found in the backing file. "


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def nothing_left(place: Place) -> None:
    """No process, no socket, no mount and no loop device of this place."""
    assert place.daemons() == []
    assert not place.runtime.exists() or list(place.runtime.iterdir()) == []
    assert loop_devices_over(place.directory) == []
    assert mounts_below(place.directory) == []


def test_what_was_written_is_there_after_detach_and_attach(place: Place, volume_id: str, tmp_path: Path) -> None:
    """By nbdcopy in, detach, attach, by nbdcopy out: the same bytes; in the backing file nothing of them."""
    written, read = tmp_path / "in", tmp_path / "out"
    written.write_bytes((SECRET * (64 * MIB // len(SECRET) + 1))[: 64 * MIB])
    uri = place.do("attach", volume_id, "--export", "socket")
    assert uri.startswith("nbd+unix:///")
    run("nbdcopy", "--flush", written, uri)
    place.do("detach", volume_id)
    nothing_left(place)

    run("nbdcopy", place.do("attach", volume_id, "--export", "socket"), read)
    place.do("detach", volume_id)

    assert read.read_bytes() == written.read_bytes()
    assert SECRET not in Path(place.show(volume_id)["Backing"]).read_bytes()
    nothing_left(place)


def test_a_file_system_lives_on_the_block_device(place: Place, volume_id: str, tmp_path: Path) -> None:
    """mkfs, mount, write, unmount, detach; attach, fsck, mount, read: by a real block device."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    device = place.do("attach", volume_id)
    assert re.fullmatch(r"/dev/(nbd|loop)\d+", device)
    run("mkfs.ext4", "-q", device)
    run("mount", device, mountpoint)
    try:
        (mountpoint / "file").write_bytes(SECRET * 1000)
    finally:
        run("umount", mountpoint)
    place.do("detach", volume_id)
    nothing_left(place)

    device = place.do("attach", volume_id)
    run("e2fsck", "-fn", device)
    run("mount", device, mountpoint)
    try:
        assert (mountpoint / "file").read_bytes() == SECRET * 1000
    finally:
        run("umount", mountpoint)
    place.do("detach", volume_id)

    assert SECRET not in Path(place.show(volume_id)["Backing"]).read_bytes()
    nothing_left(place)


def test_a_plain_volume_keeps_its_bytes_as_they_are(place: Place) -> None:
    """What qemu-io writes is in the backing file at the same place."""
    volume_id = place.do("create", "--size", "64M", "--no-encrypted")
    uri = place.do("attach", volume_id, "--export", "socket")

    run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "flush", uri)
    place.do("detach", volume_id)

    stored = Path(place.show(volume_id)["Backing"]).read_bytes()
    assert stored[MIB : MIB + 65536] == b"\x5a" * 65536
    assert not any(stored[:MIB])


def test_a_volume_on_a_block_device(place: Place, tmp_path: Path) -> None:
    """Create on a device, write, detach, attach, read, grow; delete leaves the device without a header."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(144 * MIB)
    device = run("losetup", "-f", "--show", disk).strip()
    try:
        volume_id = place.do("create", "--backing", device, "--size", "64M")
        run("qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", place.do("attach", volume_id, "--export", "socket"))
        assert f"is the backing of {volume_id}" in place.refused("create", "--backing", device, "--force")
        place.do("detach", volume_id)
        out = run("qemu-io", "-f", "raw", "-c", "read -P 7 0 1M", place.do("attach", volume_id, "--export", "socket"))
        assert "Pattern verification failed" not in out
        place.do("resize", volume_id, "--size", "128M")
        assert int(run("nbdinfo", "--size", place.attachment(volume_id)["Device"])) == 128 * MIB
        assert "room for a volume of" in place.refused("resize", volume_id, "--size", "129M")
        place.do("check", volume_id)
        place.do("detach", volume_id)
        place.do("check", volume_id)
        place.do("delete", volume_id)
        assert subprocess.run(["blkid", "-p", device], check=False, capture_output=True).returncode == 2
    finally:
        run("losetup", "-d", device)


def test_read_only_means_that_nobody_writes(place: Place, volume_id: str) -> None:
    """The device refuses writes, and says so in its flags."""
    place.do("attach", volume_id, "--export", "socket")
    place.do("detach", volume_id)
    uri = place.do("attach", volume_id, "--export", "socket", "--read-only")
    before = Path(place.show(volume_id)["Backing"]).read_bytes()

    assert "is_read_only: true" in run("nbdinfo", uri)
    assert place.attachment(volume_id)["ReadOnly"] is True
    assert "read-only" in place.refused("resize", volume_id, "--size", "128M")
    place.do("detach", volume_id)

    assert Path(place.show(volume_id)["Backing"]).read_bytes() == before


def test_show_and_json_tell_the_attachment(place: Place, volume_id: str) -> None:
    """The record that attach prints is the one that show has."""
    made = place.run("attach", volume_id, "--export", "socket", "--output", "json").json

    shown = place.show(volume_id)
    assert shown["State"] == "in-use"
    assert shown["Attachments"] == [made]
    assert made["State"] == "attached"
    assert made["Device"] == made["Device"].strip()
    assert made["KeyMemory"] in ("memfd_secret", "memfd")
    assert is_running(made["Pid"])
    assert made["Socket"] in made["Device"]
    assert place.do("ls").splitlines()[1].split()[1] == "in-use"


def test_the_daemon_outlives_the_command_and_its_terminal(place: Place, volume_id: str) -> None:
    """It is in a session of its own, has no open descriptor of the caller, and stands in "/"."""
    place.do("attach", volume_id, "--export", "socket")
    pid = int(place.attachment(volume_id)["Pid"])

    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    targets = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert not any(target.startswith("pipe:") for target in targets)
    assert (place.runtime / volume_id / "daemon.log").stat().st_mode & 0o777 == 0o600


def test_the_block_device_has_a_name_that_stays(place: Place, volume_id: str) -> None:
    """/dev/disk/by-id/ebscrypt-vol-… leads to it while it is attached."""
    device = place.do("attach", volume_id)
    link = Path(f"/dev/disk/by-id/ebscrypt-{volume_id}")
    wait_until(link.exists)

    assert link.resolve() == Path(device)
    place.do("detach", volume_id)

    wait_until(lambda: not link.is_symlink())


@pytest.mark.parametrize("export", ["socket", "fuse"])
def test_an_attached_volume_grows(place: Place, volume_id: str, export: str) -> None:
    """The device has the new size at once, and the new part can be written and is kept."""
    device = place.do("attach", volume_id, "--export", export)

    place.do("resize", volume_id, "--size", "96M")

    size = run("nbdinfo", "--size", device) if export == "socket" else run("blockdev", "--getsize64", device)
    assert int(size) == 96 * MIB
    assert place.show(volume_id)["SizeBytes"] == 96 * MIB
    run("qemu-io", "-f", "raw", "-c", f"write -P 9 {95 * MIB} 1M", "-c", "flush", device)
    place.do("detach", volume_id)
    device = place.do("attach", volume_id, "--export", export)
    assert "failed" not in run("qemu-io", "-f", "raw", "-c", f"read -P 9 {95 * MIB} 1M", device)


def test_a_mounted_file_system_grows_with_it(place: Place, tmp_path: Path) -> None:
    """Resize, let the file system grow, and the mount has the room; nothing is unmounted, nothing is lost."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    volume_id = place.do("create", "--size", "320M")
    device = place.do("attach", volume_id)
    run("mkfs.xfs", "-q", device)
    run("mount", device, mountpoint)
    try:
        (mountpoint / "file").write_bytes(SECRET * 1000)
        before = os.statvfs(mountpoint).f_blocks
        place.do("resize", volume_id, "--size", "640M")
        run("xfs_growfs", mountpoint)
        after = os.statvfs(mountpoint).f_blocks
        run("umount", mountpoint)
        run("xfs_repair", "-n", device)
        run("mount", device, mountpoint)
        assert (mountpoint / "file").read_bytes() == SECRET * 1000
    finally:
        run("umount", mountpoint)

    assert after > 1.9 * before


def test_without_root_a_volume_is_a_socket(place: Place) -> None:
    """A user has a state of his own, the embedded KMS, and a socket for qemu and libnbd."""
    home = place.directory / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    place.directory.chmod(0o755)
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "-u", "EBSCRYPT_STATE_DIR")
    environ = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "PYTHONPATH": str(SOURCE)}

    def do(*words: str) -> str:
        ran = place.run(*words, prefix=prefix, environ=environ)
        assert ran.status == 0, ran.err
        return ran.out.strip()

    volume_id = do("create", "--size", "64M")
    uri = do("attach", volume_id)
    [pid] = [pid for pid in running("ebscrypt.daemon") if str(home).encode() in environ_of(pid)]
    try:
        assert Path(f"/proc/{pid}").stat().st_uid in (0, 65534)  # root owns /proc of what may not be dumped
        assert "Uid:\t65534" in Path(f"/proc/{pid}/status").read_text()
        out = run(*prefix[:4], "nbdinfo", "--size", uri)
        assert int(out) == 64 * MIB
    finally:
        do("detach", volume_id)
    do("delete", volume_id)
    assert (home / ".local/state/ebscrypt/catalog.db").exists()

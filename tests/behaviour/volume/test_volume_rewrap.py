"""`ebscrypt rewrap` at the command line: another KMS key under a volume, also one that is in use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from ebscrypt import config
from ebscrypt.control.site import Site
from tests.behaviour.volume.place import Place, is_running, wait_until

MIB = 1 << 20
KILLED_AFTER_THE_HEADER = """
import os, signal, sys
from ebscrypt.cli.main import main
from ebscrypt.control import faultpoints
faultpoints.reach = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == "rewrap.described" else None
sys.exit(main(["rewrap", sys.argv[1], "--kms-key-id", sys.argv[2]]))
"""


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def new_key(place: Place) -> str:
    return place.do("kms", "create-key")


def grants_of(place: Place, *keys: str) -> int:
    """How many grants KMS has for these keys."""
    settings = config.load({name: value for name, value in place.environ.items() if name.startswith("EBSCRYPT_")})
    with Site(settings) as site:
        return sum(len(site.kms.call("ListGrants", KeyId=key)["Grants"]) for key in keys)


def reads(device: str, pattern: int) -> bool:
    """Whether the first 4 MiB are what `write` has put there."""
    return "failed" not in run("qemu-io", "-f", "raw", "-c", f"read -P {pattern} 0 4M", device)


def write(device: str, pattern: int) -> None:
    run("qemu-io", "-f", "raw", "-c", f"write -P {pattern} 0 4M", "-c", "flush", device)


def test_a_volume_outlives_the_key_that_it_was_made_with(place: Place) -> None:
    """Rewrapped to a second key, it attaches when the first is pending deletion; JSON shows the new one."""
    first, second = new_key(place), new_key(place)
    volume_id = place.do("create", "--size", "64M", "--kms-key-id", first)
    write(place.do("attach", volume_id, "--export", "socket"), 7)
    place.do("detach", volume_id)
    place.do("kms", "create-alias", "--alias-name", "alias/second", "--target-key-id", second)

    ran = place.run("rewrap", volume_id, "--kms-key-id", "alias/second", "--output", "json")
    assert ran.status == 0, ran.err
    assert ran.json["KmsKeyId"] == second
    assert "older copy of the header" in ran.err
    place.do("kms", "schedule-key-deletion", first, "--pending-window-in-days", "7")

    assert reads(place.do("attach", volume_id, "--export", "socket"), 7)
    place.do("check", volume_id, "--unwrap")


def test_an_attached_volume_is_rewrapped_under_its_users(place: Place, volume_id: str, tmp_path: Path) -> None:
    """A mounted file system notices nothing; a daemon that dies comes back by the new key, with the old one disabled.

    Its grant is one on the new key from then on.
    """
    old, first, new = place.show(volume_id)["KmsKeyId"], new_key(place), new_key(place)
    place.do("rewrap", volume_id, "--kms-key-id", first)
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    device = place.do("attach", volume_id, "--export", "fuse")
    run("mkfs.ext4", "-q", device)
    run("mount", device, mountpoint)
    try:
        (mountpoint / "before").write_bytes(b"b" * MIB)
        ran = place.run("rewrap", volume_id, "--kms-key-id", new)
        assert ran.status == 0, ran.err
        assert f"is wrapped by {new}" in ran.err
        assert place.show(volume_id)["KmsKeyId"] == new
        (mountpoint / "after").write_bytes(b"a" * MIB)
        place.do("check", volume_id, "--unwrap")
        assert (grants_of(place, first), grants_of(place, new)) == (0, 1)
    finally:
        run("umount", mountpoint)
    place.do("kms", "disable-key", first)
    place.kill_daemon(volume_id)

    device = place.do("attach", volume_id, "--export", "fuse")

    run("mount", device, mountpoint)
    try:
        assert (mountpoint / "before").read_bytes() == b"b" * MIB
        assert (mountpoint / "after").read_bytes() == b"a" * MIB
    finally:
        run("umount", mountpoint)
    place.do("detach", volume_id)
    assert grants_of(place, old, first, new) == 0


def test_a_rewrapped_volume_still_grows(place: Place, volume_id: str) -> None:
    """The daemon writes the header then: it takes what is there, and not what it read when it started."""
    new = new_key(place)
    device = place.do("attach", volume_id, "--export", "socket")
    write(device, 9)
    place.do("rewrap", volume_id, "--kms-key-id", new)

    place.do("resize", volume_id, "--size", "96M")
    place.do("detach", volume_id)

    assert place.show(volume_id)["KmsKeyId"] == new
    assert reads(place.do("attach", volume_id, "--export", "socket"), 9)


def test_a_volume_on_a_block_device_that_is_attached(place: Place, tmp_path: Path) -> None:
    """Its daemon has the device exclusively; the header is written beside it."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(48 * MIB)
    loop = run("losetup", "-f", "--show", disk).strip()
    try:
        volume_id = place.do("create", "--backing", loop)
        write(place.do("attach", volume_id, "--export", "socket"), 3)
        place.do("rewrap", volume_id, "--kms-key-id", new_key(place))
        place.do("detach", volume_id)
        assert reads(place.do("attach", volume_id, "--export", "socket"), 3)
        place.do("check", volume_id, "--unwrap")
        place.do("detach", volume_id)
    finally:
        run("losetup", "-d", loop)


def test_a_dry_run_tells_and_changes_nothing(place: Place, volume_id: str) -> None:
    """What KMS would refuse is refused."""
    before, new = place.show(volume_id), new_key(place)

    assert place.do("rewrap", volume_id, "--kms-key-id", new, "--dry-run") == ""
    assert place.show(volume_id) == before
    place.do("kms", "disable-key", new)
    assert "disabled" in place.refused("rewrap", volume_id, "--kms-key-id", new, "--dry-run")


def test_a_volume_that_starts_or_has_lost_its_daemon_is_refused(place: Place, volume_id: str) -> None:
    """The header may be about to be written; the hint says what to do."""
    new = new_key(place)
    place.do("attach", volume_id, "--export", "socket")
    place.kill_daemon(volume_id)

    assert "the daemon of volume" in place.refused("rewrap", volume_id, "--kms-key-id", new)

    place.do("attach", volume_id, "--export", "socket")
    place.do("rewrap", volume_id, "--kms-key-id", new)


def test_a_daemon_started_by_systemd_after_a_killed_rewrap(place: Place, volume_id: str) -> None:
    """Header written, catalog not: the unit's steps run no recovery of their own, and yet the daemon gets on."""
    new = new_key(place)
    write(place.do("attach", volume_id, "--export", "socket"), 5)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_THE_HEADER, volume_id, new],
        env=place.environ,
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    # Found by its process: `show` would put the volume in order first.
    [pid] = place.daemons()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))

    place.do("attachment", "prepare", volume_id)

    spec = json.loads((place.runtime / volume_id / "spec.json").read_bytes())
    assert spec["kms_key_arn"] == new
    assert reads(place.do("attach", volume_id, "--export", "socket"), 5)
    assert place.show(volume_id)["KmsKeyId"] == new

"""What becomes of an attached volume when its KMS key cannot be used any more, and when it can again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import keyscan
from tests.behaviour.volume.place import Place, is_running, loop_devices_over, mounts_below, running, wait_until

pytestmark = pytest.mark.timeout(180)
EXPORTS = pytest.mark.parametrize("export", ["socket", "fuse"])


@pytest.fixture
def waiting() -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that may wait for a suspended volume: no signal ends them before its end does."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.communicate(timeout=60)


@pytest.fixture
def place(waiting: list[subprocess.Popen[str]]) -> Iterator[Place]:  # noqa: ARG001 - it ends what those wait for
    """A place where keys are tried twice a second, and nothing of a watch is left at the end."""
    made = Place()
    made.environ["EBSCRYPT_ATTACH_KEY_CHECK_INTERVAL"] = "0.5"
    try:
        yield made
    finally:
        made.close()
    wait_until(lambda: watches(made) == [])


@pytest.fixture
def key(place: Place) -> str:
    return place.do("kms", "create-key")


def make(place: Place, key: str, mode: str) -> str:
    return place.do("create", "--size", "64M", "--kms-key-id", key, "--on-key-unusable", mode)


def watches(place: Place) -> list[int]:
    """Processes that watch a key of this place, or check or detach for one that does."""
    wanted = f"EBSCRYPT_PATHS_STATE={place.directory / 's'}\0".encode()
    found = []
    for pid in running("attachment"):
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes() and is_running(pid):
                found.append(pid)
    return found


def known(place: Place, volume_id: str) -> dict[str, Any]:
    """What the watch has written down: a command for each look would be most of the work of these tests."""
    try:
        record: dict[str, Any] = json.loads((place.runtime / volume_id / "watch.json").read_bytes())
    except FileNotFoundError:
        return {}
    return record


def disable(place: Place, key: str, volume_id: str, access: str) -> None:
    """Disable the key, and wait until that had its effect."""
    place.do("kms", "disable-key", key)
    wait_until(lambda: known(place, volume_id).get("access") == access)
    assert place.attachment(volume_id)["Access"] == access


def enable(place: Place, key: str, volume_id: str) -> None:
    place.do("kms", "enable-key", key)
    wait_until(lambda: known(place, volume_id)["usable"] and known(place, volume_id)["access"] is None)


def told(place: Place, volume_id: str) -> list[tuple[str, str]]:
    """The events about the volume's key, in order."""
    events = map(json.loads, place.run("events", "--output", "json").out.splitlines())
    details = [event for event in events if event["source"] == "ebscrypt"]
    assert all(volume_id in event["resources"][0] for event in details)
    return [(event["detail"]["event"], event["detail"]["result"]) for event in details]


def qemu_io(device: str, *commands: str) -> subprocess.Popen[str]:
    words = [word for command in commands for word in ("-c", command)]
    return subprocess.Popen(
        ["qemu-io", "-f", "raw", "-t", "none", device, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def did(device: str, *commands: str) -> str:
    """What qemu-io said, which does not fail when a request does."""
    with qemu_io(device, *commands) as process:
        return process.communicate(timeout=60)[0]


@EXPORTS
def test_read_only_refuses_writes_until_the_key_is_back(place: Place, key: str, export: str) -> None:
    """Reads go on; a write fails, and changes nothing; each step has its event, in order and once."""
    volume_id = make(place, key, "read-only")
    device = place.do("attach", volume_id, "--export", export)
    assert "wrote 1048576" in did(device, "write -P 5 0 1M", "flush")

    disable(place, key, volume_id, "read-only")
    refused = did(device, "write -P 6 0 1M")
    assert "failed" in refused
    assert "wrote" not in refused
    read = did(device, "read -P 5 0 1M")
    assert "read 1048576" in read
    assert "failed" not in read
    assert place.attachment(volume_id)["KeyWatch"]["Cause"] == f"{key} is disabled."

    enable(place, key, volume_id)
    assert "wrote 1048576" in did(device, "write -P 7 0 1M", "read -P 7 0 1M")
    place.do("detach", volume_id)
    assert told(place, volume_id) == [
        ("checkKey", "unusable"),
        ("changeAccess", "read-only"),
        ("checkKey", "usable"),
        ("changeAccess", "read-write"),
    ]


@EXPORTS
def test_suspend_lets_requests_wait_until_the_key_is_back(
    place: Place, key: str, waiting: list[subprocess.Popen[str]], export: str
) -> None:
    """No request fails; meanwhile the daemon's memory has no key; afterwards everything is there."""
    volume_id = make(place, key, "suspend")
    device = place.do("attach", volume_id, "--export", export)
    assert "wrote 1048576" in did(device, "write -P 5 0 1M")
    pid = int(place.attachment(volume_id)["Pid"])

    disable(place, key, volume_id, "suspended")
    client = qemu_io(device, "read -P 5 0 1M", "write -P 6 1M 1M", "flush", "read -P 6 1M 1M")
    waiting.append(client)
    scan = keyscan.scan_process(pid, data_key(place, key, volume_id))
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(2)
    enable(place, key, volume_id)
    said = client.communicate(timeout=60)[0]

    assert scan.hits == []
    assert client.returncode == 0
    assert "failed" not in said
    assert "wrote 1048576" in said
    place.do("detach", volume_id)
    assert told(place, volume_id) == [
        ("checkKey", "unusable"),
        ("changeAccess", "suspended"),
        ("checkKey", "usable"),
        ("changeAccess", "read-write"),
    ]


def data_key(place: Place, key: str, volume_id: str) -> bytes:
    """What no process that lives on may hold: asked of the embedded KMS in the moment in which its key is enabled."""
    from ebscrypt import config, luks2  # noqa: PLC0415 - beside their one use
    from ebscrypt.kms.client import KmsClient  # noqa: PLC0415 - the same

    with (place.volumes_dir / f"{volume_id}.luks").open("rb") as backing:
        token = luks2.read_header(backing.fileno()).header.token()
    # A copy of the store, so that the watch does not see the key come back.
    copy = place.directory / "copy"
    shutil.copytree(place.directory / "s" / "kms", copy / "kms")
    settings = config.load({"EBSCRYPT_STATE_DIR": str(copy), "EBSCRYPT_CONFIG": os.devnull})
    kms = KmsClient(settings)
    kms.call("EnableKey", KeyId=key)
    return kms.decrypt(token.wrapped_key, token.encryption_context).plaintext


def test_detach_takes_the_volume_down_with_its_file_system(place: Place, key: str, tmp_path: Path) -> None:
    """What was written is synced and there again; the event says why; nothing is left of daemon, device and watch."""
    volume_id = make(place, key, "detach")
    device = place.do("attach", volume_id, "--export", "fuse")
    run("mkfs.ext4", "-q", device)
    run("mount", device, tmp_path)
    (tmp_path / "file").write_text("not synced by us")

    place.do("kms", "disable-key", key)
    wait_until(lambda: not (place.runtime / volume_id).exists())
    wait_until(lambda: place.show(volume_id)["State"] == "available")

    assert not os.path.ismount(tmp_path)
    assert place.daemons() == []
    wait_until(lambda: watches(place) == [])
    assert list(place.runtime.iterdir()) == []
    assert told(place, volume_id) == [("checkKey", "unusable"), ("changeAccess", "detached")]
    assert f"{key} is disabled" in place.refused("attach", volume_id)
    place.do("kms", "enable-key", key)
    device = place.do("attach", volume_id, "--export", "fuse")
    run("mount", device, tmp_path)
    try:
        assert (tmp_path / "file").read_text() == "not synced by us"
    finally:
        run("umount", tmp_path)


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_kms_out_of_reach_changes_nothing(place: Place, key: str) -> None:
    """Its silence is no verdict: `show` says since when nothing is known, no event comes, and writes go on."""
    volume_id = make(place, key, "detach")
    with place.start("kms", "serve", "--port", "0") as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        place.environ |= {
            "EBSCRYPT_KMS": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "EBSCRYPT_KMS_DEADLINE": "2",
            "EBSCRYPT_KMS_GRANTS": "never",
        }
        device = place.do("attach", volume_id, "--export", "socket")
        wait_until(lambda: known(place, volume_id).get("usable") is True)
        server.terminate()
        server.communicate(timeout=30)

    wait_until(lambda: known(place, volume_id)["unknown_since"] is not None)
    first = known(place, volume_id)["checked"]
    wait_until(lambda: known(place, volume_id)["checked"] > first)

    shown = place.attachment(volume_id)["KeyWatch"]
    assert shown["Usable"] is True
    assert "cannot be reached" in shown["UnknownCause"]
    assert "wrote 1048576" in did(device, "write -P 5 0 1M")
    assert told(place, volume_id) == []
    place.do("detach", volume_id)


def test_a_suspended_volume_that_nobody_uses_is_detached(place: Place, key: str) -> None:
    """At once, without its key, and without --force: what it acknowledged was durable when it was suspended."""
    volume_id = make(place, key, "suspend")
    device = place.do("attach", volume_id, "--export", "fuse")
    assert "wrote 1048576" in did(device, "write -P 5 0 1M")
    disable(place, key, volume_id, "suspended")
    assert "is suspended" in place.refused("resize", volume_id, "--size", "65M")

    place.do("detach", volume_id)

    assert loop_devices_over(place.directory) == []
    assert mounts_below(place.directory) == []
    place.do("kms", "enable-key", key)
    device = place.do("attach", volume_id, "--export", "fuse")
    assert "failed" not in did(device, "read -P 5 0 1M")


def test_a_suspended_volume_in_use_is_detached_by_force_only(
    place: Place, key: str, waiting: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Mounted, with data to be written and a program that waits: refused with the way out; by force nothing hangs."""
    volume_id = make(place, key, "suspend")
    device = place.do("attach", volume_id, "--export", "fuse")
    run("mkfs.ext4", "-q", device)
    run("mount", device, tmp_path)
    (tmp_path / "durable").write_text("synced")
    run("sync", "-f", tmp_path)
    disable(place, key, volume_id, "suspended")
    command = ["dd", "if=/dev/zero", f"of={tmp_path}/waits", "bs=1M", "count=8", "conv=fsync"]
    waiting.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    with pytest.raises(subprocess.TimeoutExpired):
        waiting[0].wait(1)

    refusal = place.refused("detach", volume_id)
    ran = place.run("detach", "--force", volume_id)

    assert "mounted on" in refusal
    assert "make its KMS key usable again first" in refusal
    assert ran.status == 0, ran.err
    assert "not flushed" in ran.err
    assert waiting[0].wait(30) != 0
    wait_until(lambda: loop_devices_over(place.directory) == [])
    assert place.daemons() == []
    place.do("kms", "enable-key", key)
    device = place.do("attach", volume_id, "--export", "fuse")
    subprocess.run(["e2fsck", "-fy", device], check=False, capture_output=True, timeout=60)
    run("mount", device, tmp_path)
    try:
        assert (tmp_path / "durable").read_text() == "synced"
    finally:
        run("umount", tmp_path)


def test_a_killed_watch_is_started_by_the_next_command(place: Place, key: str) -> None:
    """It goes on where the last one was: the volume that it finds read-only is let be written again."""
    volume_id = make(place, key, "read-only")
    place.do("attach", volume_id, "--export", "socket")
    disable(place, key, volume_id, "read-only")
    kill_watch(place)
    assert watches(place) == []

    place.do("kms", "enable-key", key)
    first = place.show(volume_id)["Attachments"][0]
    wait_until(lambda: known(place, volume_id)["access"] is None)

    assert first["Access"] == "read-only"
    assert place.attachment(volume_id)["Access"] == "read-write"
    assert told(place, volume_id)[-1] == ("changeAccess", "read-write")
    place.do("detach", volume_id)


def kill_watch(place: Place) -> None:
    """The watch and the check that it may have under way."""
    for pid in watches(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: watches(place) == [])


def test_a_daemon_that_died_meanwhile_is_limited_again(place: Place, key: str) -> None:
    """A new daemon knows nothing of the old one's access; the watch that follows it sees to that."""
    volume_id = make(place, key, "read-only")
    place.do("attach", volume_id, "--export", "socket")
    disable(place, key, volume_id, "read-only")
    place.kill_daemon(volume_id)

    assert f"{key} is disabled" in place.refused("attach", volume_id)
    place.do("kms", "enable-key", key)
    device = place.do("attach", volume_id, "--export", "socket")
    disable(place, key, volume_id, "read-only")

    assert "failed" in did(device, "write -P 6 0 1M")
    assert len([pid for pid in watches(place) if b"\0watch\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]) == 1
    place.do("detach", volume_id)


def test_modify_takes_effect_on_an_attached_volume(place: Place, key: str) -> None:
    """The watch begins and ends with the mode; back to ignore needs the key of a suspended volume, and says so."""
    volume_id = make(place, key, "ignore")
    device = place.do("attach", volume_id, "--export", "socket")
    assert watches(place) == []
    assert "KeyWatch" not in place.attachment(volume_id)

    place.do("kms", "disable-key", key)
    place.do("modify", volume_id, "--on-key-unusable", "suspend")
    wait_until(lambda: known(place, volume_id).get("access") == "suspended")
    refusal = place.refused("modify", volume_id, "--on-key-unusable", "ignore")
    assert f"{key} is disabled" in refusal
    assert place.show(volume_id)["OnKeyUnusable"] == "suspend"
    assert "cannot become read-only without its key" in place.refused(
        "modify", volume_id, "--on-key-unusable", "read-only"
    )

    place.do("kms", "enable-key", key)
    wait_until(lambda: place.run("modify", volume_id, "--on-key-unusable", "ignore").status == 0)
    assert place.show(volume_id)["OnKeyUnusable"] == "ignore"
    assert watches(place) == []
    place.do("kms", "disable-key", key)
    assert "wrote 1048576" in did(device, "write -P 5 0 1M")
    place.do("detach", volume_id)

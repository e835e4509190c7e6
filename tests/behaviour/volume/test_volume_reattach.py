"""A volume whose attachment was ended by a crash or a reboot, and whose key cannot be used when it is wanted again."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.behaviour.volume.place import Place
from tests.behaviour.volume.refusal import events, own_key


def qemu_io(device: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    ran = subprocess.run(["qemu-io", "-f", "raw", *words, device], capture_output=True, text=True, check=True)
    assert "failed" not in ran.stdout


@pytest.mark.parametrize("end", ["crash", "reboot"])
def test_an_unusable_key_is_a_failed_reattachment(place: Place, end: str) -> None:
    """Killed, or gone with the runtime directory: `reattachVolume` until it is attached again, with all its data."""
    key = own_key(place)
    volume_id = place.do("create", "--size", "8M", "--kms-key-id", key)
    qemu_io(place.do("attach", volume_id, "--export", "socket"), "write -P 5 0 1M", "flush")
    place.kill_daemon(volume_id)
    if end == "reboot":
        shutil.rmtree(place.runtime)
        place.do("ls")  # whichever command comes first after the boot
    place.do("kms", "disable-key", key)

    said = place.refused("attach", volume_id, "--export", "socket")
    again = place.refused("attach", volume_id, "--export", "socket")

    for told in (said, again):
        assert f"{key} is disabled" in told
    for event in events(place)[-2:]:
        assert event["detail"] == {
            "event": "reattachVolume",
            "result": "failed",
            "cause": f"{key} is disabled.",
            "request-id": "",
        }
        assert event["resources"] == [f"arn:aws:ec2:us-east-1:000000000000:volume/{volume_id}", key]
    assert place.show(volume_id)["State"] == "available"
    assert place.daemons() == []

    place.do("kms", "enable-key", key)
    qemu_io(place.do("attach", volume_id, "--export", "socket"), "read -P 5 0 1M")
    place.do("detach", volume_id)
    place.do("kms", "disable-key", key)
    place.refused("attach", volume_id, "--export", "socket")

    assert events(place)[-1]["detail"]["event"] == "attachVolume"  # detached by command: a first attachment again

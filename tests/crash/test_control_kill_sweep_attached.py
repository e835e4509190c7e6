"""Commands on attachments are killed at every point; the next command puts everything in order.

A daemon may be under way that nobody waits for any more: it must not be in the way of anything.
"""

from __future__ import annotations

import subprocess

import pytest

from ebscrypt.control.describe import describe_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.model import AttachmentState, VolumeState
from tests.behaviour.volume.place import wait_until
from tests.crash.sweep import MIB, Killer, expect_sound, newest
from tests.unit.control.unwrapping import put_in_state


def settled(killer: Killer, volume_id: str) -> AttachmentState | None:
    """How the volume is attached once a daemon that nobody waits for any more has started, or ended."""

    def state() -> AttachmentState | None:
        with Site(killer.settings) as site:
            recover(site)
            attached = describe_volume(site, volume_id).attached
            return None if attached is None else attached.state

    wait_until(lambda: state() is not AttachmentState.ATTACHING, 60)
    return state()


def expect_nothing_left(killer: Killer, volume_id: str) -> None:
    wait_until(lambda: killer.place.daemons() == [], 60)
    with Site(killer.settings) as site:
        recover(site)
        volume = site.catalog.volume(volume_id)
        assert volume.state is VolumeState.AVAILABLE
        assert site.catalog.keys.grants() == []
        if volume.encrypted:
            assert site.kms.call("ListGrants", KeyId=volume.kms_key_arn)["Grants"] == []
        assert not site.settings.runtime_dir(volume_id).exists()
        expect_sound(site, volume_id)


def detach_if_attached(killer: Killer, volume_id: str) -> None:
    state = settled(killer, volume_id)
    if state is not None:
        ran = killer.run("detach", volume_id)
        if ran["status"]:
            # The orphan gave up in the meantime.
            assert settled(killer, volume_id) is None
    expect_nothing_left(killer, volume_id)


@pytest.mark.slow
@pytest.mark.parametrize("export", ["socket", "fuse"])
def test_attach(killer: Killer, export: str) -> None:
    """The volume is attached or it is not; attached or not, the next commands work and nothing is left over."""
    chosen = ""

    def prepare() -> list[str]:
        nonlocal chosen
        killer.do("create", "--size", "8M")
        with Site(killer.settings) as site:
            chosen = newest(site)
        return ["attach", chosen, "--export", export]

    def verify(_: str) -> None:
        detach_if_attached(killer, chosen)
        killer.do("delete", chosen)

    assert killer.sweep(prepare, verify) >= 6


@pytest.mark.slow
def test_refused_attach(killer: Killer) -> None:
    """KMS makes the grant, then refuses Decrypt: killed on the way, no attachment and no grant is left."""
    key, chosen = killer.place.do("kms", "create-key"), ""

    def prepare() -> list[str]:
        nonlocal chosen
        killer.do("create", "--size", "8M", "--kms-key-id", key)
        put_in_state(killer.settings, key, "Unavailable")
        with Site(killer.settings) as site:
            chosen = newest(site)
        return ["attach", chosen, "--export", "socket"]

    def verify(_: str) -> None:
        assert settled(killer, chosen) is None
        put_in_state(killer.settings, key, "Enabled")
        expect_nothing_left(killer, chosen)
        with Site(killer.settings) as site:
            causes = [event["detail"]["cause"] for _, event in site.catalog.events() if chosen in str(event)]
        assert causes in ([""], ["", f"{key} is unavailable."])
        killer.do("delete", chosen)

    assert killer.sweep(prepare, verify, status=1) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("export", ["socket", "fuse"])
def test_detach(killer: Killer, export: str) -> None:
    """What was written is there, whatever became of the command; a second detach finishes the first."""
    chosen, pattern = "", 0

    def prepare() -> list[str]:
        nonlocal chosen, pattern
        pattern = pattern % 250 + 1
        killer.do("create", "--size", "8M")
        with Site(killer.settings) as site:
            chosen = newest(site)
        device = killer.place.do("attach", chosen, "--export", export)
        command = ["qemu-io", "-f", "raw", "-c", f"write -P {pattern} 1M 1M", device]
        subprocess.run(command, check=True, capture_output=True)
        return ["detach", chosen]

    def verify(_: str) -> None:
        detach_if_attached(killer, chosen)
        device = killer.place.do("attach", chosen, "--export", "socket")
        command = ["qemu-io", "-f", "raw", "-c", f"read -P {pattern} 1M 1M", device]
        read = subprocess.run(command, check=True, capture_output=True, text=True)
        assert "failed" not in read.stdout
        killer.place.do("detach", chosen)
        killer.do("delete", chosen)

    assert killer.sweep(prepare, verify) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--encrypted", "--no-encrypted"])
def test_resize_while_attached(killer: Killer, option: str) -> None:
    """Daemon, header and catalog agree in the end, and the device has that size."""
    chosen = ""

    def prepare() -> list[str]:
        nonlocal chosen
        killer.do("create", "--size", "8M", option)
        with Site(killer.settings) as site:
            chosen = newest(site)
        killer.place.do("attach", chosen, "--export", "socket")
        return ["resize", chosen, "--size", "16M"]

    def verify(name: str) -> None:
        with Site(killer.settings) as site:
            recover(site)
            assert site.catalog.resizes() == {}
            volume, attached = describe_volume(site, chosen)
        assert attached is not None
        assert attached.attachment is not None
        command = ["nbdinfo", "--size", attached.attachment.device]
        served = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert served == volume.size
        assert served == 16 * MIB or not name.startswith("resize.")
        killer.place.do("detach", chosen)
        expect_nothing_left(killer, chosen)
        killer.do("delete", chosen)

    assert killer.sweep(prepare, verify) >= 4

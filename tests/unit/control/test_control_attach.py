"""What attaching leaves in the catalog: whether a volume was attached, and why the last try failed."""

from __future__ import annotations

import subprocess

import pytest
from msgspec.structs import replace

from ebscrypt.control import links, process, runtime
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.detach import finish_detachment
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.unit import run_step
from ebscrypt.errors import DaemonError, DaemonLost, KmsKeyDisabled
from ebscrypt.model import Attachment, Volume, VolumeState
from tests.unit.control.unwrapping import FakeDaemons


def kinds(site: Site) -> list[str]:
    return [event["detail"]["event"] for _, event in site.catalog.events()]


@pytest.mark.usefixtures("daemons")
def test_only_a_command_detaches_for_good(site: Site, volume: Volume) -> None:
    """From attach on it was attached, through whatever systemd and crashes do, until `detach`."""
    assert not volume.was_attached
    attach_volume(site, volume.volume_id)
    assert site.catalog.volume(volume.volume_id).was_attached

    assert finish_detachment(site, volume.volume_id, was_attached=True).was_attached
    attach_volume(site, volume.volume_id)

    assert not finish_detachment(site, volume.volume_id).was_attached


def test_a_lost_attachment_that_is_taken_down_is_not_forgotten(
    site: Site, volume: Volume, daemons: FakeDaemons
) -> None:
    """The key is disabled when the dead daemon is to be replaced: EBS calls that a reattachment, each time."""
    attach_volume(site, volume.volume_id)
    daemons.die(volume.volume_id)
    runtime.directory(site.settings, volume.volume_id).path.joinpath("spec.json").unlink()
    site.kms.call("CreateKey")
    key = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    site.kms.call("DisableKey", KeyId=key)
    site.catalog.correct(volume.volume_id, kms_key_arn=key)

    for _ in range(2):
        with pytest.raises(KmsKeyDisabled):
            attach_volume(site, volume.volume_id)
        recover(site)

    assert kinds(site)[1:] == ["reattachVolume"] * 2


def test_a_failure_is_kept_until_it_is_over(
    site: Site, volume: Volume, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was; a success clears it. Only what KMS refused is an event."""
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise DaemonError("the machine has no nbd")

        patch.setattr(process, "start", fail)
        with pytest.raises(DaemonError):
            attach_volume(site, volume.volume_id)
    assert site.catalog.volume(volume.volume_id).attach_failure == "the machine has no nbd"
    assert kinds(site) == ["createVolume"]

    attach_volume(site, volume.volume_id)

    assert site.catalog.volume(volume.volume_id).attach_failure is None
    assert len(daemons.specs) == 1


@pytest.mark.parametrize("told", [True, False], ids=["failure-written", "killed"])
def test_the_unit_takes_down_what_nobody_was_told_of(
    site: Site, volume: Volume, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    """A daemon that ends while it starts, say while it drops privileges, leaves no device that waits for another."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    taken_down = there_is_a_device(site, volume, daemons, monkeypatch)
    if told:
        failure = DaemonLost("cannot become the user ebscrypt")
        runtime.directory(site.settings, volume.volume_id).write_failure(failure)

    run_step(site, "clean", volume.volume_id)

    assert taken_down == [volume.volume_id]
    now = site.catalog.volume(volume.volume_id)
    assert now.state is VolumeState.AVAILABLE
    assert not now.was_attached
    assert ("cannot become" if told else "ended while it started") in str(now.attach_failure)


def test_the_unit_keeps_the_device_of_a_daemon_that_served(
    site: Site, volume: Volume, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something may be mounted on it, and the next daemon takes it up again."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    site.catalog.correct(volume.volume_id, was_attached=True)
    taken_down = there_is_a_device(site, volume, daemons, monkeypatch)

    run_step(site, "clean", volume.volume_id)

    assert taken_down == []
    assert site.catalog.volume(volume.volume_id).state is VolumeState.IN_USE


def there_is_a_device(site: Site, volume: Volume, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The records of a dead daemon whose device the kernel still has; a list of what is taken down."""
    taken_down: list[str] = []
    run_step(site, "prepare", volume.volume_id)
    daemons.serve(site.settings, volume.volume_id)
    daemons.die(volume.volume_id)
    monkeypatch.setattr("ebscrypt.control.unit.is_gone", lambda _: False)
    monkeypatch.setattr(
        "ebscrypt.control.attach.teardown", lambda attachment, **_: taken_down.append(attachment.volume_id)
    )
    return taken_down


def test_a_daemon_that_is_not_to_be_is_ended(
    site: Site, volume: Volume, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails after it was ready must not leave it alone with the key: nobody would know of it."""
    with monkeypatch.context() as patch:
        patch.setattr(links, "make_link", _no_link)
        with pytest.raises(OSError, match="no link"):
            attach_volume(site, volume.volume_id)

    assert [attachment.volume_id for attachment in daemons.ended] == [volume.volume_id]
    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE
    assert runtime.read_attachment(site.settings, volume.volume_id) is None


def _no_link(_: Attachment) -> None:
    raise OSError("no link")


@pytest.mark.parametrize("same", [True, False])
def test_only_the_daemon_itself_is_ended(site: Site, volume: Volume, daemons: FakeDaemons, *, same: bool) -> None:
    """The process that the attachment names, started when it says; another one that got its number lives on."""
    attach_volume(site, volume.volume_id)
    attachment = runtime.read_attachment(site.settings, volume.volume_id)
    assert attachment is not None
    with subprocess.Popen(["sleep", "600"]) as sleeper, pytest.MonkeyPatch.context() as patch:
        try:
            patch.setattr(runtime, "is_process", lambda pid, start: pid == sleeper.pid and start == 7)
            daemons.end_daemon(replace(attachment, pid=sleeper.pid, pid_start=7 if same else 8))
            ended = sleeper.poll() is not None
        finally:
            sleeper.kill()

    assert ended is same

"""`create_volume` that fails: nothing is left but the record, and the reason is in it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.config import Settings
from ebscrypt.control import backing, create, faultpoints
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    BackingError,
    KmsKeyDisabled,
    KmsUnreachable,
    OutOfSpace,
)
from ebscrypt.model import MIB, TIB, VolumeState
from tests.unit.control.disks import disabled_key, header_of

HEADER = luks2.DATA_OFFSET


def test_a_disabled_key_leaves_a_record_and_the_event_of_ebs(site: Site) -> None:
    """The row is in `error` with the reason, the event's cause is KMS's own text, no file is left."""
    key = disabled_key(site)

    with pytest.raises(KmsKeyDisabled):
        create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id=key))

    [volume] = site.catalog.volumes()
    assert volume.state is VolumeState.ERROR
    assert volume.state_message is not None
    assert "is disabled" in volume.state_message
    [(_, event)] = site.catalog.events()
    assert event["detail"] | {"request-id": ""} == {
        "event": "createVolume",
        "result": "failed",
        "cause": f"{key} is disabled.",
        "request-id": "",
    }
    assert not Path(volume.backing).exists()


def test_the_record_of_a_failure_can_be_deleted(site: Site) -> None:
    """`delete` removes it, and says `deleted`."""
    with pytest.raises(KmsKeyDisabled):
        create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id=disabled_key(site)))
    [failed] = site.catalog.volumes()

    delete_volume(site, failed.volume_id)

    assert site.catalog.volumes() == []


def test_a_kms_that_is_away_is_told(settings: Settings) -> None:
    """Nobody listens at the endpoint: a typed error within the deadline, and the record."""
    kms = msgspec.structs.replace(settings.kms, endpoint="http://127.0.0.1:1", timeout=0.5, deadline=1.0, attempts=2)

    with Site(msgspec.structs.replace(settings, kms=kms)) as site:
        with pytest.raises(KmsUnreachable):
            create_volume(site, VolumeRequest(size=8 * MIB))
        assert [volume.state for volume in site.catalog.volumes()] == [VolumeState.ERROR]


@pytest.mark.parametrize("step", ["make_file", "_describe", "format_header"])
def test_a_failure_at_any_step_is_taken_back(site: Site, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever raises, the file is gone and the row says why."""

    def fail(*_: object, **__: object) -> None:
        raise BackingError("the disk has gone mad")

    owner = {"make_file": backing, "_describe": create._Creation, "format_header": luks2}[step]
    monkeypatch.setattr(owner, step, fail)

    with pytest.raises(BackingError, match="gone mad"):
        create_volume(site, VolumeRequest(size=8 * MIB))

    [volume] = site.catalog.volumes()
    assert (volume.state, volume.state_message) == (VolumeState.ERROR, "the disk has gone mad")
    assert not site.settings.volumes_dir.exists() or list(site.settings.volumes_dir.iterdir()) == []


def test_an_interruption_is_taken_back_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle leaves the same as any other failure, and stays what it was."""
    monkeypatch.setattr(luks2, "format_header", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        create_volume(site, VolumeRequest(size=8 * MIB))

    [volume] = site.catalog.volumes()
    assert (volume.state, volume.state_message) == (VolumeState.ERROR, "the creation was interrupted")
    assert list(site.settings.volumes_dir.iterdir()) == []


def test_an_interruption_after_the_end_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the volume is available, Ctrl-C comes too late to destroy it."""

    def strike(name: str) -> None:
        if name == "create.available":
            raise KeyboardInterrupt

    monkeypatch.setattr(faultpoints, "reach", strike)

    with pytest.raises(KeyboardInterrupt):
        create_volume(site, VolumeRequest(size=8 * MIB))

    [volume] = site.catalog.volumes()
    assert volume.state is VolumeState.AVAILABLE
    header_of(volume.backing)


@pytest.mark.parametrize("preallocate", [False, True])
def test_a_full_disk_is_told_and_leaves_nothing(
    settings: Settings, small_disk: Path, monkeypatch: pytest.MonkeyPatch, *, preallocate: bool
) -> None:
    """ENOSPC, be it while reserving or while writing the header, becomes OutOfSpace; the file is gone again."""
    monkeypatch.setattr(Settings, "volumes_dir", property(lambda _: small_disk / "volumes"))
    if not preallocate:
        (small_disk / "ballast").write_bytes(bytes(MIB - 16384))

    with Site(settings) as site:
        with pytest.raises(OutOfSpace, match="No space left"):
            create_volume(site, VolumeRequest(size=8 * MIB, preallocate=preallocate))
        [volume] = site.catalog.volumes()

    assert volume.state is VolumeState.ERROR
    assert list((small_disk / "volumes").iterdir()) == []


def test_a_file_that_the_file_system_cannot_hold_is_explained(site: Site) -> None:
    """ext4 ends at 16 TiB: the message says so, and what to use instead."""
    with pytest.raises(BackingError, match="larger than a file on this file system") as caught:
        create_volume(site, VolumeRequest(size=20 * TIB))

    assert caught.value.hint is not None
    assert "xfs" in caught.value.hint

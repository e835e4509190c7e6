"""`check_volume`: every fault is found and said, and mended only on request."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.control.check import Finding, Result, check_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import VolumeNotFound
from ebscrypt.model import MIB, Volume, VolumeState


def found(site: Site, volume: Volume, *, repair: bool = False, unwrap: bool = False) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_volume(site, volume.volume_id, repair=repair, unwrap=unwrap)}


def damage(volume: Volume, *offsets: int) -> None:
    with Path(volume.backing).open("r+b") as file:
        for offset in offsets:
            file.seek(offset + 4096 + 20)
            file.write(b"????")


def test_a_sound_volume_is_sound_everywhere(site: Site, volume: Volume) -> None:
    """All looks in their order, all ok."""
    findings = check_volume(site, volume.volume_id)

    assert [finding.check for finding in findings] == ["catalog", "backing", "header", "token", "key"]
    assert {finding.result for finding in findings} == {Result.OK}


def test_a_plain_volume_has_no_header_to_look_at(site: Site, plain_volume: Volume) -> None:
    """Catalog and backing, that is all there is."""
    assert list(found(site, plain_volume)) == ["catalog", "backing"]


@pytest.mark.parametrize("offset", [0, luks2.COPY_SIZE])
def test_one_damaged_copy_is_said_and_mended_on_request(site: Site, volume: Volume, offset: int) -> None:
    """Looking changes nothing; repairing writes the copy again, and the next look finds nothing."""
    damage(volume, offset)
    before = Path(volume.backing).read_bytes()

    finding = found(site, volume)["header"]
    assert finding.result is Result.REPAIRABLE
    assert ("first" if offset == 0 else "second") in finding.message
    assert Path(volume.backing).read_bytes() == before
    assert found(site, volume, repair=True)["header"].result is Result.REPAIRED

    assert found(site, volume)["header"].result is Result.OK


def test_two_damaged_copies_are_refused(site: Site, volume: Volume) -> None:
    """Nothing can be trusted: said as bad, even with --repair, and nothing is written."""
    damage(volume, 0, luks2.COPY_SIZE)
    before = Path(volume.backing).read_bytes()

    finding = found(site, volume, repair=True)["header"]

    assert finding.result is Result.BAD
    assert "corrupted or tampered with" in finding.message
    assert Path(volume.backing).read_bytes() == before


def test_a_backing_that_is_gone_or_cut_is_said(site: Site, volume: Volume) -> None:
    """Both are findings, not tracebacks."""
    os.truncate(volume.backing, luks2.DATA_OFFSET + MIB)
    cut = found(site, volume)
    assert cut["backing"].result is Result.BAD
    assert "cut off" in cut["backing"].message
    Path(volume.backing).unlink()

    gone = found(site, volume)

    assert gone["backing"].result is Result.BAD
    assert "is not there" in gone["backing"].message


def test_a_catalog_that_disagrees_is_corrected_from_the_header(site: Site, volume: Volume) -> None:
    """The header is what the volume is."""
    site.catalog.correct(volume.volume_id, size=4 * MIB)
    assert found(site, volume)["token"].result is Result.REPAIRABLE

    assert found(site, volume, repair=True)["token"].result is Result.REPAIRED

    assert site.catalog.volume(volume.volume_id) == volume


def test_the_header_of_another_volume_is_bad(site: Site, volume: Volume) -> None:
    """Files that were swapped are noticed before anything is served."""
    other = create_volume(site, VolumeRequest(size=8 * MIB))
    Path(volume.backing).write_bytes(Path(other.backing).read_bytes())

    finding = found(site, volume)["header"]

    assert finding.result is Result.BAD
    assert other.volume_id in finding.message


def test_a_context_of_another_volume_is_bad(site: Site, volume: Volume) -> None:
    """KMS would refuse the wrapped key: said before anybody tries."""
    descriptor = os.open(volume.backing, os.O_RDWR)
    try:
        header = luks2.read_header(descriptor).header
        wrong = msgspec.structs.replace(header.token(), encryption_context={"aws:ebs:id": "vol-00000000000000000"})
        luks2.write_header(descriptor, header.with_token(wrong))
    finally:
        os.close(descriptor)

    finding = found(site, volume)["token"]

    assert finding.result is Result.BAD
    assert "encryption context" in finding.message


def own_key_volume(site: Site) -> Volume:
    """A volume under a key that can be disabled, which alias/aws/ebs cannot."""
    key = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    return create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id=key))


def test_a_key_that_cannot_be_used_is_said_with_its_state(site: Site) -> None:
    """Disabled, and pending deletion with its date."""
    volume = own_key_volume(site)
    site.kms.call("DisableKey", KeyId=volume.kms_key_arn)
    assert "is Disabled" in found(site, volume)["key"].message
    site.kms.call("ScheduleKeyDeletion", KeyId=volume.kms_key_arn, PendingWindowInDays=7)

    finding = found(site, volume)["key"]

    assert finding.result is Result.BAD
    assert "is PendingDeletion, and will be gone on 2" in finding.message


def test_a_test_unwrap_asks_kms(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on request: with an enabled key it is ok, with a disabled one the refusal is the finding."""
    volume = own_key_volume(site)
    monkeypatch.setenv("EBSCRYPT_STATE_DIR", site.settings.paths.state)
    monkeypatch.setenv("EBSCRYPT_REGION", site.settings.kms.region)
    monkeypatch.setenv("EBSCRYPT_ACCOUNT", site.settings.kms.account)
    assert "unwrap" not in found(site, volume)
    assert found(site, volume, unwrap=True)["unwrap"].result is Result.OK
    site.kms.call("DisableKey", KeyId=volume.kms_key_arn)

    finding = found(site, volume, unwrap=True)["unwrap"]

    assert finding.result is Result.BAD
    assert "is disabled" in finding.message


def test_a_volume_that_failed_is_bad(site: Site, volume: Volume) -> None:
    """The catalog's own state is the first thing to look at, and here the last."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)

    [finding] = check_volume(site, volume.volume_id)

    assert finding.result is Result.BAD
    assert "deleting" in finding.message


def test_a_lost_daemon_is_bad(site: Site, volume: Volume) -> None:
    """In use, but nobody serves it."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    assert found(site, volume)["attachment"].result is Result.BAD


def test_an_unknown_volume_is_no_finding(site: Site) -> None:
    """There is nothing to check."""
    with pytest.raises(VolumeNotFound):
        check_volume(site, "vol-00000000000000000")

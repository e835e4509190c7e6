"""`create_volume`: what it makes, and what it refuses before anything exists."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.sidecar import read_sidecar, sidecar_path
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    BackingError,
    BackingMissing,
    EbscryptError,
    InvalidParameter,
    KmsInvalidKeyUsage,
    KmsKeyNotFound,
    MissingDependency,
)
from ebscrypt.model import MIB, TIB, VolumeState, encryption_context
from tests.unit.control.disks import header_of

HEADER = luks2.DATA_OFFSET


def test_an_encrypted_volume_is_a_sparse_private_file_with_a_header(site: Site) -> None:
    """The file has header and data, mode 0600 and no blocks for data; the header has token, size and placeholder."""
    volume = create_volume(site, VolumeRequest(size=256 * MIB, tags={"Name": "x"}))

    path = Path(volume.backing)
    status = path.stat()
    assert path == site.settings.volumes_dir / f"{volume.volume_id}.luks"
    assert status.st_size == HEADER + 256 * MIB
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 < MIB
    token = header_of(volume.backing).token()
    assert token.volume_id == volume.volume_id
    assert token.kms_key_arn == volume.kms_key_arn
    assert token.encryption_context == encryption_context(volume.volume_id)
    assert token.region == "eu-central-1"
    assert not token.sealed
    assert header_of(volume.backing).segment().size == 256 * MIB
    assert site.catalog.volume(volume.volume_id) == volume
    assert volume.state is VolumeState.AVAILABLE


def test_a_wrapped_key_opens_with_the_volumes_context_only(site: Site) -> None:
    """What KMS wrapped is 64 bytes, bound to this volume's id."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB))
    blob = header_of(volume.backing).token().wrapped_key

    assert len(site.kms.decrypt(blob, encryption_context(volume.volume_id)).plaintext) == 64
    with pytest.raises(EbscryptError):
        site.kms.decrypt(blob, encryption_context("vol-00000000000000000"))


def test_the_default_key_is_made_once(site: Site) -> None:
    """`alias/aws/ebs` is made on first use; the second volume is under the same key."""
    first, second = (create_volume(site, VolumeRequest(size=8 * MIB)) for _ in range(2))

    assert first.kms_key_arn == second.kms_key_arn == site.kms.describe_key("alias/aws/ebs").arn


@pytest.mark.parametrize("form", ["id", "arn", "alias"])
def test_a_key_can_be_named_in_every_form_and_is_kept_as_arn(site: Site, form: str) -> None:
    """Whatever form was given, the catalog and the header have the full key ARN (facts §6.2)."""
    key = site.kms.call("CreateKey")["KeyMetadata"]
    site.kms.call("CreateAlias", AliasName="alias/mine", TargetKeyId=key["KeyId"])
    name = {"id": key["KeyId"], "arn": key["Arn"], "alias": "alias/mine"}[form]

    volume = create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id=name))

    assert volume.kms_key_arn == key["Arn"]
    assert header_of(volume.backing).token().kms_key_arn == key["Arn"]


def test_an_available_volume_has_its_event(site: Site) -> None:
    """createVolume/available, naming the volume."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB))

    [(_, event)] = site.catalog.events()
    assert event["detail"]["event"] == "createVolume"
    assert event["detail"]["result"] == "available"
    assert event["resources"] == [f"arn:aws:ec2:eu-central-1:111122223333:volume/{volume.volume_id}"]


def test_a_plain_volume_is_raw_bytes_and_a_sidecar(site: Site) -> None:
    """No header, no KMS; the sidecar says what the catalog says."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB, encrypted=False))

    assert Path(volume.backing).stat().st_size == 8 * MIB
    assert not any(Path(volume.backing).read_bytes())
    assert volume.kms_key_arn is None
    assert read_sidecar(sidecar_path(site.settings, volume.volume_id)) == volume
    assert not site.settings.kms_dir.exists()


def test_preallocation_takes_the_space_at_once(site: Site) -> None:
    """The file's blocks are there before anything is written."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB, preallocate=True))

    assert Path(volume.backing).stat().st_blocks * 512 >= HEADER + 8 * MIB


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (VolumeRequest(), InvalidParameter, "size is missing"),
        (VolumeRequest(size=0), InvalidParameter, "not positive"),
        (VolumeRequest(size=4096 + 512), InvalidParameter, "not a multiple of the sector size 4096"),
        (VolumeRequest(size=65 * TIB), InvalidParameter, "over the largest volume"),
        (VolumeRequest(size=8 * MIB, sector_size=1024), InvalidParameter, "sector size 1024"),
        (VolumeRequest(size=8 * MIB, volume_type="gp9"), InvalidParameter, "gp9"),
        (
            VolumeRequest(size=8 * MIB, encrypted=False, kms_key_id="alias/x"),
            MissingDependency,
            "KmsKeyId requires the parameter Encrypted",
        ),
        (VolumeRequest(size=8 * MIB, kms_key_id="not a key"), InvalidParameter, "does not name a KMS key"),
        (VolumeRequest(size=8 * MIB, tags={"aws:x": ""}), InvalidParameter, "reserved"),
        (VolumeRequest(size=8 * MIB, backing="/dev/no-such-disk"), BackingMissing, "no-such-disk"),
        (VolumeRequest(size=8 * MIB, backing="/dev/null"), BackingError, "cannot be a backing"),
        (VolumeRequest(size=8 * MIB, backing="/proc"), BackingError, "cannot be a backing"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_exists(
    site: Site, request_: VolumeRequest, error: type[EbscryptError], text: str
) -> None:
    """A typed error, and neither a row nor a file nor an event."""
    with pytest.raises(error, match=text):
        create_volume(site, request_)

    assert site.catalog.volumes() == []
    assert site.catalog.events() == []
    assert not site.settings.volumes_dir.exists()


def test_an_unknown_key_is_named(site: Site) -> None:
    """NotFound, not a refusal without a reason."""
    with pytest.raises(KmsKeyNotFound, match="alias/nobody"):
        create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id="alias/nobody"))


def test_a_key_of_another_kind_is_refused(site: Site) -> None:
    """Only symmetric encryption keys encrypt volumes (facts §1.5)."""
    key = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    described = site.kms.describe_key(key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.kms, "describe_key", lambda _: dataclasses.replace(described, spec="HMAC_256"))
        with pytest.raises(KmsInvalidKeyUsage, match="HMAC_256"):
            create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id=key))

"""Encryption by default and the default key: what they change, what they leave alone, and which keys are taken."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ebscrypt.catalog.keys import EncryptionDefaults
from ebscrypt.config import Settings
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.defaults import (
    disable_ebs_encryption_by_default,
    enable_ebs_encryption_by_default,
    get_ebs_encryption_by_default,
    modify_ebs_default_kms_key_id,
    refuse_plain,
    reset_ebs_default_kms_key_id,
)
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    EbscryptError,
    InvalidCombination,
    InvalidParameter,
    KmsInvalidKeyUsage,
    KmsKeyNotFound,
    MissingDependency,
)
from ebscrypt.model import MIB, Volume
from tests.unit.control.disks import header_of

FOREIGN = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def new_key(site: Site, **options: str) -> str:
    return str(site.kms.call("CreateKey", **options)["KeyMetadata"]["Arn"])


def created(site: Site, *, encrypted: bool | None, kms_key_id: str | None = None) -> Volume:
    return create_volume(site, VolumeRequest(size=MIB, encrypted=encrypted, kms_key_id=kms_key_id))


@pytest.mark.parametrize("encrypted", [None, False, True], ids=["not-set", "false", "true"])
@pytest.mark.parametrize("by_default", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("default", ["aws/ebs", "set"])
def test_a_new_volume(site: Site, *, encrypted: bool | None, by_default: bool, default: str) -> None:
    """The first column of the table of CreateVolume, with both kinds of default key, by what is in the header."""
    if default == "set":
        modify_ebs_default_kms_key_id(site, new_key(site))
    if by_default:
        enable_ebs_encryption_by_default(site)

    volume = created(site, encrypted=encrypted)

    defaults = get_ebs_encryption_by_default(site)
    assert volume.encrypted is (by_default or bool(encrypted))
    if volume.encrypted:
        key = site.kms.describe_key(defaults.kms_key_arn or "alias/aws/ebs").arn
        assert volume.kms_key_arn == key == header_of(volume.backing).token().kms_key_arn
    else:
        assert volume.kms_key_arn is None


@pytest.mark.parametrize("by_default", [False, True], ids=["off", "on"])
def test_a_key_that_is_given_wins(site: Site, *, by_default: bool) -> None:
    """Over the default key, and only with Encrypted."""
    key = new_key(site)
    modify_ebs_default_kms_key_id(site, new_key(site))
    if by_default:
        enable_ebs_encryption_by_default(site)

    assert created(site, encrypted=True, kms_key_id=key).kms_key_arn == key
    for encrypted in (None, False):
        with pytest.raises(MissingDependency, match="requires the parameter Encrypted"):
            created(site, encrypted=encrypted, kms_key_id=key)


def test_what_exists_stays_as_it_is(site: Site, volume: Volume, plain_volume: Volume) -> None:
    """Neither switch nor key has any effect on volumes that are there."""
    modify_ebs_default_kms_key_id(site, new_key(site))
    enable_ebs_encryption_by_default(site)

    assert site.catalog.volume(volume.volume_id) == volume
    assert site.catalog.volume(plain_volume.volume_id) == plain_volume


def test_disabled_again_a_volume_may_be_plain(site: Site) -> None:
    """Only while it is on is every volume encrypted."""
    enable_ebs_encryption_by_default(site)
    with pytest.raises(InvalidCombination, match="encryption by default is on in eu-central-1") as caught:
        refuse_plain(site)
    assert "default-encryption disable" in str(caught.value.hint)

    disable_ebs_encryption_by_default(site)

    refuse_plain(site)
    assert not created(site, encrypted=None).encrypted


@pytest.mark.parametrize("field", ["region", "account"])
def test_each_account_and_region_has_its_own(site: Site, settings: Settings, field: str) -> None:
    """What is set here is not set there, over the same catalog."""
    enable_ebs_encryption_by_default(site)
    modify_ebs_default_kms_key_id(site, new_key(site))
    kms = msgspec.structs.replace(settings.kms, **{field: {"region": "us-east-1", "account": "444455556666"}[field]})

    with Site(msgspec.structs.replace(settings, kms=kms)) as other:
        assert get_ebs_encryption_by_default(other) == EncryptionDefaults()


@pytest.mark.parametrize("form", ["id", "arn", "alias", "alias-arn"])
def test_a_default_key_is_kept_as_arn(site: Site, form: str) -> None:
    """Whatever form was given; an alias that is re-pointed afterwards changes nothing (facts §5.2)."""
    key = site.kms.call("CreateKey")["KeyMetadata"]
    site.kms.call("CreateAlias", AliasName="alias/mine", TargetKeyId=key["KeyId"])
    alias_arn = "arn:aws:kms:eu-central-1:111122223333:alias/mine"
    name = {"id": key["KeyId"], "arn": key["Arn"], "alias": "alias/mine", "alias-arn": alias_arn}[form]

    modify_ebs_default_kms_key_id(site, name)
    site.kms.call("UpdateAlias", AliasName="alias/mine", TargetKeyId=new_key(site))

    assert get_ebs_encryption_by_default(site).kms_key_arn == key["Arn"]


def test_a_key_that_is_reset_is_the_managed_one(site: Site) -> None:
    """The next volume is under alias/aws/ebs again; the switch is as it was."""
    enable_ebs_encryption_by_default(site)
    modify_ebs_default_kms_key_id(site, new_key(site))

    assert reset_ebs_default_kms_key_id(site) == EncryptionDefaults(enabled=True, kms_key_arn=None)

    assert created(site, encrypted=None).kms_key_arn == site.kms.describe_key("alias/aws/ebs").arn


NEVER: dict[str, tuple[Callable[[Site], str], type[EbscryptError], str]] = {
    "asymmetric": (
        lambda site: new_key(site, KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT"),
        KmsInvalidKeyUsage,
        "RSA_2048",
    ),
    "signing": (
        lambda site: new_key(site, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY"),
        KmsInvalidKeyUsage,
        "ECC_",
    ),
    "hmac": (
        lambda site: new_key(site, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC"),
        KmsInvalidKeyUsage,
        "HMAC_",
    ),
    "other-region": (lambda _: FOREIGN, InvalidParameter, "us-west-2"),
    "other-account": (lambda _: FOREIGN.replace("us-west-2:1111", "eu-central-1:9999"), InvalidParameter, "9999"),
    "unknown": (lambda _: "alias/nobody", KmsKeyNotFound, "alias/nobody"),
    "malformed": (lambda _: "arn:aws:kms:::", InvalidParameter, "KmsKeyId"),
}


@pytest.mark.parametrize("kind", NEVER)
def test_a_key_that_can_never_work_is_refused_at_once(site: Site, kind: str) -> None:
    """By name, and the default stays what it was. EC2 would take it and fail later."""
    make, error, text = NEVER[kind]
    name = make(site)

    with pytest.raises(error, match=text):
        modify_ebs_default_kms_key_id(site, name)

    assert get_ebs_encryption_by_default(site) == EncryptionDefaults()


@pytest.mark.parametrize(
    ("operation", "options", "state"),
    [("DisableKey", {}, "Disabled"), ("ScheduleKeyDeletion", {"PendingWindowInDays": 7}, "PendingDeletion")],
)
def test_a_key_that_cannot_be_used_now_is_taken_with_a_note(
    site: Site, operation: str, options: dict[str, int], state: str
) -> None:
    """Its state may change: it becomes the default, and the note names key and state."""
    key = new_key(site)
    site.kms.call(operation, KeyId=key, **options)

    assert modify_ebs_default_kms_key_id(site, key).kms_key_arn == key

    [note] = site.notes
    assert f"{key} is {state}" in note


def test_enabling_warns_when_the_default_key_cannot_be_used(site: Site) -> None:
    """It is enabled all the same, as in EC2; the note has KMS's reason and what to do."""
    key = new_key(site)
    modify_ebs_default_kms_key_id(site, key)
    site.kms.call("DisableKey", KeyId=key)

    assert enable_ebs_encryption_by_default(site).enabled

    [note] = site.notes
    assert f"{key} is disabled" in note
    assert f"enable-key --key-id {key}" in note


def test_enabling_is_silent_when_all_is_well(site: Site) -> None:
    """With the managed key, made by that, and with one of one's own."""
    enable_ebs_encryption_by_default(site)
    modify_ebs_default_kms_key_id(site, new_key(site))
    enable_ebs_encryption_by_default(site)

    assert site.notes == []


def test_enabling_needs_no_kms(settings: Settings) -> None:
    """The switch is ebscrypt's own: with KMS away it turns all the same, with a warning."""
    kms = msgspec.structs.replace(settings.kms, endpoint="http://127.0.0.1:1", timeout=0.2, deadline=0.5, attempts=1)

    with Site(msgspec.structs.replace(settings, kms=kms)) as site:
        assert enable_ebs_encryption_by_default(site).enabled
        [note] = site.notes

    assert "cannot be reached" in note


def test_a_dry_run_checks_and_changes_nothing(site: Site) -> None:
    """Each of the four, and a key that can never work is refused by a dry run too."""
    before = get_ebs_encryption_by_default(site)

    for call in (enable_ebs_encryption_by_default, disable_ebs_encryption_by_default, reset_ebs_default_kms_key_id):
        assert call(site, dry_run=True) == before
    assert modify_ebs_default_kms_key_id(site, new_key(site), dry_run=True) == before
    with pytest.raises(KmsKeyNotFound):
        modify_ebs_default_kms_key_id(site, "alias/nobody", dry_run=True)

    assert get_ebs_encryption_by_default(site) == before
    assert set(site.notes) == {"dry run: nothing was changed"}

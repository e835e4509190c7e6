"""`rewrap_volume` of a detached volume: header and catalog have the new key, or a refusal leaves all as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.control import data_key, headers
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.rewrap import rewrap_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    BackingMissing,
    EbscryptError,
    InvalidParameter,
    KeyMismatch,
    KmsInvalidKeyUsage,
    KmsKeyDisabled,
    KmsKeyInvalidState,
    KmsKeyNotFound,
    KmsUnreachable,
    StateError,
)
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import MIB, Volume, VolumeState, encryption_context
from tests.unit.control.sealing import expect_key, seal, token_of, write_token

pytestmark = pytest.mark.usefixtures("unwrapping")


@pytest.mark.parametrize("sealed", [False, True], ids=["never-attached", "sealed"])
def test_header_and_catalog_have_the_new_key(site: Site, volume: Volume, new_key: str, *, sealed: bool) -> None:
    """The wrapped key is another and opens to the same data key; the digest, and all else in the header, stays."""
    if sealed:
        seal(site, volume)
    before = headers.read(volume).header

    rewrapped = rewrap_volume(site, volume.volume_id, new_key)

    after = headers.read(volume).header
    assert rewrapped == site.catalog.volume(volume.volume_id)
    expect_key(site, volume, new_key)
    assert after.token().wrapped_key != before.token().wrapped_key
    assert after == msgspec.structs.replace(before.with_token(after.token()), seqid=before.seqid + 1)
    with data_key.unwrapped(site, before.token()) as old, data_key.unwrapped(site, after.token()) as new:
        assert data_key.matches(new, data_key.digest_of(old))


@pytest.mark.parametrize("form", ["id", "ARN", "alias", "alias ARN"])
def test_each_form_of_a_key_is_taken(site: Site, volume: Volume, new_key: str, form: str) -> None:
    """What is stored is the full key ARN."""
    site.kms.call("CreateAlias", AliasName="alias/new", TargetKeyId=new_key)
    names = {
        "id": new_key.rpartition("/")[2],
        "ARN": new_key,
        "alias": "alias/new",
        "alias ARN": new_key.rpartition(":")[0] + ":alias/new",
    }

    assert rewrap_volume(site, volume.volume_id, names[form]).kms_key_arn == new_key


def test_the_same_key_wraps_with_its_newest_material(site: Site, volume: Volume) -> None:
    """After a rotation: the same ARN, another wrapped key."""
    assert volume.kms_key_arn is not None
    before = token_of(volume)

    rewrap_volume(site, volume.volume_id, volume.kms_key_arn)

    assert token_of(volume).wrapped_key != before.wrapped_key
    expect_key(site, volume, volume.kms_key_arn)


def test_kms_is_asked_for_what_the_header_names(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ReEncrypt names the source key, and both contexts are the volume's: another volume's wrapped key would not do."""
    asked: list[tuple[str, dict[str, Any]]] = []
    send = KmsClient._send

    def spy(client: KmsClient, operation: str, key: str | None, parameters: Any) -> dict[str, Any]:
        asked.append((operation, dict(parameters)))
        return send(client, operation, key, parameters)

    monkeypatch.setattr(KmsClient, "_send", spy)
    old = token_of(volume)

    rewrap_volume(site, volume.volume_id, new_key)

    context = encryption_context(volume.volume_id)
    assert [parameters for operation, parameters in asked if operation == "ReEncrypt"] == [
        {
            "CiphertextBlob": old.wrapped_key,
            "SourceEncryptionContext": context,
            "SourceKeyId": volume.kms_key_arn,
            "DestinationKeyId": new_key,
            "DestinationEncryptionContext": context,
        }
    ]


def test_notes_say_what_it_does_not_protect_against(site: Site, volume: Volume, new_key: str) -> None:
    """The old key still opens an old header: nobody shall believe otherwise."""
    rewrap_volume(site, volume.volume_id, new_key)

    assert any("older copy of the header" in note and str(volume.kms_key_arn) in note for note in site.notes)


def test_a_dry_run_changes_nothing(site: Site, volume: Volume, new_key: str, untouched: Callable[[], None]) -> None:
    """KMS is asked whether it would; what it would refuse is refused."""
    assert rewrap_volume(site, volume.volume_id, new_key, dry_run=True).kms_key_arn == volume.kms_key_arn
    untouched()

    site.kms.call("DisableKey", KeyId=new_key)
    with pytest.raises(KmsKeyDisabled):
        rewrap_volume(site, volume.volume_id, new_key, dry_run=True)
    untouched()


def _spoil(operation: str, **parameters: Any) -> Callable[[Site, str], str]:
    def spoil(site: Site, key: str) -> str:
        site.kms.call(operation, KeyId=key, **parameters)
        return key

    return spoil


def _made(**parameters: Any) -> Callable[[Site, str], str]:
    return lambda site, _: str(site.kms.call("CreateKey", **parameters)["KeyMetadata"]["Arn"])


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(_spoil("DisableKey"), KmsKeyDisabled, id="disabled"),
        pytest.param(_spoil("ScheduleKeyDeletion", PendingWindowInDays=7), KmsKeyInvalidState, id="pending-deletion"),
        pytest.param(_made(Origin="EXTERNAL"), KmsKeyInvalidState, id="pending-import"),
        pytest.param(_made(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT"), KmsInvalidKeyUsage, id="asymmetric"),
        pytest.param(_made(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC"), KmsInvalidKeyUsage, id="hmac"),
        pytest.param(lambda _, key: key.replace("eu-central-1", "us-west-2"), InvalidParameter, id="other-region"),
        pytest.param(lambda _, key: key.replace("111122223333", "999999999999"), InvalidParameter, id="other-account"),
        pytest.param(lambda _, key: key[:-4] + "0000", KmsKeyNotFound, id="missing"),
        pytest.param(lambda _site, _key: "alias/nobody", KmsKeyNotFound, id="missing-alias"),
        pytest.param(lambda _site, _key: "x" * 10_000, InvalidParameter, id="10000-characters"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused(
    *,
    site: Site,
    volume: Volume,
    new_key: str,
    untouched: Callable[[], None],
    spoil: Callable[[Site, str], str],
    error: type[EbscryptError],
) -> None:
    """By the error that creation has for it, and with nothing changed."""
    with pytest.raises(error):
        rewrap_volume(site, volume.volume_id, spoil(site, new_key))

    untouched()


def test_the_old_key_must_be_usable(site: Site, new_key: str) -> None:
    """Nobody but it can open the old wrapped key; enabled again, it does."""
    old_key = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    volume = create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id=old_key))
    before = Path(volume.backing).read_bytes()
    site.kms.call("DisableKey", KeyId=old_key)

    with pytest.raises(KmsKeyDisabled) as caught:
        rewrap_volume(site, volume.volume_id, new_key)

    assert old_key in caught.value.message
    assert Path(volume.backing).read_bytes() == before
    assert site.catalog.volume(volume.volume_id) == volume
    site.kms.call("EnableKey", KeyId=old_key)
    rewrap_volume(site, volume.volume_id, new_key)
    expect_key(site, volume, new_key)


def test_a_kms_out_of_reach(settings: Settings, volume: Volume, untouched: Callable[[], None]) -> None:
    """The error says so within the deadline."""
    kms = msgspec.structs.replace(settings.kms, endpoint="http://127.0.0.1:1", attempts=1, deadline=2.0)
    with Site(msgspec.structs.replace(settings, kms=kms)) as far, pytest.raises(KmsUnreachable):
        rewrap_volume(far, volume.volume_id, str(volume.kms_key_arn))

    untouched()


def test_a_header_that_names_another_key_than_the_catalog_is_refused(site: Site, volume: Volume, new_key: str) -> None:
    """Who can write to the backing must not choose what KMS is asked to wrap again."""
    write_token(volume, kms_key_arn=new_key)

    with pytest.raises(KeyMismatch, match="tampered with"):
        rewrap_volume(site, volume.volume_id, new_key)

    assert site.catalog.keys.rewraps() == {}


def test_a_plain_volume_is_refused(site: Site, plain_volume: Volume, new_key: str) -> None:
    """There is no data key to wrap."""
    with pytest.raises(StateError, match="is not encrypted"):
        rewrap_volume(site, plain_volume.volume_id, new_key)


def test_a_volume_in_another_state_is_refused(site: Site, volume: Volume, new_key: str) -> None:
    """Neither one whose daemon has died nor one that goes."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    with pytest.raises(StateError, match="has died"):
        rewrap_volume(site, volume.volume_id, new_key)
    site.catalog.change_state(volume.volume_id, VolumeState.IN_USE, VolumeState.AVAILABLE)
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)

    with pytest.raises(StateError, match="is deleting"):
        rewrap_volume(site, volume.volume_id, new_key)


def test_a_missing_backing_is_named(site: Site, volume: Volume, new_key: str) -> None:
    """KMS is not asked for a volume that is not there."""
    Path(volume.backing).rename(f"{volume.backing}.aside")

    with pytest.raises(BackingMissing):
        rewrap_volume(site, volume.volume_id, new_key)

    assert site.catalog.keys.rewraps() == {}

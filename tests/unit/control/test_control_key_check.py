"""What counts as an unusable key: KMS's verdict about it, given twice, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from ebscrypt import errors
from ebscrypt.catalog.keys import GrantRow
from ebscrypt.control import key_check
from ebscrypt.control.key_check import Verdict, check_key
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import AttachmentSpec, Volume, encryption_context, utc_now

VERDICTS = {
    "DisabledException": (errors.KmsKeyDisabled, False),
    "KMSInvalidStateException": (errors.KmsKeyInvalidState, False),
    "NotFoundException": (errors.KmsKeyNotFound, False),
    "AccessDeniedException": (errors.KmsAccessDenied, False),
    "ExpiredTokenException": (errors.KmsAccessDenied, None),
    "UnrecognizedClientException": (errors.KmsAccessDenied, None),
    "KeyUnavailableException": (errors.KmsKeyUnusable, None),
    "ThrottlingException": (errors.KmsThrottled, None),
    "KMSInternalException": (errors.KmsUnreachable, None),
    "": (errors.KmsUnreachable, None),
    "InvalidCiphertextException": (errors.KmsInvalidCiphertext, None),
    "IncorrectKeyException": (errors.KmsIncorrectKey, None),
    "InvalidKeyUsageException": (errors.KmsInvalidKeyUsage, None),
    "InvalidGrantTokenException": (errors.KmsInvalidRequest, None),
}


def spec_of(volume: Volume) -> AttachmentSpec:
    return AttachmentSpec(
        volume_id=volume.volume_id,
        backing=volume.backing,
        backing_kind=volume.backing_kind,
        encrypted=True,
        size=volume.size,
        kms_key_arn=volume.kms_key_arn,
    )


@pytest.fixture
def key_arn(site: Site) -> str:
    """A key that can be disabled."""
    arn: str = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    return arn


@pytest.fixture
def volume(site: Site, key_arn: str) -> Volume:
    from ebscrypt.control.create import VolumeRequest, create_volume  # noqa: PLC0415 - its one use

    return create_volume(site, VolumeRequest(size=8 << 20, kms_key_id=key_arn))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "_CONFIRM", 0)


def answers(monkeypatch: pytest.MonkeyPatch, *script: EbscryptError | None) -> list[None]:
    """KMS answers with these, one a call; the list has an entry for each call."""
    calls: list[None] = []

    def dry_run(*_: object) -> None:
        calls.append(None)
        if (error := script[len(calls) - 1]) is not None:
            raise error

    monkeypatch.setattr(key_check, "_dry_run", dry_run)
    return calls


@pytest.mark.parametrize("code", list(VERDICTS))
def test_verdict_for_each_answer(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The table of answers: what is about the key counts, what is about KMS, credentials or the request does not."""
    kind, usable = VERDICTS[code]
    error = kind("KMS refused", kms_code=code or None, kms_text="its own words")
    answers(monkeypatch, error, error)

    verdict = check_key(site, spec_of(volume), doubt=True)

    assert verdict == Verdict(usable, "its own words.")


def test_a_key_that_works_is_usable(site: Site, volume: Volume) -> None:
    """By a dry run: no plaintext, and one call is enough."""
    assert check_key(site, spec_of(volume), doubt=True) == Verdict(usable=True)


def test_a_disabled_key_is_told_in_the_words_of_kms(site: Site, volume: Volume, key_arn: str) -> None:
    """The cause is the text that EBS's events have."""
    site.kms.call("DisableKey", KeyId=key_arn)

    verdict = check_key(site, spec_of(volume), doubt=True)

    assert verdict == Verdict(False, f"{key_arn} is disabled.")


def test_one_refusal_is_not_enough(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second answer is that it works, nothing is known, and nothing will be done."""
    calls = answers(monkeypatch, errors.KmsKeyDisabled("no", kms_text="disabled"), None)

    verdict = check_key(site, spec_of(volume), doubt=True)

    assert verdict.usable is None
    assert "contradicts itself" in verdict.cause
    assert len(calls) == 2


def test_without_doubt_one_refusal_is_enough(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is known to be unusable is asked for once a turn."""
    calls = answers(monkeypatch, errors.KmsKeyDisabled("no", kms_text="disabled"))

    assert check_key(site, spec_of(volume), doubt=False).usable is False
    assert len(calls) == 1


def test_a_header_with_another_key_is_no_verdict(site: Site, volume: Volume) -> None:
    """Who can write to the backing cannot keep a revoked volume alive by a key of his own: KMS is not even asked."""
    spec = msgspec.structs.replace(spec_of(volume), kms_key_arn=f"{volume.kms_key_arn}0")
    site.catalog.correct(volume.volume_id, kms_key_arn=spec.kms_key_arn)

    verdict = check_key(site, spec, doubt=True)

    assert verdict.usable is None
    assert "corrupted or tampered with" in verdict.cause


def test_after_a_rewrap_the_new_key_counts(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec may name the old key still, where a crash came between; the catalog and the header agree on the new."""
    from ebscrypt.control import rewrap  # noqa: PLC0415 - its one use

    # Its proof takes the unwrap process, which would not find this site's KMS.
    monkeypatch.setattr(rewrap, "_prove", lambda *_: None)
    spec = msgspec.structs.replace(spec_of(volume), grant_token="token of a grant on the old key")
    new: str = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    rewrap.rewrap_volume(site, volume.volume_id, new)
    site.kms.call("DisableKey", KeyId=volume.kms_key_arn)

    assert check_key(site, spec, doubt=True) == Verdict(usable=True)
    site.kms.call("DisableKey", KeyId=new)
    assert check_key(site, spec, doubt=True) == Verdict(False, f"{new} is disabled.")


def test_a_grant_that_is_gone_is_a_refusal(site: Site, volume: Volume) -> None:
    """With the embedded KMS the check asks as the grantee, so that ending the grant revokes the volume's key."""
    assert volume.kms_key_arn is not None
    grant = site.kms.create_grant(volume.kms_key_arn, encryption_context(volume.volume_id), name="g")
    spec = msgspec.structs.replace(spec_of(volume), grant_token=grant.token)
    assert check_key(site, spec, doubt=True) == Verdict(usable=True)

    site.kms.retire_grant(volume.kms_key_arn, grant.grant_id)

    assert check_key(site, spec, doubt=True).usable is False


@pytest.mark.parametrize(
    ("age", "other_key", "shown"),
    [
        pytest.param(timedelta(minutes=4), False, True, id="new"),
        pytest.param(timedelta(minutes=6), False, False, id="old"),
        pytest.param(timedelta(minutes=4), True, False, id="on-another-key"),
    ],
)
def test_a_token_is_shown_while_its_grant_is_new(
    *,
    site: Site,
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
    age: timedelta,
    other_key: bool,
    shown: bool,
) -> None:
    """KMS may not know a new grant yet, also one that `rewrap` made for an old attachment: the grant's age counts."""
    key = f"{volume.kms_key_arn}0" if other_key else str(volume.kms_key_arn)
    row = GrantRow(name="g", volume_id=volume.volume_id, kms_key_arn=key, create_time=utc_now() - age)
    site.catalog.keys.add_grant(row)
    tokens: list[str | None] = []

    def check_decrypt(*_: object, grant_token: str | None, **__: object) -> None:
        tokens.append(grant_token)

    monkeypatch.setattr(KmsClient, "check_decrypt", check_decrypt)
    spec = msgspec.structs.replace(spec_of(volume), grant_token="a token")

    check_key(site, spec, doubt=True)

    assert tokens == ["a token" if shown else None]

"""KmsClient over the embedded KMS: the key that a volume would use, and refusals by name."""

from __future__ import annotations

import concurrent.futures

import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.names import MANAGED_ALIAS
from ebscrypt.model import encryption_context

CONTEXT = encryption_context("vol-0123456789abcdef0")


@pytest.fixture
def kms(settings: Settings) -> KmsClient:
    """A client of an empty embedded KMS."""
    return KmsClient(settings)


def test_no_key_named_is_the_managed_key(kms: KmsClient) -> None:
    """Without a name the key behind alias/aws/ebs is taken, and it is the same ever after."""
    first, again = kms.resolve_key(None), kms.resolve_key(None)

    assert first == again == kms.resolve_key(MANAGED_ALIAS)
    assert (first.manager, first.state) == ("AWS", "Enabled")


def test_every_form_of_name_gives_the_key_arn(kms: KmsClient) -> None:
    """Id, key ARN, alias and alias ARN of one key resolve to the same full key ARN."""
    key = kms.call("CreateKey")["KeyMetadata"]
    kms.call("CreateAlias", AliasName="alias/mine", TargetKeyId=key["KeyId"])
    alias_arn = key["Arn"].rpartition("key/")[0] + "alias/mine"

    resolved = [kms.resolve_key(name).arn for name in (key["KeyId"], key["Arn"], "alias/mine", alias_arn)]

    assert resolved == [key["Arn"]] * 4


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        ("RSA_2048", "ENCRYPT_DECRYPT"),
        ("RSA_4096", "SIGN_VERIFY"),
        ("ECC_NIST_P256", "KEY_AGREEMENT"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
        ("ML_DSA_65", "SIGN_VERIFY"),
    ],
)
def test_keys_that_cannot_encrypt_volumes(spec: str, usage: str, kms: KmsClient) -> None:
    """Asymmetric and HMAC keys are refused by ARN, spec and usage; asked directly, KMS refuses them too."""
    key = kms.call("CreateKey", KeySpec=spec, KeyUsage=usage)["KeyMetadata"]

    with pytest.raises(errors.KmsInvalidKeyUsage) as caught:
        kms.resolve_key(key["KeyId"])
    with pytest.raises(errors.KmsInvalidKeyUsage):
        kms.generate_data_key_without_plaintext(key["Arn"], CONTEXT)

    assert all(part in caught.value.message for part in (key["Arn"], spec, usage))


def test_another_region_is_refused_by_name(kms: KmsClient) -> None:
    """A key or alias of another Region is refused before KMS is asked, naming both Regions."""
    arn = kms.resolve_key(None).arn.replace("eu-central-1", "us-west-2")

    for name in (arn, "arn:aws:kms:us-west-2:111122223333:alias/x"):
        with pytest.raises(errors.InvalidParameter, match="us-west-2") as caught:
            kms.resolve_key(name)
        assert "eu-central-1" in caught.value.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("alias/nobody", errors.KmsKeyNotFound),
        ("1234abcd-12ab-34cd-56ef-1234567890ab", errors.KmsKeyNotFound),
        ("arn:aws:kms:eu-central-1:999999999999:key/1234abcd-12ab-34cd-56ef-1234567890ab", errors.InvalidParameter),
        ("arn:aws:kms:eu-central-1:999999999999:alias/theirs", errors.InvalidParameter),
        ("arn:aws:kms:", errors.InvalidParameter),
        ("x" * 10_000, errors.InvalidParameter),
    ],
)
def test_names_that_lead_nowhere(name: str, kind: type[errors.EbscryptError], kms: KmsClient) -> None:
    """Unknown, foreign and malformed names give a clear error of bounded length."""
    with pytest.raises(kind) as caught:
        kms.resolve_key(name)

    assert len(caught.value.message) < 400
    assert caught.value.hint


def test_unknown_operation(kms: KmsClient) -> None:
    """An operation that KMS does not have is refused by name."""
    with pytest.raises(errors.InvalidParameter, match="FlyToTheMoon"):
        kms.call("FlyToTheMoon")


def test_what_the_embedded_kms_lacks_is_said(kms: KmsClient) -> None:
    """An operation that only AWS has is refused with the way to it."""
    with pytest.raises(errors.KmsInvalidRequest, match="GenerateMac") as caught:
        kms.call("GenerateMac", KeyId=kms.resolve_key(None).arn, Message=b"m", MacAlgorithm="HMAC_SHA_256")

    assert "EBSCRYPT_KMS=aws" in str(caught.value.hint)


def test_one_client_in_many_threads(kms: KmsClient) -> None:
    """Threads that share a client, from its first call on, get right answers."""
    key = kms.resolve_key(None).arn

    def work(number: int) -> bool:
        context = encryption_context(f"vol-{number:017x}")
        wrapped = kms.generate_data_key_without_plaintext(key, context)
        return len(kms.decrypt(wrapped.blob, context, expected_key_arn=key).plaintext) == 64

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))

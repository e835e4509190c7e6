"""What ebscrypt relies on in a KMS: one suite for the embedded KMS in process and over HTTP, for moto, and for AWS."""

from __future__ import annotations

import pytest

from ebscrypt import errors
from ebscrypt.kms.names import MANAGED_ALIAS, is_key_arn
from ebscrypt.model import encryption_context
from tests.contracts.kms_implementations import Kms, on_every_kms

CONTEXT = encryption_context("vol-0123456789abcdef0")
OTHER_CONTEXT = encryption_context("vol-fedcba98765432100")


@on_every_kms()
def test_data_key_round_trip(kms: Kms) -> None:
    """A data key of 64 bytes is made without plaintext, and Decrypt with its context gives one and the same key."""
    key = kms.key()

    wrapped = kms.client.generate_data_key_without_plaintext(key, CONTEXT)
    first = kms.client.decrypt(wrapped.blob, CONTEXT, expected_key_arn=key)
    again = kms.client.decrypt(wrapped.blob, dict(reversed(CONTEXT.items())), key_id=key)

    assert (wrapped.key_arn, first.key_arn) == (key, key)
    assert len(first.plaintext) == 64
    assert first.plaintext == again.plaintext
    assert first.plaintext not in wrapped.blob


@on_every_kms()
def test_no_two_data_keys_are_alike(kms: Kms) -> None:
    """Data keys are fresh each time, and so are their wrapped forms."""
    key = kms.key()

    wrapped = [kms.client.generate_data_key_without_plaintext(key, CONTEXT).blob for _ in range(4)]

    assert len(set(wrapped)) == 4
    assert len({kms.client.decrypt(blob, CONTEXT).plaintext for blob in wrapped}) == 4


@on_every_kms()
@pytest.mark.parametrize("context", [OTHER_CONTEXT, {}, CONTEXT | {"more": "x"}, {"AWS:EBS:ID": CONTEXT["aws:ebs:id"]}])
def test_wrong_context(kms: Kms, context: dict[str, str]) -> None:
    """Any other context, none, a pair more, another case of a letter: invalid ciphertext."""
    wrapped = kms.client.generate_data_key_without_plaintext(kms.key(), CONTEXT)

    with pytest.raises(errors.KmsInvalidCiphertext):
        kms.client.decrypt(wrapped.blob, context)


@on_every_kms("framed context")
def test_context_is_not_just_joined(kms: Kms) -> None:
    """A letter that moves from value to name makes another context."""
    wrapped = kms.client.generate_data_key_without_plaintext(kms.key(), {"aws:ebs:id": "vol-1"})

    with pytest.raises(errors.KmsInvalidCiphertext):
        kms.client.decrypt(wrapped.blob, {"aws:ebs:idv": "ol-1"})


@on_every_kms()
@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_damaged_blob(kms: Kms, damage: str) -> None:
    """A blob with a flipped bit, or cut short: invalid ciphertext, and nothing said of which."""
    blob = bytearray(kms.client.generate_data_key_without_plaintext(kms.key(), CONTEXT).blob)
    damaged = {"bit": bytes(blob[:-1]) + bytes([blob[-1] ^ 1]), "cut": bytes(blob[:-20])}

    with pytest.raises(errors.KmsInvalidCiphertext):
        kms.client.decrypt(damaged[damage], CONTEXT)


@on_every_kms("foreign ciphertext")
def test_foreign_blob(kms: Kms) -> None:
    """What no KMS has made is invalid ciphertext too."""
    with pytest.raises(errors.KmsInvalidCiphertext):
        kms.client.decrypt(b"not a blob of any KMS" * 5, CONTEXT)


@on_every_kms("foreign ciphertext")
def test_key_id_of_another_key(kms: Kms) -> None:
    """Decrypt that names another key than the blob's is told so."""
    wrapped = kms.client.generate_data_key_without_plaintext(kms.key(), CONTEXT)

    with pytest.raises(errors.KmsIncorrectKey):
        kms.client.decrypt(wrapped.blob, CONTEXT, key_id=kms.key())


@on_every_kms()
def test_encrypt_and_re_encrypt(kms: Kms) -> None:
    """ReEncrypt carries a plaintext to another key and context; the old blob opens as before."""
    source, destination, plaintext = kms.key(), kms.key(), bytes(range(64))

    wrapped = kms.client.encrypt(source, plaintext, CONTEXT)
    moved = kms.client.re_encrypt(wrapped.blob, CONTEXT, destination, OTHER_CONTEXT)

    assert moved.key_arn == destination
    assert kms.client.decrypt(moved.blob, OTHER_CONTEXT, expected_key_arn=destination).plaintext == plaintext
    assert kms.client.decrypt(wrapped.blob, CONTEXT, expected_key_arn=source).plaintext == plaintext


@on_every_kms()
def test_every_name_of_a_key(kms: Kms) -> None:
    """Id, ARN, alias and alias ARN lead to the same key, which is told by its full ARN."""
    key = kms.key()
    alias = f"alias/ebscrypt-contract-{key[-12:]}"
    kms.client.call("CreateAlias", AliasName=alias, TargetKeyId=key)
    names = [key, key.rpartition("/")[2], alias, key.rpartition("key/")[0] + alias]

    resolved = {kms.client.resolve_key(name).arn for name in names}
    wrapped = {kms.client.generate_data_key_without_plaintext(name, CONTEXT).key_arn for name in names}
    kms.client.call("DeleteAlias", AliasName=alias)

    assert resolved == wrapped == {key}
    with pytest.raises(errors.KmsKeyNotFound):
        kms.client.resolve_key(alias)


@on_every_kms()
def test_default_key_is_there(kms: Kms) -> None:
    """The key of alias/aws/ebs exists as soon as somebody asks, and wraps data keys."""
    key = kms.client.resolve_key(None)

    assert is_key_arn(key.arn)
    assert kms.client.resolve_key(MANAGED_ALIAS).arn == key.arn
    wrapped = kms.client.generate_data_key_without_plaintext(key.arn, CONTEXT)
    assert kms.client.decrypt(wrapped.blob, CONTEXT).key_arn == key.arn


@on_every_kms("managed key")
def test_default_key_is_the_services(kms: Kms) -> None:
    """The key of alias/aws/ebs is AWS managed: the customer cannot disable it."""
    key = kms.client.resolve_key(None)

    assert key.manager == "AWS"
    with pytest.raises(errors.KmsAccessDenied):
        kms.client.call("DisableKey", KeyId=key.arn)


@on_every_kms()
def test_alias_can_be_pointed_elsewhere(kms: Kms) -> None:
    """UpdateAlias lets an alias name another key from then on; what the old one wrapped still opens."""
    old, new = kms.key(), kms.key()
    alias = f"alias/ebscrypt-contract-{old[-12:]}"
    kms.client.call("CreateAlias", AliasName=alias, TargetKeyId=old)
    wrapped = kms.client.generate_data_key_without_plaintext(alias, CONTEXT)

    kms.client.call("UpdateAlias", AliasName=alias, TargetKeyId=new)
    after = kms.client.resolve_key(alias).arn
    kms.client.call("DeleteAlias", AliasName=alias)

    assert (wrapped.key_arn, after) == (old, new)
    assert len(kms.client.decrypt(wrapped.blob, CONTEXT).plaintext) == 64


@on_every_kms("key states")
def test_disabled_key(kms: Kms) -> None:
    """A disabled key does nothing, says so with its ARN, and works again when it is enabled."""
    key = kms.key()
    wrapped = kms.client.generate_data_key_without_plaintext(key, CONTEXT)
    kms.client.call("DisableKey", KeyId=key)

    for use in (
        lambda: kms.client.decrypt(wrapped.blob, CONTEXT),
        lambda: kms.client.generate_data_key_without_plaintext(key, CONTEXT),
        lambda: kms.client.encrypt(key, b"x", CONTEXT),
        lambda: kms.client.re_encrypt(wrapped.blob, CONTEXT, key, CONTEXT),
    ):
        with pytest.raises(errors.KmsKeyDisabled, match=f"{key} is disabled"):
            use()
    assert kms.state(key) == "Disabled"

    kms.client.call("EnableKey", KeyId=key)
    assert len(kms.client.decrypt(wrapped.blob, CONTEXT).plaintext) == 64


@on_every_kms("key states", "deletion")
def test_key_pending_deletion(kms: Kms) -> None:
    """A key pending deletion does nothing and cannot be enabled; cancelled it is disabled, and enabled it works."""
    key = kms.key()
    wrapped = kms.client.generate_data_key_without_plaintext(key, CONTEXT)

    kms.client.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    with pytest.raises(errors.KmsKeyUnusable, match="is pending deletion"):
        kms.client.decrypt(wrapped.blob, CONTEXT)
    with pytest.raises(errors.KmsKeyInvalidState, match="is pending deletion"):
        kms.client.call("EnableKey", KeyId=key)
    kms.client.call("CancelKeyDeletion", KeyId=key)
    with pytest.raises(errors.KmsKeyDisabled):
        kms.client.decrypt(wrapped.blob, CONTEXT)

    kms.client.call("EnableKey", KeyId=key)
    assert len(kms.client.decrypt(wrapped.blob, CONTEXT).plaintext) == 64


@on_every_kms("deletion")
@pytest.mark.parametrize("days", [6, 31])
def test_deletion_window(kms: Kms, days: int) -> None:
    """A waiting period outside of 7 to 30 days is refused, and the key stays as it is."""
    key = kms.key()

    with pytest.raises(errors.KmsInvalidRequest):
        kms.client.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=days)

    assert kms.state(key) == "Enabled"


@on_every_kms("imported material", "key states")
def test_key_without_material(kms: Kms) -> None:
    """A key that waits for its material is pending import and does nothing."""
    key = kms.key(Origin="EXTERNAL")

    assert kms.state(key) == "PendingImport"
    with pytest.raises(errors.KmsKeyInvalidState, match=f"{key} is pending import"):
        kms.client.generate_data_key_without_plaintext(key, CONTEXT)


@on_every_kms()
@pytest.mark.parametrize(
    ("spec", "usage"),
    [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")],
)
def test_keys_that_are_not_for_volumes_are_told(kms: Kms, spec: str, usage: str) -> None:
    """Asymmetric and HMAC keys are described as such, and refused for volumes by spec and usage."""
    key = kms.key(KeySpec=spec, KeyUsage=usage)

    with pytest.raises(errors.KmsInvalidKeyUsage) as caught:
        kms.client.resolve_key(key)

    assert all(part in caught.value.message for part in (key, spec, usage))


@on_every_kms("key usage")
@pytest.mark.parametrize(
    ("spec", "usage"),
    [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")],
)
def test_keys_that_are_not_for_volumes_are_refused(kms: Kms, spec: str, usage: str) -> None:
    """Asked for a data key under an asymmetric or HMAC key, KMS itself refuses."""
    key = kms.key(KeySpec=spec, KeyUsage=usage)

    with pytest.raises(errors.KmsInvalidKeyUsage):
        kms.client.generate_data_key_without_plaintext(key, CONTEXT)


@on_every_kms()
@pytest.mark.parametrize("name", ["1234abcd-12ab-34cd-56ef-1234567890ab", "alias/ebscrypt-contract-nobody"])
def test_names_that_lead_nowhere(kms: Kms, name: str) -> None:
    """Unknown keys and aliases are not found."""
    with pytest.raises(errors.KmsKeyNotFound):
        kms.client.resolve_key(name)


@on_every_kms()
@pytest.mark.parametrize("size", [0, 1025])
def test_sizes_out_of_range(kms: Kms, size: int) -> None:
    """A data key of no bytes, or of too many, is refused as an invalid request."""
    with pytest.raises(errors.KmsInvalidRequest):
        kms.client.generate_data_key_without_plaintext(kms.key(), CONTEXT, size)


@on_every_kms("dry run")
def test_dry_run(kms: Kms) -> None:
    """A dry run is answered with DryRunOperationException where the call would have succeeded."""
    key = kms.key()

    with pytest.raises(errors.KmsInvalidRequest) as caught:
        kms.client.call("GenerateDataKeyWithoutPlaintext", KeyId=key, NumberOfBytes=64, DryRun=True)

    assert caught.value.kms_code == "DryRunOperationException"


@on_every_kms("pages")
def test_listing_in_pages(kms: Kms) -> None:
    """ListKeys goes through all keys in pages."""
    made = {kms.key() for _ in range(3)}

    found: list[str] = []
    more: dict[str, str] = {}
    for _ in range(10_000):
        page = kms.client.call("ListKeys", Limit=2, **more)
        assert len(page["Keys"]) <= 2
        found += [key["KeyArn"] for key in page["Keys"]]
        if not page.get("Truncated"):
            break
        more = {"Marker": page["NextMarker"]}

    assert made <= set(found)
    assert len(found) == len(set(found))

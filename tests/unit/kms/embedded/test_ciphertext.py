"""Ciphertext blobs: bound to key, material and context; opaque; never two alike."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebscrypt.kms.embedded.ciphertext import HEADER_SIZE, TAG_SIZE
from tests.unit.kms.embedded.speaking import CONTEXT, Speaker

contexts = st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3)


def test_sizes(kms: Speaker) -> None:
    """A data key of 64 bytes is wrapped in 164; the longest plaintext stays far below the limit of 6144."""
    key = kms.key()

    assert len(kms.wrapped(key)) == HEADER_SIZE + 64 + TAG_SIZE == 164
    longest = kms.say("Encrypt", KeyId=key, Plaintext=b"x" * 4096)["CiphertextBlob"]
    assert len(longest) * 3 // 4 < 6144


def test_no_two_are_alike(kms: Speaker) -> None:
    """The same plaintext never gives the same blob, nor any part of the encrypted bytes."""
    key = kms.key()

    blobs = {kms.say("Encrypt", KeyId=key, Plaintext=b"same" * 16)["CiphertextBlob"][-100:] for _ in range(50)}

    assert len(blobs) == 50


@given(made_with=contexts, asked_with=contexts)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_context_must_be_the_same(made_with: dict[str, str], asked_with: dict[str, str], kms: Speaker) -> None:
    """A blob opens with exactly the context that it was made with."""
    blob = kms.wrapped("alias/aws/ebs", made_with)

    if made_with == asked_with:
        assert len(kms.opened(blob, asked_with)) == 64
    else:
        refused = kms.refusal("Decrypt", CiphertextBlob=blob, EncryptionContext=asked_with)
        assert (refused.kind, refused.message) == ("InvalidCiphertextException", "")


def test_every_bit_counts(kms: Speaker) -> None:
    """A blob with any one byte changed does not open, with one and the same answer for wherever it was."""
    blob = kms.wrapped(kms.key())

    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 0x40
        refused = kms.refusal("Decrypt", CiphertextBlob=bytes(changed), EncryptionContext=CONTEXT)
        assert (refused.kind, refused.message) == ("InvalidCiphertextException", "")


@pytest.mark.parametrize("cut", [1, 2, 83, 84, 99, 100, 163])
def test_cut_and_prolonged(cut: int, kms: Speaker) -> None:
    """Blobs that are too short or too long do not open."""
    blob = kms.wrapped(kms.key())

    for wrong in (blob[:cut], blob + b"x" * cut):
        refused = kms.refusal("Decrypt", CiphertextBlob=wrong, EncryptionContext=CONTEXT)
        assert refused.kind == "InvalidCiphertextException"


def test_blob_of_another_store(kms: Speaker) -> None:
    """A blob whose key this KMS never had is as invalid as garbage."""
    blob = bytearray(kms.wrapped(kms.key()))
    blob[4:20] = bytes(range(16))

    refused = kms.refusal("Decrypt", CiphertextBlob=bytes(blob), EncryptionContext=CONTEXT)

    assert (refused.kind, refused.message) == ("InvalidCiphertextException", "")


def test_key_id_that_is_not_the_blobs(kms: Speaker) -> None:
    """Decrypt with the id of another key is IncorrectKeyException, with AWS's words; with the right one it works."""
    key, other = kms.key(), kms.key()
    blob = kms.wrapped(key)

    refused = kms.refusal("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=other)

    assert refused.kind == "IncorrectKeyException"
    assert refused.message == "The key ID in the request does not identify a CMK that can perform this operation."
    assert len(kms.opened(blob, KeyId=key)) == 64


def test_re_encrypt_keeps_the_plaintext(kms: Speaker) -> None:
    """ReEncrypt gives the same plaintext under another key and context, and the old blob still opens."""
    source, destination = kms.key(), kms.key()
    blob = kms.wrapped(source)
    new_context = {"aws:ebs:id": "vol-11111111111111111"}

    answer = kms.say(
        "ReEncrypt",
        CiphertextBlob=blob,
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=destination,
        DestinationEncryptionContext=new_context,
    )

    again = kms.say("Decrypt", CiphertextBlob=answer["CiphertextBlob"], EncryptionContext=new_context)
    assert (answer["SourceKeyId"], answer["KeyId"], again["KeyId"]) == (source, destination, destination)
    assert again == kms.say("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT) | {
        "KeyId": destination,
        "KeyMaterialId": answer["DestinationKeyMaterialId"],
    }


def test_generate_data_key(kms: Speaker) -> None:
    """GenerateDataKey gives a plaintext of the asked size and the blob that holds it."""
    key = kms.key()

    for request, size in (({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1}, 1)):
        answer = kms.say("GenerateDataKey", KeyId=key, **request)
        opened = kms.say("Decrypt", CiphertextBlob=answer["CiphertextBlob"])
        assert opened["Plaintext"] == answer["Plaintext"]
        assert len(base64.b64decode(opened["Plaintext"])) == size


@pytest.mark.parametrize(
    ("spec", "usage", "operation", "kind"),
    [
        ("HMAC_256", "GENERATE_VERIFY_MAC", "Encrypt", "InvalidKeyUsageException"),
        ("RSA_2048", "SIGN_VERIFY", "Encrypt", "InvalidKeyUsageException"),
        ("RSA_2048", "ENCRYPT_DECRYPT", "Encrypt", "InvalidKeyUsageException"),
        ("RSA_2048", "ENCRYPT_DECRYPT", "GenerateDataKeyWithoutPlaintext", "InvalidKeyUsageException"),
    ],
)
def test_keys_of_other_kinds(spec: str, usage: str, operation: str, kind: str, kms: Speaker) -> None:
    """Keys that are not for symmetric encryption are refused as InvalidKeyUsageException, naming key or spec."""
    key = kms.key(KeySpec=spec, KeyUsage=usage)
    request = {"Plaintext": b"x"} if operation == "Encrypt" else {"NumberOfBytes": 64}

    refused = kms.refusal(operation, KeyId=key, **request)

    assert refused.kind == kind
    assert usage in refused.message or spec in refused.message


def test_dry_runs_do_nothing_and_say_whether_they_could(kms: Speaker) -> None:
    """DryRun answers DryRunOperationException where the call would have succeeded, else what the call would answer."""
    key = kms.key()
    blob = kms.wrapped(key)
    requests: dict[str, dict[str, Any]] = {
        "Encrypt": {"KeyId": key, "Plaintext": b"x"},
        "Decrypt": {"CiphertextBlob": blob, "EncryptionContext": CONTEXT},
        "ReEncrypt": {"CiphertextBlob": blob, "SourceEncryptionContext": CONTEXT, "DestinationKeyId": key},
        "GenerateDataKey": {"KeyId": key, "NumberOfBytes": 64},
        "GenerateDataKeyWithoutPlaintext": {"KeyId": key, "NumberOfBytes": 64},
    }

    for operation, request in requests.items():
        assert kms.refusal(operation, DryRun=True, **request).kind == "DryRunOperationException"
    assert kms.refusal("Decrypt", DryRun=True, CiphertextBlob=blob).kind == "InvalidCiphertextException"
    kms.say("DisableKey", KeyId=key)
    for operation, request in requests.items():
        assert kms.refusal(operation, DryRun=True, **request).kind == "DisabledException"

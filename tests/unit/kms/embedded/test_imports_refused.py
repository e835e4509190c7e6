"""Imported key material that is not taken: wrappings, tokens, terms, sizes and kinds that are wrong."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any

import pytest

from ebscrypt.kms.embedded import imports
from tests.unit.kms.embedded.importing import FOREVER, imported, parameters, wrapped
from tests.unit.kms.embedded.speaking import Speaker

MATERIAL = bytes(range(32))
OAEP = "RSAES_OAEP_SHA_256"
one_pair = pytest.mark.usefixtures("same_wrapping_key")
ALGORITHMS = ["RSAES_OAEP_SHA_1", OAEP, "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]


@pytest.fixture
def key(kms: Speaker) -> str:
    """A key that waits for material."""
    return kms.key(Origin="EXTERNAL")


@one_pair
@pytest.mark.parametrize(
    ("algorithm", "spec"), [("RSAES_PKCS1_V1_5", "RSA_2048"), ("SM2PKE", "SM2"), (OAEP, "SM2"), ("SM2PKE", "RSA_2048")]
)
def test_wrappings_that_are_not_offered(algorithm: str, spec: str, kms: Speaker, key: str) -> None:
    """PKCS #1 v1.5, as AWS since 2023, and SM2 are refused by name."""
    refused = kms.refusal("GetParametersForImport", KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec=spec)

    assert refused.kind == "UnsupportedOperationException"
    assert "is not supported by the embedded KMS" in refused.message


@one_pair
@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_material_of_another_size(size: int, kms: Speaker, key: str) -> None:
    """A symmetric key has 32 bytes: anything else is refused with the size, and the key stays as it is."""
    refused = kms.refusal("ImportKeyMaterial", **parameters(kms, key, b"x" * size), **FOREVER)

    assert refused.kind == "IncorrectKeyMaterialException"
    assert f"not of {size}" in refused.message
    assert kms.state(key) == "PendingImport"


@one_pair
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("damage", ["flipped", "cut", "prolonged", "garbage", "other algorithm"])
def test_damaged_wrapping(algorithm: str, damage: str, kms: Speaker, key: str) -> None:
    """Wrapped material that was damaged, or wrapped by another algorithm, is invalid, without a hint at which."""
    given = kms.say("GetParametersForImport", KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048")
    public = base64.b64decode(given["PublicKey"])
    right = wrapped(public, algorithm, MATERIAL)
    wrong = {
        "flipped": right[:-1] + bytes([right[-1] ^ 1]),
        "cut": right[:-8],
        "prolonged": right + b"x" * 8,
        "garbage": os.urandom(len(right)),
        "other algorithm": wrapped(public, ALGORITHMS[ALGORITHMS.index(algorithm) ^ 1], MATERIAL),
    }

    refused = kms.refusal(
        "ImportKeyMaterial", KeyId=key, ImportToken=given["ImportToken"], EncryptedKeyMaterial=wrong[damage], **FOREVER
    )

    assert (refused.kind, refused.message) == ("InvalidCiphertextException", "")


def test_tokens(kms: Speaker, key: str) -> None:
    """A token of another key, of another wrapping key, damaged or made up does not import anything."""
    other = kms.key(Origin="EXTERNAL")
    asked, of_other, of_another_call = (parameters(kms, each, MATERIAL) for each in (key, other, key))
    token = base64.b64decode(asked["ImportToken"])
    cases: dict[str, bytes | str] = {
        "another key": of_other["ImportToken"],
        "damaged": token[:-1] + bytes([token[-1] ^ 1]),
        "cut": token[:-1],
        "made up": b"x" * len(token),
    }

    for wrong in cases.values():
        refused = kms.refusal("ImportKeyMaterial", **(asked | FOREVER | {"ImportToken": wrong}))
        assert refused.kind == "InvalidImportTokenException"
    swapped = asked | FOREVER | {"ImportToken": of_another_call["ImportToken"]}
    assert kms.refusal("ImportKeyMaterial", **swapped).kind == "InvalidCiphertextException"
    assert kms.state(key) == "PendingImport"


@one_pair
def test_token_expires(kms: Speaker, key: str) -> None:
    """After 24 hours the token has expired and the private key is destroyed; after 30 days it is not even known."""
    asked = parameters(kms, key, MATERIAL) | FOREVER

    kms.now += imports.VALID - 1
    assert kms.refusal("ImportKeyMaterial", **(asked | {"EncryptedKeyMaterial": b"x"})).kind == (
        "InvalidCiphertextException"
    )
    kms.now += 1
    assert kms.refusal("ImportKeyMaterial", **asked).kind == "ExpiredImportTokenException"
    with kms.database() as database:
        assert database.execute("SELECT sealed FROM import_key").fetchall() == [(None,)]
    kms.now += imports.REMEMBERED
    parameters(kms, key, MATERIAL)

    assert kms.refusal("ImportKeyMaterial", **asked).kind == "InvalidImportTokenException"


@one_pair
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"),
        ({"ExpirationModel": "KEY_MATERIAL_EXPIRES"}, "A validTo date must be set"),
        (FOREVER | {"ValidTo": 2e9}, "must not be set"),
        ({"ValidTo": 0}, "must be in the future"),
        ({"ValidTo": 1e30}, "at most 365 days"),
        (FOREVER | {"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": "0" * 64}, "KeyMaterialId with ImportType"),
        (FOREVER | {"KeyMaterialId": "0" * 63}, "'keyMaterialId' failed to satisfy constraint"),
    ],
    ids=str,
)
def test_terms_that_cannot_be(asked: dict[str, Any], said: str, kms: Speaker, key: str) -> None:
    """An end without need, none where one is needed, in the past or too late: ValidationException."""
    refused = kms.refusal("ImportKeyMaterial", **parameters(kms, key, MATERIAL), **asked)

    assert refused.kind == "ValidationException"
    assert said in refused.message
    assert kms.state(key) == "PendingImport"


@one_pair
@pytest.mark.parametrize(
    ("before", "asked", "kind"),
    [
        ([], {"ImportType": "EXISTING_KEY_MATERIAL"}, "IncorrectKeyMaterialException"),
        ([], {"KeyMaterialId": "0" * 64, "ImportType": "EXISTING_KEY_MATERIAL"}, "IncorrectKeyMaterialException"),
        ([MATERIAL], {"ImportType": "NEW_KEY_MATERIAL"}, "IncorrectKeyMaterialException"),
        ([MATERIAL], {"KeyMaterialId": "0" * 64}, "IncorrectKeyMaterialException"),
        ([b"1" * 32, b"2" * 32], {"ImportType": "NEW_KEY_MATERIAL"}, "KMSInvalidStateException"),
    ],
    ids=["no first", "no such id", "not new", "other id", "two new ones"],
)
def test_import_types(before: list[bytes], asked: dict[str, Any], kind: str, kms: Speaker, key: str) -> None:
    """ImportType says whether the material is new to the key, and must be right; only one may wait for a rotation."""
    for material in before:
        imported(kms, key, material, ImportType="NEW_KEY_MATERIAL", **FOREVER)

    assert kms.refusal("ImportKeyMaterial", **parameters(kms, key, MATERIAL), **FOREVER, **asked).kind == kind


@one_pair
@pytest.mark.parametrize("operation", ["GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"])
def test_other_specs(operation: str, kms: Speaker) -> None:
    """Asymmetric and HMAC keys wait for material in vain: this KMS would have no use for it, and says so."""
    key = kms.key(Origin="EXTERNAL", KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    wanted: dict[str, Callable[[], dict[str, Any]]] = {
        "GetParametersForImport": lambda: {"WrappingAlgorithm": OAEP, "WrappingKeySpec": "RSA_2048"},
        "ImportKeyMaterial": lambda: {"ImportToken": b"x", "EncryptedKeyMaterial": b"x"} | FOREVER,
        "DeleteImportedKeyMaterial": dict,
    }

    refused = kms.refusal(operation, KeyId=key, **wanted[operation]())

    assert refused.kind == "UnsupportedOperationException"
    assert "HMAC_256" in refused.message

"""Imported key material, wrapped as its owner would: by the words of the API, with nothing of ebscrypt's code."""

from __future__ import annotations

import base64
import os
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.unit.kms.embedded.speaking import Speaker

FOREVER = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}


def wrapped(public: bytes, algorithm: str, material: bytes) -> bytes:
    """``material`` under a public key of GetParametersForImport."""
    key = load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    oaep_hash = hashes.SHA1() if algorithm.endswith("SHA_1") else hashes.SHA256()  # noqa: S303 - AWS's offer
    oaep = padding.OAEP(padding.MGF1(oaep_hash), oaep_hash, label=None)
    if algorithm.startswith("RSAES"):
        return key.encrypt(material, oaep)
    between = os.urandom(32)
    return key.encrypt(between, oaep) + aes_key_wrap_with_padding(between, material)


def parameters(kms: Speaker, key: str, material: bytes, algorithm: str = "RSAES_OAEP_SHA_256") -> dict[str, Any]:
    """What ImportKeyMaterial is asked with, after GetParametersForImport."""
    given = kms.say("GetParametersForImport", KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048")
    return {
        "KeyId": key,
        "ImportToken": given["ImportToken"],
        "EncryptedKeyMaterial": wrapped(base64.b64decode(given["PublicKey"]), algorithm, material),
    }


def imported(kms: Speaker, key: str, material: bytes, **more: Any) -> str:
    """Give a key material; the material's id."""
    return str(kms.say("ImportKeyMaterial", **(parameters(kms, key, material) | (more or FOREVER)))["KeyMaterialId"])

"""Key material, on each KMS: imported, deleted, imported again, rotated."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ebscrypt import errors
from ebscrypt.model import encryption_context
from tests.contracts.kms_implementations import Kms, on_every_kms

CONTEXT = encryption_context("vol-0123456789abcdef0")
FOREVER = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
ALGORITHMS = ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]


def import_request(kms: Kms, key: str, material: bytes, algorithm: str = "RSAES_OAEP_SHA_256") -> dict[str, Any]:
    """What ImportKeyMaterial is asked with, after GetParametersForImport."""
    given = kms.client.call(
        "GetParametersForImport", KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048"
    )
    public = load_der_public_key(given["PublicKey"])
    assert isinstance(public, rsa.RSAPublicKey)
    oaep_hash = hashes.SHA1() if algorithm.endswith("SHA_1") else hashes.SHA256()  # noqa: S303 - AWS's offer
    oaep = padding.OAEP(padding.MGF1(oaep_hash), oaep_hash, label=None)
    if algorithm.startswith("RSAES"):
        wrapped = public.encrypt(material, oaep)
    else:
        between = os.urandom(32)
        wrapped = public.encrypt(between, oaep) + aes_key_wrap_with_padding(between, material)
    return {"KeyId": key, "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": wrapped}


@on_every_kms("import")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_import(algorithm: str, kms: Kms) -> None:
    """Material wrapped in each way makes a key that waited for it work; deleted it waits again, and takes it back."""
    key, material = kms.key(Origin="EXTERNAL"), os.urandom(32)

    kms.client.call("ImportKeyMaterial", **import_request(kms, key, material, algorithm), **FOREVER)
    blob = kms.client.generate_data_key_without_plaintext(key, CONTEXT).blob
    kms.client.call("DeleteImportedKeyMaterial", KeyId=key)
    waiting = kms.state(key)
    with pytest.raises(errors.KmsKeyInvalidState, match=f"{key} is pending import"):
        kms.client.decrypt(blob, CONTEXT)
    kms.client.call("ImportKeyMaterial", **import_request(kms, key, material), **FOREVER)

    assert (waiting, kms.state(key)) == ("PendingImport", "Enabled")
    assert len(kms.client.decrypt(blob, CONTEXT).plaintext) == 64


@on_every_kms("import")
def test_import_of_other_material(kms: Kms) -> None:
    """A key takes no other material than it had."""
    key = kms.key(Origin="EXTERNAL")
    kms.client.call("ImportKeyMaterial", **import_request(kms, key, os.urandom(32)), **FOREVER)
    kms.client.call("DeleteImportedKeyMaterial", KeyId=key)

    asked = import_request(kms, key, os.urandom(32)) | FOREVER

    assert kms.refusal("ImportKeyMaterial", **asked) == "IncorrectKeyMaterialException"


@on_every_kms("import")
def test_import_that_is_wrong(kms: Kms) -> None:
    """Another key's token, a damaged token and damaged material are refused, each by its type."""
    key, other = kms.key(Origin="EXTERNAL"), kms.key(Origin="EXTERNAL")
    right = import_request(kms, key, os.urandom(32)) | FOREVER
    foreign = import_request(kms, other, os.urandom(32))["ImportToken"]
    damaged = right["EncryptedKeyMaterial"][:-1] + bytes([right["EncryptedKeyMaterial"][-1] ^ 1])

    assert kms.refusal("ImportKeyMaterial", **(right | {"ImportToken": foreign})) == "InvalidImportTokenException"
    assert kms.refusal("ImportKeyMaterial", **(right | {"ImportToken": b"x" * 36})) == "InvalidImportTokenException"
    assert kms.refusal("ImportKeyMaterial", **(right | {"EncryptedKeyMaterial": damaged})) == (
        "InvalidCiphertextException"
    )


@on_every_kms("import")
def test_import_with_an_end(kms: Kms) -> None:
    """An end of the material must be given or expressly not, and is shown."""
    key = kms.key(Origin="EXTERNAL")
    asked = import_request(kms, key, os.urandom(32))
    valid_to = int(time.time()) + 86_400

    assert kms.refusal("ImportKeyMaterial", **asked) == "ValidationException"
    assert kms.refusal("ImportKeyMaterial", ValidTo=valid_to, **asked, **FOREVER) == "ValidationException"
    kms.client.call("ImportKeyMaterial", ValidTo=valid_to, **asked)

    metadata = kms.client.call("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["ExpirationModel"], int(metadata["ValidTo"].timestamp())) == ("KEY_MATERIAL_EXPIRES", valid_to)


@on_every_kms("import")
@pytest.mark.parametrize("operation", ["GetParametersForImport", "DeleteImportedKeyMaterial"])
def test_import_into_a_key_of_its_own(operation: str, kms: Kms) -> None:
    """A key with material of KMS's own takes no other."""
    wrapping = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    key = kms.key()

    with pytest.raises(errors.KmsError, match="origin is AWS_KMS which is not valid for this operation") as caught:
        kms.client.call(operation, KeyId=key, **(wrapping if operation.startswith("Get") else {}))

    assert caught.value.kms_code == "UnsupportedOperationException"


@on_every_kms("rotation")
def test_rotation_schedule(kms: Kms) -> None:
    """Rotation is off, can be switched on with a period, is shown with its next date, and off again."""
    key = kms.key()
    before = kms.client.call("GetKeyRotationStatus", KeyId=key)
    kms.client.call("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    status = kms.client.call("GetKeyRotationStatus", KeyId=key)
    kms.client.call("DisableKeyRotation", KeyId=key)

    assert before["KeyRotationEnabled"] is False
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 90)
    assert 89 * 86_400 < status["NextRotationDate"].timestamp() - time.time() < 91 * 86_400
    assert kms.client.call("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is False


@on_every_kms("rotation")
def test_rotation_on_demand(kms: Kms) -> None:
    """A rotation is listed, gives the key other material, and leaves the old for what it encrypted."""
    key = kms.key()
    blob = kms.client.generate_data_key_without_plaintext(key, CONTEXT).blob
    before = kms.client.call("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]

    kms.client.call("RotateKeyOnDemand", KeyId=key)

    def has_rotated() -> bool:
        return bool(kms.client.call("ListKeyRotations", KeyId=key)["Rotations"])

    assert kms.becomes(has_rotated)
    (rotation,) = kms.client.call("ListKeyRotations", KeyId=key)["Rotations"]
    after = kms.client.call("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    opened = kms.client.call("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT)
    assert (rotation["RotationType"], rotation["KeyMaterialId"]) == ("ON_DEMAND", after)
    assert after != before
    assert opened["KeyMaterialId"] == before


@on_every_kms("rotation")
def test_rotation_of_keys_that_cannot(kms: Kms) -> None:
    """HMAC keys and keys with imported material do not rotate by themselves."""
    hmac = kms.key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")

    for key in (hmac, kms.key(Origin="EXTERNAL")):
        assert kms.refusal("EnableKeyRotation", KeyId=key) == "UnsupportedOperationException"

"""Imported key material: every wrapping, every wrong one, expiry, deletion, and the same material again."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ebscrypt.kms.embedded import ciphertext, wrapping
from tests.unit.kms.embedded.importing import FOREVER, imported, parameters
from tests.unit.kms.embedded.speaking import CONTEXT, DAY, Speaker

MATERIAL = bytes(range(32))
OAEP = "RSAES_OAEP_SHA_256"
one_pair = pytest.mark.usefixtures("same_wrapping_key")
ALGORITHMS = ["RSAES_OAEP_SHA_1", OAEP, "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]


@pytest.fixture
def key(kms: Speaker) -> str:
    """A key that waits for material."""
    return kms.key(Origin="EXTERNAL")


def shown(kms: Speaker, key: str) -> dict[str, Any]:
    metadata: dict[str, Any] = kms.say("DescribeKey", KeyId=key)["KeyMetadata"]
    return metadata


def materials(kms: Speaker, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kms.say("ListKeyRotations", KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")[
        "Rotations"
    ]
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_wrapping(algorithm: str, kms: Speaker, key: str) -> None:
    """Material wrapped by each algorithm that AWS offers comes in, and the key is enabled and works."""
    asked = parameters(kms, key, MATERIAL, algorithm)

    answer = kms.say("ImportKeyMaterial", **asked, **FOREVER)

    metadata = shown(kms, key)
    assert answer == {"KeyId": key, "KeyMaterialId": metadata["CurrentKeyMaterialId"]}
    assert (metadata["KeyState"], metadata["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    assert "ValidTo" not in metadata
    assert len(kms.opened(kms.wrapped(key))) == 64


@pytest.mark.parametrize(("spec", "bits"), [("RSA_2048", 2048), ("RSA_3072", 3072), ("RSA_4096", 4096)])
def test_wrapping_keys(spec: str, bits: int, kms: Speaker, key: str) -> None:
    """GetParametersForImport gives a fresh RSA key of the asked size, a token, and 24 hours."""
    answer = kms.say("GetParametersForImport", KeyId=key, WrappingAlgorithm=OAEP, WrappingKeySpec=spec)

    public = load_der_public_key(base64.b64decode(answer["PublicKey"]))
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == bits
    assert (answer["KeyId"], answer["ParametersValidTo"]) == (key, kms.now + DAY)


@one_pair
def test_material_is_what_was_imported(kms: Speaker) -> None:
    """The key's material is the imported bytes: by the format page, a blob opens with them and no store."""
    key = kms.key(Origin="EXTERNAL")
    imported(kms, key, MATERIAL)
    blob = kms.wrapped(key)

    assert ciphertext.decrypt(MATERIAL, arn=key, blob=blob, context=CONTEXT) == kms.opened(blob)


@one_pair
def test_same_material_again(kms: Speaker, key: str) -> None:
    """After deletion, the same material makes the key work again, and its old blobs open; its id is the same."""
    material_id = imported(kms, key, MATERIAL)
    blob = kms.wrapped(key)

    deleted = kms.say("DeleteImportedKeyMaterial", KeyId=key)
    metadata = shown(kms, key)
    refused = kms.refusal("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT)
    again = imported(kms, key, MATERIAL)

    assert deleted == {"KeyId": key, "KeyMaterialId": material_id}
    assert metadata["KeyState"] == "PendingImport"
    assert "ExpirationModel" not in metadata
    assert (refused.kind, refused.message) == ("KMSInvalidStateException", f"{key} is pending import.")
    assert again == material_id
    assert len(kms.opened(blob)) == 64


@one_pair
@pytest.mark.parametrize("first", ["there", "deleted"])
def test_other_material(first: str, kms: Speaker, key: str) -> None:
    """Other material than the first is IncorrectKeyMaterialException, whether that is there or was deleted."""
    imported(kms, key, MATERIAL)
    if first == "deleted":
        kms.say("DeleteImportedKeyMaterial", KeyId=key)

    refused = kms.refusal("ImportKeyMaterial", **parameters(kms, key, b"other material, of 32 bytes too!"), **FOREVER)

    assert refused.kind == "IncorrectKeyMaterialException"
    assert kms.state(key) == ("Enabled" if first == "there" else "PendingImport")


@one_pair
def test_ids_are_of_key_and_material(kms: Speaker) -> None:
    """The same material has another id in another key; the id shows nothing of the material."""
    ids = {imported(kms, kms.key(Origin="EXTERNAL"), material) for material in (MATERIAL, MATERIAL, os.urandom(32))}

    assert len(ids) == 3
    assert MATERIAL.hex() not in ids


@one_pair
def test_token_is_good_for_its_time(kms: Speaker, key: str) -> None:
    """The same token and wrapped material work again within 24 hours."""
    asked = parameters(kms, key, MATERIAL) | FOREVER
    first = kms.say("ImportKeyMaterial", **asked)
    kms.say("DeleteImportedKeyMaterial", KeyId=key)
    kms.now += DAY - 1

    assert kms.say("ImportKeyMaterial", **asked) == first


@one_pair
def test_expiry(kms: Speaker, key: str) -> None:
    """Material with an end is shown with it, works until then, and is destroyed by the first request after it."""
    valid_to = kms.now + 10 * DAY
    imported(kms, key, MATERIAL, ValidTo=valid_to)
    blob, metadata = kms.wrapped(key), shown(kms, key)
    with kms.database() as database:
        sealed: bytes = database.execute("SELECT sealed FROM material WHERE valid_to IS NOT NULL").fetchone()[0]

    kms.now = valid_to - 1
    assert len(kms.opened(blob)) == 64
    kms.now = valid_to
    refused = kms.refusal("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT)

    assert (metadata["ExpirationModel"], metadata["ValidTo"]) == ("KEY_MATERIAL_EXPIRES", valid_to)
    assert (refused.kind, refused.message) == ("KMSInvalidStateException", f"{key} is pending import.")
    assert (kms.state(key), materials(kms, key)[0]["ImportState"]) == ("PendingImport", "PENDING_IMPORT")
    files = b"".join(path.read_bytes() for path in kms.settings.kms_dir.iterdir())
    assert sealed not in files


@one_pair
def test_expiry_can_be_changed(kms: Speaker, key: str) -> None:
    """The same material imported again, while it is there, has the new end, or none."""
    imported(kms, key, MATERIAL, ValidTo=kms.now + DAY)
    imported(kms, key, MATERIAL, ValidTo=kms.now + 5 * DAY)
    kms.now += 2 * DAY
    assert kms.state(key) == "Enabled"

    imported(kms, key, MATERIAL)
    kms.now += 300 * DAY

    assert shown(kms, key)["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE"


@one_pair
def test_every_material_is_needed(kms: Speaker, key: str) -> None:
    """A key with several materials is pending import until all that it ever encrypted with are back."""
    first = imported(kms, key, b"1" * 32)
    second = imported(kms, key, b"2" * 32, ImportType="NEW_KEY_MATERIAL", **FOREVER)
    kms.say("RotateKeyOnDemand", KeyId=key)
    for material_id in (first, second):
        kms.say("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId=material_id)

    imported(kms, key, b"2" * 32)
    half = kms.state(key), [entry["ImportState"] for entry in materials(kms, key)]
    imported(kms, key, b"1" * 32, KeyMaterialId=first, **FOREVER)

    assert half == ("PendingImport", ["PENDING_IMPORT", "IMPORTED"])
    assert kms.state(key) == "Enabled"


@one_pair
def test_material_that_waits_may_go(kms: Speaker, key: str) -> None:
    """Material that waits for a rotation can be deleted, or expire: the key does without, and takes other."""
    imported(kms, key, b"1" * 32)
    waiting = imported(kms, key, b"2" * 32, ImportType="NEW_KEY_MATERIAL", **FOREVER)
    kms.say("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId=waiting)
    imported(kms, key, b"3" * 32, ImportType="NEW_KEY_MATERIAL", ValidTo=kms.now + DAY)
    kms.now += DAY

    assert kms.state(key) == "Enabled"
    assert len(materials(kms, key)) == 1


@one_pair
def test_deleting_what_is_not_there(kms: Speaker, key: str) -> None:
    """Deleting from a key that has none has no effect; material that the key never had is not found."""
    assert kms.say("DeleteImportedKeyMaterial", KeyId=key) == {"KeyId": key}
    imported(kms, key, MATERIAL)
    kms.say("DeleteImportedKeyMaterial", KeyId=key)
    kms.say("DeleteImportedKeyMaterial", KeyId=key)

    assert kms.refusal("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId="0" * 64).kind == "NotFoundException"
    assert kms.state(key) == "PendingImport"


@one_pair
def test_disabled_key(kms: Speaker, key: str) -> None:
    """A disabled key that gets its material again, while it is there, stays disabled."""
    imported(kms, key, MATERIAL)
    kms.say("DisableKey", KeyId=key)

    imported(kms, key, MATERIAL, ValidTo=kms.now + DAY)

    assert kms.state(key) == "Disabled"


@one_pair
@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_pending_deletion_stays(how: str, kms: Speaker, key: str) -> None:
    """A key pending deletion stays so when its material goes; cancelled, it is pending import."""
    imported(kms, key, MATERIAL, ValidTo=kms.now + DAY)
    kms.say("ScheduleKeyDeletion", KeyId=key)

    if how == "deleted":
        kms.say("DeleteImportedKeyMaterial", KeyId=key)
    kms.now += DAY

    assert kms.state(key) == "PendingDeletion"
    kms.say("CancelKeyDeletion", KeyId=key)
    assert kms.state(key) == "PendingImport"
    imported(kms, key, MATERIAL)
    assert kms.state(key) == "Enabled"


@one_pair
def test_cancelled_deletion_with_material(kms: Speaker, key: str) -> None:
    """A key whose material is there is disabled after a cancelled deletion, as any."""
    imported(kms, key, MATERIAL)
    kms.say("ScheduleKeyDeletion", KeyId=key)

    kms.say("CancelKeyDeletion", KeyId=key)

    assert kms.state(key) == "Disabled"


def test_nothing_secret_is_in_the_files(kms: Speaker, key: str) -> None:
    """Neither the imported material nor a private wrapping key is in any file of the store in clear."""
    imported(kms, key, MATERIAL)
    how_keys_begin = wrapping.generate("RSA_2048")[0][4:20]

    files = b"".join(path.read_bytes() for path in kms.settings.kms_dir.iterdir())

    assert how_keys_begin in wrapping.generate("RSA_2048")[0]
    assert MATERIAL not in files
    assert how_keys_begin not in files

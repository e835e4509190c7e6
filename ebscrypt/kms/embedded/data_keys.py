"""Operations with key material: GenerateDataKey*, Encrypt, Decrypt, ReEncrypt; and GenerateRandom."""

from __future__ import annotations

import os
from typing import Any, Final

from ebscrypt.kms.embedded import ciphertext, faults, keys, material, material_rows, rows
from ebscrypt.kms.embedded.calls import Call
from ebscrypt.kms.embedded.rows import KeyRow
from ebscrypt.kms.embedded.specs import ENCRYPT_DECRYPT, SPECS, SYMMETRIC

_KEY_SPECS: Final = {"AES_256": 32, "AES_128": 16}


def generate_data_key(call: Call) -> dict[str, Any]:
    """A new data key, in clear and wrapped."""
    return _generate(call)


def generate_data_key_without_plaintext(call: Call) -> dict[str, Any]:
    """A new data key, wrapped only: what EBS asks for when it creates a volume."""
    answer = _generate(call)
    del answer["Plaintext"]
    return answer


def encrypt(call: Call) -> dict[str, Any]:
    """Up to 4096 bytes of the client's own under a key."""
    asked = call.parameters
    context = asked.get("EncryptionContext", {})
    key = keys.find(call, asked["KeyId"])
    _check_allowed(call, key, call.operation, context)
    _check_usable(call, key, asked.get("EncryptionAlgorithm", SYMMETRIC))
    call.finish_dry_run()
    blob = _seal(call, key, asked["Plaintext"], context)
    return {"CiphertextBlob": blob, "KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC}


def decrypt(call: Call) -> dict[str, Any]:
    """What a blob holds, if the context is the one that it was made with and the key may be used now."""
    asked = call.parameters
    if asked.get("Recipient"):
        raise faults.unsupported("Recipient is not supported by the embedded KMS")
    key, plaintext, material_id = _open(
        call,
        asked.get("CiphertextBlob"),
        asked.get("EncryptionContext", {}),
        asked.get("KeyId"),
        asked.get("EncryptionAlgorithm", SYMMETRIC),
        action="Decrypt",
    )
    call.finish_dry_run()
    return {
        "KeyId": key.arn,
        "Plaintext": plaintext,
        "EncryptionAlgorithm": SYMMETRIC,
        "KeyMaterialId": material_id,
    }


def re_encrypt(call: Call) -> dict[str, Any]:
    """A blob for the same plaintext under another key or context. Both keys must be usable."""
    asked = call.parameters
    source, plaintext, source_material = _open(
        call,
        asked.get("CiphertextBlob"),
        asked.get("SourceEncryptionContext", {}),
        asked.get("SourceKeyId"),
        asked.get("SourceEncryptionAlgorithm", SYMMETRIC),
        action="ReEncryptFrom",
    )
    context = asked.get("DestinationEncryptionContext", {})
    destination = keys.find(call, asked["DestinationKeyId"])
    _check_allowed(call, destination, "ReEncryptTo", context)
    _check_usable(call, destination, asked.get("DestinationEncryptionAlgorithm", SYMMETRIC))
    call.finish_dry_run()
    return {
        "CiphertextBlob": _seal(call, destination, plaintext, context),
        "SourceKeyId": source.arn,
        "KeyId": destination.arn,
        "SourceEncryptionAlgorithm": SYMMETRIC,
        "DestinationEncryptionAlgorithm": SYMMETRIC,
        "SourceKeyMaterialId": source_material,
        "DestinationKeyMaterialId": destination.material_id,
    }


def generate_random(call: Call) -> dict[str, Any]:
    """Random bytes of the operating system."""
    for member in ("CustomKeyStoreId", "Recipient"):
        if call.parameters.get(member):
            raise faults.unsupported(f"{member} is not supported by the embedded KMS")
    size = call.parameters.get("NumberOfBytes")
    if size is None:
        raise faults.validation("NumberOfBytes is required.")
    return {"Plaintext": os.urandom(size)}


def _generate(call: Call) -> dict[str, Any]:
    asked = call.parameters
    if asked.get("Recipient"):
        raise faults.unsupported("Recipient is not supported by the embedded KMS")
    size, spec = asked.get("NumberOfBytes"), asked.get("KeySpec")
    if (size is None) == (spec is None):
        raise faults.validation("Please specify either number of bytes or key spec.")
    context = asked.get("EncryptionContext", {})
    key = keys.find(call, asked["KeyId"])
    _check_allowed(call, key, call.operation, context)
    _check_usable(call, key, SYMMETRIC)
    call.finish_dry_run()
    plaintext = os.urandom(size or _KEY_SPECS[str(spec)])
    return {
        "CiphertextBlob": _seal(call, key, plaintext, context),
        "Plaintext": plaintext,
        "KeyId": key.arn,
        "KeyMaterialId": key.material_id,
    }


def _check_allowed(call: Call, key: KeyRow, action: str, context: dict[str, str]) -> None:
    """Who may come before what may: that a principal is denied tells it nothing about the key."""
    with call.store.read() as db:
        call.check_allowed(db, key, action=action, context=context)


def _check_usable(call: Call, key: KeyRow, algorithm: str) -> None:
    """Usage, algorithm, state, in this order: what can never be first, what cannot be now last."""
    if key.usage != ENCRYPT_DECRYPT:
        raise faults.KmsFault(
            "InvalidKeyUsageException", f"{key.arn} key usage is {key.usage} which is not valid for {call.operation}."
        )
    if algorithm not in SPECS[key.spec][key.usage][1]:
        raise faults.KmsFault(
            "InvalidKeyUsageException", f"Algorithm {algorithm} is incompatible with key spec {key.spec}."
        )
    if key.spec != SYMMETRIC:
        raise faults.unsupported(f"{call.operation} with key spec {key.spec} is not supported by the embedded KMS")
    call.check_state(key)


def _seal(call: Call, key: KeyRow, plaintext: bytes, context: dict[str, str]) -> bytes:
    current = _material(call, key, key.material_id) if key.material_id else None
    if current is None or key.material_id is None:  # destroyed since we looked at the key's state
        if key.origin == "EXTERNAL":
            raise faults.KmsFault("KMSInvalidStateException", f"{key.arn} is pending import.")
        raise faults.key_not_found(key.arn)
    return ciphertext.encrypt(
        current,
        arn=key.arn,
        key_id=key.key_id,
        material_id=key.material_id,
        plaintext=plaintext,
        context=context,
    )


def _open(
    call: Call, blob: bytes | None, context: dict[str, str], key_id: str | None, algorithm: str, *, action: str
) -> tuple[KeyRow, bytes, str]:
    """The key that a blob names, the plaintext, and the id of the material that opened it.

    A blob of a key that was deleted here is told from garbage, so that the owner of a lost volume learns why.
    """
    if blob is None:
        raise faults.validation("CiphertextBlob is required.")
    header = ciphertext.read_header(blob)
    named = keys.find(call, key_id) if key_id else None
    with call.store.read() as db:
        key = rows.key(db, call.scope, header.key_id)
        if key is None and rows.was_deleted(db, call.scope, header.key_id):
            raise faults.key_not_found(call.arn(f"key/{header.key_id}"))
    if named and named.key_id != header.key_id:
        raise faults.incorrect_key()
    if key is None:
        raise faults.invalid_ciphertext()
    _check_allowed(call, key, action, context)
    _check_usable(call, key, algorithm)
    used = _material(call, key, header.material_id)
    if used is None:
        raise faults.invalid_ciphertext()
    return key, ciphertext.decrypt(used, arn=key.arn, blob=blob, context=context), header.material_id


def _material(call: Call, key: KeyRow, material_id: str) -> bytes | None:
    with call.store.read() as db:
        sealed = material_rows.sealed(db, key.key_id, material_id)
        # Within the transaction: the root key may be changed between two of them.
        return None if sealed is None else material.unseal(call.store.root, key.arn, material_id, sealed)

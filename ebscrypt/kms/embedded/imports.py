"""Operations on imported key material: GetParametersForImport, ImportKeyMaterial, DeleteImportedKeyMaterial.

A key of origin EXTERNAL has the material that its owner gives it, and loses it when he says so or when its time is
over. It is then pending import, and takes back nothing but the same material: the id of a material is computed from it,
and ids are kept. New material for a key that has some waits until RotateKeyOnDemand makes it the current one. A key is
usable while all the material that a blob of its may name is there (API reference of ImportKeyMaterial).

An import token is ``ebi`` 0x01 and 32 random bytes: the id of a pending import. It is no secret; the private key that
belongs to it is, and lies sealed in the store until its 24 hours are over.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.kms.embedded import faults, material, material_rows, rows, wrapping
from ebscrypt.kms.embedded.calls import Call
from ebscrypt.kms.embedded.material_rows import ImportKeyRow, MaterialRow, MaterialState
from ebscrypt.kms.embedded.rows import KeyRow
from ebscrypt.kms.embedded.specs import SYMMETRIC
from ebscrypt.kms.embedded.states import KeyState

if TYPE_CHECKING:
    from collections.abc import Iterable

VALID: Final = 86_400
"""Seconds for which a public key and its import token may be used (facts §5.2)."""
LATEST: Final = 365 * 86_400
"""Seconds from now within which ValidTo must be."""
REMEMBERED: Final = 30 * 86_400
"""Seconds for which an expired import token is told from one that never was."""
_MAGIC: Final = b"ebi\x01"
_ID_SIZE: Final = 32
_EXPIRES: Final = "KEY_MATERIAL_EXPIRES"
_NEW: Final = "NEW_KEY_MATERIAL"


def get_parameters_for_import(call: Call) -> dict[str, Any]:
    """A public key to wrap material with, and the token that tells which it was."""
    asked = call.parameters
    with call.store.read() as db:
        key = _external(call, db)
    for member, offered in (("WrappingAlgorithm", wrapping.ALGORITHMS), ("WrappingKeySpec", wrapping.KEY_SIZES)):
        if asked[member] not in offered:
            raise faults.unsupported(f"{member} {asked[member]} is not supported by the embedded KMS")
    private, public = wrapping.generate(asked["WrappingKeySpec"])  # takes seconds, therefore in no transaction
    import_id = secrets.token_bytes(_ID_SIZE)
    valid_to = call.now + VALID
    with call.store.write() as db:
        _external(call, db)
        material_rows.forget_import_keys(db, expired_by=call.now, long_ago=call.now - REMEMBERED)
        row = ImportKeyRow(
            import_id=import_id.hex(),
            key_id=key.key_id,
            algorithm=asked["WrappingAlgorithm"],
            valid_to=valid_to,
            sealed=material.seal(call.store.root, key.arn, import_id.hex(), private, purpose=material.IMPORT_KEY),
        )
        material_rows.add_import_key(db, row)
    return {"KeyId": key.arn, "ImportToken": _MAGIC + import_id, "PublicKey": public, "ParametersValidTo": valid_to}


def import_key_material(call: Call) -> dict[str, Any]:
    """Material for a key that waits for some, the same again with another expiry, or new material for a rotation."""
    asked = call.parameters
    valid_to = _expiry(call)
    with call.store.write() as db:
        key = _external(call, db)
        secret = _unwrapped(call, db, key)
        material_id = material.imported_material_id(key.key_id, secret)
        present = _chosen(key, material_rows.every(db, key.key_id), material_id, asked)
        sealed = material.seal(call.store.root, key.arn, material_id, secret)
        described = asked.get("KeyMaterialDescription")
        if present is None:
            _add(db, call, key, material_id, sealed, valid_to=valid_to)
        else:
            material_rows.restore(db, present, sealed, valid_to=valid_to, description=described)
        if key.state is KeyState.PENDING_IMPORT and is_complete(material_rows.every(db, key.key_id)):
            rows.set_state(db, key.key_id, KeyState.ENABLED)
    return {"KeyId": key.arn, "KeyMaterialId": material_id}


def delete_imported_key_material(call: Call) -> dict[str, Any]:
    """Destroy material now: the key is pending import until the same is imported again."""
    asked = call.parameters.get("KeyMaterialId")
    with call.store.write() as db:
        key = _external(call, db)
        wanted = asked or key.material_id
        found = next((row for row in material_rows.every(db, key.key_id) if row.material_id == wanted), None)
        if asked and not found:
            raise faults.KmsFault("NotFoundException", f"{key.arn} has no key material {asked}")
        if found:
            drop(db, found)
    call.store.forget_deleted()
    return {"KeyId": key.arn} | ({"KeyMaterialId": wanted} if wanted else {})


def drop(db: sqlite3.Connection, row: MaterialRow) -> None:
    """Destroy imported material; its key is pending import, unless it can do without or is pending deletion."""
    material_rows.drop(db, row)
    if row.state is not MaterialState.PENDING_ROTATION:
        rows.set_pending_import(db, row.key_id)


def is_complete(materials: Iterable[MaterialRow]) -> bool:
    """Whether a key has all material that a blob may name, and some at all."""
    needed = [row.present for row in materials if row.state is not MaterialState.PENDING_ROTATION]
    return bool(needed) and all(needed)


def _external(call: Call, db: sqlite3.Connection) -> KeyRow:
    key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
    call.check_customer_managed(key)
    call.check_state(key)
    if key.spec != SYMMETRIC:
        raise faults.unsupported(f"{call.operation} with key spec {key.spec} is not supported by the embedded KMS")
    return key


def _expiry(call: Call) -> float | None:
    """When the material shall expire; None for never."""
    valid_to: float | None = call.parameters.get("ValidTo")
    if call.parameters.get("ExpirationModel", _EXPIRES) != _EXPIRES:
        if valid_to is not None:
            raise faults.validation("A validTo date must not be set if the ExpirationModel is not KEY_MATERIAL_EXPIRES")
        return None
    if valid_to is None:
        raise faults.validation("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
    if not call.now < valid_to <= call.now + LATEST:
        raise faults.validation("The validTo date must be in the future, and at most 365 days from now")
    return valid_to


def _unwrapped(call: Call, db: sqlite3.Connection, key: KeyRow) -> bytes:
    """The material in the request. Raises the faults of a token or material that is not right."""
    token: bytes = call.parameters["ImportToken"]
    pending = None
    if len(token) == len(_MAGIC) + _ID_SIZE and token.startswith(_MAGIC):
        pending = material_rows.import_key(db, key.key_id, token[len(_MAGIC) :].hex())
    if pending is None:
        raise faults.KmsFault("InvalidImportTokenException", f"The import token is not one for {key.arn}.")
    if pending.sealed is None:
        raise faults.KmsFault("ExpiredImportTokenException", "The import token has expired: ask for a new one.")
    private = material.unseal(call.store.root, key.arn, pending.import_id, pending.sealed, purpose=material.IMPORT_KEY)
    try:
        secret = wrapping.unwrap(private, pending.algorithm, call.parameters["EncryptedKeyMaterial"])
    except wrapping.CannotUnwrap:
        raise faults.invalid_ciphertext() from None
    if len(secret) != material.MATERIAL_SIZE:
        raise _incorrect(f"A symmetric key has material of {material.MATERIAL_SIZE} bytes, not of {len(secret)}.")
    return secret


def _chosen(key: KeyRow, materials: list[MaterialRow], material_id: str, asked: dict[str, Any]) -> MaterialRow | None:
    """The material that the request restores; None for one that is new to the key. Raises what forbids it."""
    known = next((row for row in materials if row.material_id == material_id), None)
    is_new = asked.get("ImportType", "" if materials else _NEW) == _NEW
    if is_new and "KeyMaterialId" in asked:
        raise faults.validation(f"You cannot specify KeyMaterialId with ImportType {_NEW}.")
    if is_new == bool(known) or asked.get("KeyMaterialId", material_id) != material_id:
        raise _incorrect(
            f"The key material was imported into {key.arn} before: say EXISTING_KEY_MATERIAL."
            if is_new
            else f"The key material is not the one that was imported into {key.arn} before."
        )
    if is_new and any(row.state is MaterialState.PENDING_ROTATION for row in materials):
        raise faults.KmsFault("KMSInvalidStateException", f"{key.arn} has key material pending rotation already.")
    return known


def _incorrect(message: str) -> faults.KmsFault:
    return faults.KmsFault("IncorrectKeyMaterialException", message)


def _add(
    db: sqlite3.Connection, call: Call, key: KeyRow, material_id: str, sealed: bytes, *, valid_to: float | None
) -> None:
    before = material_rows.every(db, key.key_id)
    row = MaterialRow(
        material_id=material_id,
        key_id=key.key_id,
        created=call.now,
        number=before[-1].number + 1 if before else 1,
        state=MaterialState.PENDING_ROTATION if before else MaterialState.CURRENT,
        description=call.parameters.get("KeyMaterialDescription"),
        valid_to=valid_to,
    )
    material_rows.add(db, row, sealed)

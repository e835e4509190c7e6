"""Operations on keys: Create-, Describe-, List-, Enable-, DisableKey, UpdateKeyDescription, and those of deletion."""

from __future__ import annotations

import sqlite3
import uuid
from typing import Any, Final

from ebscrypt.kms.embedded import faults, imports, material_rows, policies, rotation, rows, tags
from ebscrypt.kms.embedded.calls import Call, paged
from ebscrypt.kms.embedded.rows import KeyRow
from ebscrypt.kms.embedded.specs import ENCRYPT_DECRYPT, SPECS, SYMMETRIC
from ebscrypt.kms.embedded.states import KeyState
from ebscrypt.kms.names import MANAGED_ALIAS

_NOT_KEPT: Final = ("CustomKeyStoreId", "XksKeyId")
"""Members of CreateKey that this KMS would have to keep to honour: refused, rather than silently dropped."""
_WINDOW: Final = (7, 30)
"""Days of the waiting period before a deletion, the shortest and the longest and default one (facts §5.1)."""


def create_key(call: Call) -> dict[str, Any]:
    """A new key: symmetric with fresh material, or of another spec, or waiting for imported material, without."""
    asked = call.parameters
    for member in _NOT_KEPT:
        if asked.get(member):
            raise faults.unsupported(f"{member} is not supported by the embedded KMS")
    if asked.get("MultiRegion"):
        raise faults.unsupported("Multi-Region keys are not supported by the embedded KMS")
    origin = asked.get("Origin", "AWS_KMS")
    if origin not in ("AWS_KMS", "EXTERNAL"):
        raise faults.unsupported(f"Origin {origin} is not supported by the embedded KMS")
    spec, usage = _spec_and_usage(asked)
    policy = policies.checked(asked["Policy"]) if "Policy" in asked else None
    with call.store.write() as db:
        key = _add(
            call, db, spec=spec, usage=usage, origin=origin, description=asked.get("Description", ""), policy=policy
        )
        tags.put(db, key, asked.get("Tags", []))
    return {"KeyMetadata": metadata(call, key)}


def describe_key(call: Call) -> dict[str, Any]:
    """The key's metadata, in every state."""
    key = find(call, call.parameters["KeyId"])
    with call.store.read() as db:
        call.check_allowed(db, key)
    return {"KeyMetadata": metadata(call, key)}


def update_key_description(call: Call) -> dict[str, Any]:
    """Another description for a key."""
    with call.store.write() as db:
        key = _changeable(call, db)
        rows.set_description(db, key.key_id, call.parameters["Description"])
    return {}


def list_keys(call: Call) -> dict[str, Any]:
    """Ids and ARNs, a page at a time."""
    after, limit = call.page(default=100, largest=1000)
    with call.store.read() as db:
        found = rows.keys(db, call.scope, after=after, limit=limit + 1)
    return paged("Keys", [{"KeyId": key.key_id, "KeyArn": key.arn} for key in found], limit, by="KeyId")


def enable_key(call: Call) -> dict[str, Any]:
    """Disabled → Enabled."""
    return _switch(call, KeyState.ENABLED)


def disable_key(call: Call) -> dict[str, Any]:
    """Enabled → Disabled: at once, and for everyone."""
    return _switch(call, KeyState.DISABLED)


def schedule_key_deletion(call: Call) -> dict[str, Any]:
    """→ PendingDeletion, and after the waiting period the material is destroyed."""
    days = call.parameters.get("PendingWindowInDays", _WINDOW[1])
    if not _WINDOW[0] <= days <= _WINDOW[1]:
        bound = f"greater than or equal to {_WINDOW[0]}" if days < _WINDOW[0] else f"less than or equal to {_WINDOW[1]}"
        raise faults.validation(
            f"1 validation error detected: Value '{days}' at 'pendingWindowInDays' failed to satisfy constraint: "
            f"Member must have value {bound}"
        )
    with call.store.write() as db:
        key = _changeable(call, db)
        date = call.now + days * rotation.DAY
        rows.set_state(db, key.key_id, KeyState.PENDING_DELETION, deletion_date=date, pending_window=days)
    return {
        "KeyId": key.arn,
        "DeletionDate": date,
        "KeyState": KeyState.PENDING_DELETION,
        "PendingWindowInDays": days,
    }


def cancel_key_deletion(call: Call) -> dict[str, Any]:
    """PendingDeletion → Disabled, never Enabled; a key that had no material yet waits for it again."""
    with call.store.write() as db:
        key = _changeable(call, db)
        waits = key.origin == "EXTERNAL" and not imports.is_complete(material_rows.every(db, key.key_id))
        rows.set_state(db, key.key_id, KeyState.PENDING_IMPORT if waits else KeyState.DISABLED)
    return {"KeyId": key.arn}


def find(call: Call, text: str) -> KeyRow:
    """The key that ``text`` names. Asked for ``alias/aws/ebs``, the account's root makes it where there is none."""
    with call.store.read() as db:
        if call.principal is not None or not _is_missing_managed(call, db, text):
            return call.find_key(db, text)
    with call.store.write() as db:
        if _is_missing_managed(call, db, text):  # nobody else was quicker
            description = "Default key that protects my EBS volumes when no other key is defined"
            key = _add(
                call,
                db,
                spec=SYMMETRIC,
                usage=ENCRYPT_DECRYPT,
                origin="AWS_KMS",
                description=description,
                manager="AWS",
                rotation_period=rotation.YEARLY,
            )
            rows.add_alias(db, call.scope, MANAGED_ALIAS, key.key_id, call.now)
        return call.find_key(db, text)


def metadata(call: Call, key: KeyRow) -> dict[str, Any]:
    """KeyMetadata, with the members that AWS shows for such a key."""
    shown: dict[str, Any] = {
        "AWSAccountId": call.scope.account,
        "KeyId": key.key_id,
        "Arn": key.arn,
        "CreationDate": key.created,
        "Enabled": key.state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": key.usage,
        "KeyState": key.state,
        "Origin": key.origin,
        "KeyManager": key.manager,
        "CustomerMasterKeySpec": key.spec,
        "KeySpec": key.spec,
        "MultiRegion": False,
    }
    member, algorithms = SPECS[key.spec][key.usage]
    shown[member] = algorithms
    if key.deletion_date is not None:
        shown["DeletionDate"] = key.deletion_date
    if key.material_id is not None:
        shown["CurrentKeyMaterialId"] = key.material_id
    if key.origin == "EXTERNAL" and key.has_material:
        shown["ExpirationModel"] = rotation.expiration_model(key.valid_to)
    if key.valid_to is not None:
        shown["ValidTo"] = key.valid_to
    return shown


def _is_missing_managed(call: Call, db: sqlite3.Connection, text: str) -> bool:
    name = call.key_name(text).name
    return name == MANAGED_ALIAS and rows.alias(db, call.scope, name) is None


def _spec_and_usage(asked: dict[str, Any]) -> tuple[str, str]:
    old, new = asked.get("CustomerMasterKeySpec"), asked.get("KeySpec")
    if old and new and old != new:
        raise faults.validation("You cannot specify KeySpec and CustomerMasterKeySpec in the same request.")
    spec = new or old or SYMMETRIC
    if spec not in SPECS:
        raise faults.unsupported(f"KeySpec {spec} is not supported by the embedded KMS")
    usage = asked.get("KeyUsage")
    if usage is None and spec != SYMMETRIC:
        raise faults.validation(
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
        )
    usage = usage or ENCRYPT_DECRYPT
    if usage not in SPECS[spec]:
        raise faults.validation(f"KeyUsage {usage} is not compatible with KeySpec {spec}")
    return spec, usage


def _add(
    call: Call,
    db: sqlite3.Connection,
    *,
    spec: str,
    usage: str,
    origin: str,
    description: str,
    manager: str = "CUSTOMER",
    policy: str | None = None,
    rotation_period: int | None = None,
) -> KeyRow:
    key_id = str(uuid.uuid4())
    key = KeyRow(
        key_id=key_id,
        arn=call.arn(f"key/{key_id}"),
        created=call.now,
        description=description,
        usage=usage,
        spec=spec,
        origin=origin,
        manager=manager,
        state=KeyState.PENDING_IMPORT if origin == "EXTERNAL" else KeyState.ENABLED,
        policy=policy,
        rotation_period=rotation_period,
        next_rotation=None if rotation_period is None else call.now + rotation_period * rotation.DAY,
    )
    rows.add_key(db, call.scope, key)
    if spec == SYMMETRIC and origin == "AWS_KMS":
        rotation.add_first(db, call.store.root, key)
    return call.key(db, key_id)


def _changeable(call: Call, db: sqlite3.Connection) -> KeyRow:
    """The key named by id or ARN (these operations take no alias), if it and its state allow a change."""
    key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
    call.check_customer_managed(key)
    call.check_state(key)
    return key


def _switch(call: Call, state: KeyState) -> dict[str, Any]:
    with call.store.write() as db:
        key = _changeable(call, db)
        # A key that is unavailable stays so; AWS lets the wish take effect when it comes back ([12]).
        if key.state is not KeyState.UNAVAILABLE:
            rows.set_state(db, key.key_id, state)
    return {}

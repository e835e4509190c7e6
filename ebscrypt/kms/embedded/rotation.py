"""Rotation: a key gets new material, and keeps the old for what it encrypted. EnableKeyRotation and its siblings.

A blob names the material that made it, so rotation touches no blob and no volume (facts §1.5). It is done in one
transaction, at once; an automatic one by the first request of any kind after it is due (upkeep.py).
"""

from __future__ import annotations

import math
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.kms.embedded import faults, material, material_rows, rows
from ebscrypt.kms.embedded.calls import Call, paged
from ebscrypt.kms.embedded.material_rows import DueRow, MaterialRow, MaterialState
from ebscrypt.kms.embedded.rows import KeyRow
from ebscrypt.kms.embedded.specs import SYMMETRIC

if TYPE_CHECKING:
    from ebscrypt.kms.embedded.root_key import RootKey

YEARLY: Final = 365
"""Days between rotations unless told otherwise, and of AWS managed keys always."""
ON_DEMAND: Final = 25
"""Rotations on demand that a key may have (API reference of RotateKeyOnDemand)."""
DAY: Final = 86_400
_HOW: Final = ("AUTOMATIC", "ON_DEMAND")


def enable_key_rotation(call: Call) -> dict[str, Any]:
    """New material every so many days from now on; asked again with the same period, the next date stays."""
    period = call.parameters.get("RotationPeriodInDays", YEARLY)
    with call.store.write() as db:
        key = _changeable(call, db)
        if key.rotation_period != period:
            rows.set_rotation(db, key.key_id, period, call.now + period * DAY)
    return {}


def disable_key_rotation(call: Call) -> dict[str, Any]:
    """No new material by itself."""
    with call.store.write() as db:
        key = _changeable(call, db)
        rows.set_rotation(db, key.key_id, None, None)
    return {}


def get_key_rotation_status(call: Call) -> dict[str, Any]:
    """Whether, how often and when next. A key that is pending deletion does not rotate, and says so."""
    with call.store.read() as db:
        key = _readable(call, db)
    if key.next_rotation is None or key.deletion_date is not None:
        return {"KeyId": key.key_id, "KeyRotationEnabled": False}
    return {
        "KeyId": key.key_id,
        "KeyRotationEnabled": True,
        "RotationPeriodInDays": key.rotation_period,
        "NextRotationDate": key.next_rotation,
    }


def rotate_key_on_demand(call: Call) -> dict[str, Any]:
    """New material now: fresh, or the imported one that waits for it. The automatic schedule stays as it is."""
    with call.store.write() as db:
        key = _changeable(call, db)
        materials = material_rows.every(db, key.key_id)
        if sum(row.rotated_by == _HOW[1] for row in materials) >= ON_DEMAND:
            raise faults.KmsFault(
                "LimitExceededException", f"{key.arn} was rotated on demand {ON_DEMAND} times, and may be no more"
            )
        if key.origin == "EXTERNAL":
            waiting = [row for row in materials if row.state is MaterialState.PENDING_ROTATION]
            if not waiting:
                raise faults.KmsFault(
                    "KMSInvalidStateException", f"No available key material pending rotation for the key: {key.arn}."
                )
            material_rows.make_current(db, waiting[0], rotated=call.now, rotated_by=_HOW[1])
        else:
            _renew(db, call.store.root, key, now=call.now, how=_HOW[1])
    return {"KeyId": key.key_id}


def list_key_rotations(call: Call) -> dict[str, Any]:
    """The rotations of a key, or all its materials, the oldest first, a page at a time."""
    after, limit = call.page(default=100, largest=1000)
    everything = call.parameters.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
    with call.store.read() as db:
        key = _readable(call, db)
        found = material_rows.listed(db, key.key_id, rotations_only=not everything, after=after, limit=limit + 1)
    return paged("Rotations", [_shown(key, row) for row in found], limit, by="KeyMaterialId")


def rotate_due(db: sqlite3.Connection, root: RootKey, now: float) -> None:
    """Rotate every key that is due, once each however long ago it was, and set the next date."""
    for key in material_rows.due(db, now):
        _renew(db, root, key, now=now, how=_HOW[0])
        period = key.period * DAY
        missed = math.floor((now - key.date) / period)
        rows.set_rotation(db, key.key_id, key.period, key.date + (missed + 1) * period)


def add_first(db: sqlite3.Connection, root: RootKey, key: KeyRow) -> str:
    """The first material of a new key; its id."""
    return _add(db, root, key, number=1, now=key.created, how=None)


def _renew(db: sqlite3.Connection, root: RootKey, key: KeyRow | DueRow, *, now: float, how: str) -> None:
    _add(db, root, key, number=material_rows.every(db, key.key_id)[-1].number + 1, now=now, how=how)


def _add(
    db: sqlite3.Connection, root: RootKey, key: KeyRow | DueRow, *, number: int, now: float, how: str | None
) -> str:
    material_id = material.new_material_id()
    row = MaterialRow(
        material_id=material_id,
        key_id=key.key_id,
        created=now,
        number=number,
        state=MaterialState.CURRENT,
        rotated=now if how else None,
        rotated_by=how,
    )
    material_rows.add(db, row, material.seal(root, key.arn, material_id, material.new_material()))
    return material_id


def _changeable(call: Call, db: sqlite3.Connection) -> KeyRow:
    key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
    call.check_customer_managed(key)
    return _rotating(call, key)


def _readable(call: Call, db: sqlite3.Connection) -> KeyRow:
    return _rotating(call, call.find_key(db, call.parameters["KeyId"], alias_too=False))


def _rotating(call: Call, key: KeyRow) -> KeyRow:
    if key.spec != SYMMETRIC:
        raise faults.unsupported(f"{key.arn} key spec is {key.spec} which is not valid for this operation.")
    call.check_state(key)
    return key


def _shown(key: KeyRow, row: MaterialRow) -> dict[str, Any]:
    """RotationsListEntry, with the members that AWS shows for such a material."""
    shown: dict[str, Any] = {
        "KeyId": key.key_id,
        "KeyMaterialId": row.material_id,
        "KeyMaterialState": row.state,
    }
    if row.rotated is not None:
        shown |= {"RotationDate": row.rotated, "RotationType": row.rotated_by}
    if key.origin == "EXTERNAL":
        shown["ImportState"] = "IMPORTED" if row.present else "PENDING_IMPORT"
        if row.description is not None:
            shown["KeyMaterialDescription"] = row.description
        if row.present:
            shown["ExpirationModel"] = expiration_model(row.valid_to)
    if row.valid_to is not None:
        shown["ValidTo"] = row.valid_to
    return shown


def expiration_model(valid_to: float | None) -> str:
    """AWS's ExpirationModel of material that expires then, or never."""
    return "KEY_MATERIAL_DOES_NOT_EXPIRE" if valid_to is None else "KEY_MATERIAL_EXPIRES"

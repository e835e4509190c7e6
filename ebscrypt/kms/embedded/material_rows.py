"""The SQL of key material, its rotations, and pending imports, one function each, inside a transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Final


class MaterialState(StrEnum):
    """AWS's KeyMaterialState: what the material is to its key."""

    CURRENT = "CURRENT"
    NON_CURRENT = "NON_CURRENT"
    PENDING_ROTATION = "PENDING_ROTATION"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterialRow:
    """One material of a key, without the material. ``present`` is false when it was deleted or has expired.

    ``number`` counts the materials of one key from 1; ``rotated`` and ``rotated_by`` say when and how it became the
    current one, None for the first and for one that waits.
    """

    material_id: str
    key_id: str
    created: float
    number: int
    state: MaterialState
    present: bool = True
    rotated: float | None = None
    rotated_by: str | None = None
    description: str | None = None
    valid_to: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportKeyRow:
    """The private key of one GetParametersForImport, sealed; None when its time is over."""

    import_id: str
    key_id: str
    algorithm: str
    valid_to: float
    sealed: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRow:
    """A key whose automatic rotation was due at ``date``; ``period`` in days."""

    key_id: str
    arn: str
    period: int
    date: float


_MATERIALS: Final = "SELECT *, sealed IS NOT NULL AS present FROM material "
_LISTED: Final = (
    "WHERE key_id = ? AND (rotated IS NOT NULL OR NOT ?) "
    "AND number > coalesce((SELECT number FROM material WHERE material_id = ?), 0) ORDER BY number LIMIT ?"
)


def add(db: sqlite3.Connection, row: MaterialRow, sealed: bytes) -> None:
    """A new material; a CURRENT one becomes the key's."""
    db.execute(
        "INSERT INTO material (material_id, key_id, created, sealed, number, state, rotated, rotated_by, description, "
        "valid_to) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.material_id,
            row.key_id,
            row.created,
            sealed,
            row.number,
            MaterialState.PENDING_ROTATION,
            None,
            None,
            row.description,
            row.valid_to,
        ),
    )
    if row.state is MaterialState.CURRENT:
        make_current(db, row, rotated=row.rotated, rotated_by=row.rotated_by)


def make_current(db: sqlite3.Connection, row: MaterialRow, *, rotated: float | None, rotated_by: str | None) -> None:
    """Let a material be what its key encrypts with from now on; the one before it goes on decrypting."""
    db.execute(
        "UPDATE material SET state = 'NON_CURRENT' WHERE key_id = ? AND state = 'CURRENT'",
        (row.key_id,),
    )
    db.execute(
        "UPDATE material SET state = 'CURRENT', rotated = ?, rotated_by = ? WHERE material_id = ?",
        (rotated, rotated_by, row.material_id),
    )
    db.execute("UPDATE kms_key SET material_id = ? WHERE key_id = ?", (row.material_id, row.key_id))


def sealed(db: sqlite3.Connection, key_id: str, material_id: str) -> bytes | None:
    """The sealed material of that id, if this key has it now."""
    found = db.execute(
        "SELECT sealed FROM material WHERE material_id = ? AND key_id = ? AND sealed IS NOT NULL", (material_id, key_id)
    ).fetchone()
    return bytes(found[0]) if found else None


def every(db: sqlite3.Connection, key_id: str) -> list[MaterialRow]:
    """All materials of a key, the oldest first."""
    found = db.execute(_MATERIALS + "WHERE key_id = ? ORDER BY number", (key_id,))
    return [_material_row(row) for row in found]


def listed(db: sqlite3.Connection, key_id: str, *, rotations_only: bool, after: str, limit: int) -> list[MaterialRow]:
    """Up to ``limit`` materials of a key, the oldest first, from the one after the material ``after``."""
    found = db.execute(
        _MATERIALS + _LISTED,
        (key_id, rotations_only, after, limit),
    )
    return [_material_row(row) for row in found]


def restore(
    db: sqlite3.Connection, row: MaterialRow, sealed: bytes, *, valid_to: float | None, description: str | None
) -> None:
    """Imported material is there (again), with a new expiry; without a description it keeps the one that it had."""
    db.execute(
        "UPDATE material SET sealed = ?, valid_to = ?, description = coalesce(?, description) WHERE material_id = ?",
        (sealed, valid_to, description, row.material_id),
    )


def drop(db: sqlite3.Connection, row: MaterialRow) -> None:
    """Destroy imported material. What a blob may name is remembered, so that only the same can take its place."""
    if row.state is MaterialState.PENDING_ROTATION:
        db.execute("DELETE FROM material WHERE material_id = ?", (row.material_id,))
    else:
        db.execute("UPDATE material SET sealed = NULL, valid_to = NULL WHERE material_id = ?", (row.material_id,))


def expired(db: sqlite3.Connection, now: float) -> list[MaterialRow]:
    """Imported material whose time is over, of every account and Region."""
    found = db.execute(_MATERIALS + "WHERE valid_to <= ? AND sealed IS NOT NULL", (now,))
    return [_material_row(row) for row in found]


def due(db: sqlite3.Connection, now: float) -> list[DueRow]:
    """Keys whose material is to be rotated: only an enabled key is, a disabled one when it is enabled again."""
    found = db.execute(
        "SELECT key_id, arn, rotation_period, next_rotation FROM kms_key "
        "WHERE next_rotation <= ? AND state = 'Enabled'",
        (now,),
    )
    return [DueRow(key_id=key_id, arn=arn, period=period, date=date) for key_id, arn, period, date in found]


def add_import_key(db: sqlite3.Connection, row: ImportKeyRow) -> None:
    """A new pending import."""
    db.execute(
        "INSERT INTO import_key (import_id, key_id, algorithm, valid_to, sealed) VALUES (?, ?, ?, ?, ?)",
        (row.import_id, row.key_id, row.algorithm, row.valid_to, row.sealed),
    )


def import_key(db: sqlite3.Connection, key_id: str, import_id: str) -> ImportKeyRow | None:
    """The pending import of that id, if it is this key's."""
    found = db.execute("SELECT * FROM import_key WHERE import_id = ? AND key_id = ?", (import_id, key_id)).fetchone()
    return ImportKeyRow(**{each.name: found[each.name] for each in fields(ImportKeyRow)}) if found else None


def forget_import_keys(db: sqlite3.Connection, *, expired_by: float, long_ago: float) -> None:
    """Destroy the private keys whose time was over by ``expired_by``; forget those that ended ``long_ago`` at all."""
    db.execute("UPDATE import_key SET sealed = NULL WHERE valid_to <= ? AND sealed IS NOT NULL", (expired_by,))
    db.execute("DELETE FROM import_key WHERE valid_to <= ?", (long_ago,))


def has_expired_import_keys(db: sqlite3.Connection, now: float) -> bool:
    """Whether `forget_import_keys` has work."""
    found = db.execute("SELECT 1 FROM import_key WHERE valid_to <= ? AND sealed IS NOT NULL", (now,))
    return found.fetchone() is not None


def _material_row(found: sqlite3.Row) -> MaterialRow:
    values = {each.name: found[each.name] for each in fields(MaterialRow)}
    return MaterialRow(
        **(values | {"state": MaterialState(found["state"]), "present": bool(found["present"])}),
    )

"""Every SQL statement of the embedded KMS, one function each, over a connection inside a transaction.

A key that is deleted is found by no function but `was_deleted`: to all others it does not exist.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields

from ebscrypt.kms.embedded.states import KeyState


@dataclass(frozen=True, slots=True)
class Scope:
    """The account and Region that a request is for. One store may hold keys of several; none sees another's."""

    account: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A KMS key. Times are seconds since 1970; ``material_id`` is None where a key has no material (yet)."""

    key_id: str
    arn: str
    created: float
    description: str
    usage: str
    spec: str
    origin: str
    manager: str
    state: KeyState
    deletion_date: float | None = None
    pending_window: int | None = None
    material_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRow:
    """An alias: ``name`` begins with ``alias/``."""

    name: str
    key_id: str
    created: float
    updated: float


def key(db: sqlite3.Connection, scope: Scope, key_id: str) -> KeyRow | None:
    """The key of that id, unless it is another account's or Region's."""
    found = db.execute(
        "SELECT * FROM kms_key WHERE key_id = ? AND account = ? AND region = ? AND state != 'Deleted'",
        (key_id, scope.account, scope.region),
    ).fetchone()
    return _key_row(found) if found else None


def was_deleted(db: sqlite3.Connection, scope: Scope, key_id: str) -> bool:
    """Whether there was such a key."""
    found = db.execute(
        "SELECT 1 FROM kms_key WHERE key_id = ? AND account = ? AND region = ? AND state = 'Deleted'",
        (key_id, scope.account, scope.region),
    )
    return found.fetchone() is not None


def keys(db: sqlite3.Connection, scope: Scope, *, after: str, limit: int) -> list[KeyRow]:
    """Up to ``limit`` keys in the order of their ids, from the one after ``after``."""
    found = db.execute(
        "SELECT * FROM kms_key WHERE account = ? AND region = ? AND state != 'Deleted' AND key_id > ? "
        "ORDER BY key_id LIMIT ?",
        (scope.account, scope.region, after, limit),
    )
    return [_key_row(row) for row in found]


def add_key(db: sqlite3.Connection, scope: Scope, row: KeyRow, sealed: bytes | None) -> None:
    """A new key; with ``sealed`` its first material, which becomes the current one."""
    db.execute(
        "INSERT INTO kms_key (account, region, key_id, arn, created, description, usage, spec, origin, manager, state) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            scope.account,
            scope.region,
            row.key_id,
            row.arn,
            row.created,
            row.description,
            row.usage,
            row.spec,
            row.origin,
            row.manager,
            row.state,
        ),
    )
    if sealed is not None:
        db.execute("INSERT INTO material VALUES (?, ?, ?, ?)", (row.material_id, row.key_id, row.created, sealed))
        db.execute("UPDATE kms_key SET material_id = ? WHERE key_id = ?", (row.material_id, row.key_id))


def set_state(
    db: sqlite3.Connection,
    key_id: str,
    state: KeyState,
    *,
    deletion_date: float | None = None,
    pending_window: int | None = None,
) -> None:
    """The key's new state; its deletion date is set or taken back with it."""
    db.execute(
        "UPDATE kms_key SET state = ?, deletion_date = ?, pending_window = ? WHERE key_id = ?",
        (state, deletion_date, pending_window, key_id),
    )


def sealed_material(db: sqlite3.Connection, key_id: str, material_id: str) -> bytes | None:
    """The sealed material of that id, if this key has it."""
    found = db.execute(
        "SELECT sealed FROM material WHERE material_id = ? AND key_id = ?", (material_id, key_id)
    ).fetchone()
    return bytes(found[0]) if found else None


def overdue(db: sqlite3.Connection, now: float) -> list[str]:
    """Ids of keys whose deletion date has passed, in every account and Region."""
    found = db.execute("SELECT key_id FROM kms_key WHERE state = 'PendingDeletion' AND deletion_date <= ?", (now,))
    return [row[0] for row in found]


def destroy(db: sqlite3.Connection, key_id: str) -> None:
    """Delete the key's material and aliases for ever; its id remains, as `Deleted`."""
    db.execute("UPDATE kms_key SET state = 'Deleted', material_id = NULL, description = '' WHERE key_id = ?", (key_id,))
    db.execute("DELETE FROM material WHERE key_id = ?", (key_id,))
    db.execute("DELETE FROM alias WHERE key_id = ?", (key_id,))


def alias(db: sqlite3.Connection, scope: Scope, name: str) -> AliasRow | None:
    """The alias of that name."""
    found = db.execute(
        "SELECT * FROM alias WHERE account = ? AND region = ? AND name = ?",
        (scope.account, scope.region, name),
    ).fetchone()
    return _alias_row(found) if found else None


def aliases(db: sqlite3.Connection, scope: Scope, *, key_id: str | None, after: str, limit: int) -> list[AliasRow]:
    """Up to ``limit`` aliases in the order of their names, of one key or all, from the one after ``after``."""
    found = db.execute(
        "SELECT * FROM alias WHERE account = ? AND region = ? AND name > ? "
        "AND (? IS NULL OR key_id = ?) ORDER BY name LIMIT ?",
        (scope.account, scope.region, after, key_id, key_id, limit),
    )
    return [_alias_row(row) for row in found]


def count_aliases(db: sqlite3.Connection, key_id: str) -> int:
    """How many aliases a key has."""
    return int(db.execute("SELECT count(*) FROM alias WHERE key_id = ?", (key_id,)).fetchone()[0])


def add_alias(db: sqlite3.Connection, scope: Scope, name: str, key_id: str, now: float) -> None:
    """A new alias."""
    db.execute("INSERT INTO alias VALUES (?, ?, ?, ?, ?, ?)", (scope.account, scope.region, name, key_id, now, now))


def repoint_alias(db: sqlite3.Connection, scope: Scope, name: str, key_id: str, now: float) -> None:
    """Let an alias name another key."""
    db.execute(
        "UPDATE alias SET key_id = ?, updated = ? WHERE account = ? AND region = ? AND name = ?",
        (key_id, now, scope.account, scope.region, name),
    )


def remove_alias(db: sqlite3.Connection, scope: Scope, name: str) -> None:
    """Remove an alias; its key is untouched."""
    db.execute("DELETE FROM alias WHERE account = ? AND region = ? AND name = ?", (scope.account, scope.region, name))


def _key_row(found: sqlite3.Row) -> KeyRow:
    values = {field.name: found[field.name] for field in fields(KeyRow)}
    return KeyRow(**(values | {"state": KeyState(found["state"])}))


def _alias_row(found: sqlite3.Row) -> AliasRow:
    return AliasRow(**{field.name: found[field.name] for field in fields(AliasRow)})

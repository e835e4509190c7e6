"""The SQL of keys, aliases and tags, one function each, over a connection inside a transaction.

material_rows.py and grant_rows.py have the other statements. A key that is deleted is found by no function but
`was_deleted`: to all others it does not exist.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from typing import Final

from ebscrypt.kms.embedded.states import KeyState


@dataclass(frozen=True, slots=True)
class Scope:
    """The account and Region that a request is for. One store may hold keys of several; none sees another's."""

    account: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A KMS key. Times are seconds since 1970, periods days.

    ``material_id`` names the current material, None where there never was one; ``has_material`` tells whether it is
    there now, and ``valid_to`` when it expires. ``policy`` is None for the default policy, ``rotation_period`` for a
    key that does not rotate by itself.
    """

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
    policy: str | None = None
    rotation_period: int | None = None
    next_rotation: float | None = None
    has_material: bool = False
    valid_to: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRow:
    """An alias: ``name`` begins with ``alias/``."""

    name: str
    key_id: str
    created: float
    updated: float


_KEYS: Final = (
    "SELECT k.*, m.sealed IS NOT NULL AS has_material, m.valid_to "
    "FROM kms_key k LEFT JOIN material m USING (material_id) "
)


def key(db: sqlite3.Connection, scope: Scope, key_id: str) -> KeyRow | None:
    """The key of that id, unless it is another account's or Region's."""
    found = db.execute(
        _KEYS + "WHERE k.key_id = ? AND account = ? AND region = ? AND k.state != 'Deleted'",
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
        _KEYS + "WHERE account = ? AND region = ? AND k.state != 'Deleted' AND k.key_id > ? ORDER BY k.key_id LIMIT ?",
        (scope.account, scope.region, after, limit),
    )
    return [_key_row(row) for row in found]


def add_key(db: sqlite3.Connection, scope: Scope, row: KeyRow) -> None:
    """A new key, without material; material_rows.add gives it some."""
    db.execute(
        "INSERT INTO kms_key (account, region, key_id, arn, created, description, usage, spec, origin, manager, state, "
        "policy, rotation_period, next_rotation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            row.policy,
            row.rotation_period,
            row.next_rotation,
        ),
    )


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


def set_pending_import(db: sqlite3.Connection, key_id: str) -> None:
    """The key waits for material again; one that is pending deletion stays so (facts §5.2)."""
    db.execute(
        "UPDATE kms_key SET state = 'PendingImport' WHERE key_id = ? "
        "AND state NOT IN ('PendingDeletion', 'PendingReplicaDeletion')",
        (key_id,),
    )


def set_description(db: sqlite3.Connection, key_id: str, description: str) -> None:
    """The key's new description."""
    db.execute("UPDATE kms_key SET description = ? WHERE key_id = ?", (description, key_id))


def set_policy(db: sqlite3.Connection, key_id: str, policy: str) -> None:
    """The key's new policy."""
    db.execute("UPDATE kms_key SET policy = ? WHERE key_id = ?", (policy, key_id))


def set_rotation(db: sqlite3.Connection, key_id: str, period: int | None, following: float | None) -> None:
    """Days between rotations and the time of the next one; None and None for a key that does not rotate by itself."""
    db.execute(
        "UPDATE kms_key SET rotation_period = ?, next_rotation = ? WHERE key_id = ?", (period, following, key_id)
    )


def overdue(db: sqlite3.Connection, now: float) -> list[str]:
    """Ids of keys whose deletion date has passed, in every account and Region."""
    found = db.execute("SELECT key_id FROM kms_key WHERE state = 'PendingDeletion' AND deletion_date <= ?", (now,))
    return [row[0] for row in found]


def destroy(db: sqlite3.Connection, key_id: str) -> None:
    """Delete the key's material and all that hangs on it for ever; its id remains, as `Deleted`."""
    db.execute(
        "UPDATE kms_key SET state = 'Deleted', material_id = NULL, description = '', policy = NULL, "
        "rotation_period = NULL, next_rotation = NULL WHERE key_id = ?",
        (key_id,),
    )
    for table in ("material", "import_key", "kms_grant", "tag", "alias"):
        db.execute(f"DELETE FROM {table} WHERE key_id = ?", (key_id,))  # noqa: S608 - names of this line's own


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


def tags(db: sqlite3.Connection, key_id: str, *, after: str, limit: int) -> list[tuple[str, str]]:
    """Up to ``limit`` tags of a key in the order of their names, from the one after ``after``."""
    found = db.execute(
        "SELECT name, value FROM tag WHERE key_id = ? AND name > ? ORDER BY name LIMIT ?", (key_id, after, limit)
    )
    return [(name, value) for name, value in found]


def count_tags(db: sqlite3.Connection, key_id: str) -> int:
    """How many tags a key has."""
    return int(db.execute("SELECT count(*) FROM tag WHERE key_id = ?", (key_id,)).fetchone()[0])


def put_tag(db: sqlite3.Connection, key_id: str, name: str, value: str) -> None:
    """A new tag, or a new value for one that is there."""
    db.execute("INSERT OR REPLACE INTO tag VALUES (?, ?, ?)", (key_id, name, value))


def remove_tag(db: sqlite3.Connection, key_id: str, name: str) -> None:
    """Remove a tag; that it is not there is success."""
    db.execute("DELETE FROM tag WHERE key_id = ? AND name = ?", (key_id, name))


def _key_row(found: sqlite3.Row) -> KeyRow:
    values = {field.name: found[field.name] for field in fields(KeyRow)}
    return KeyRow(**(values | {"state": KeyState(found["state"]), "has_material": bool(found["has_material"])}))


def _alias_row(found: sqlite3.Row) -> AliasRow:
    return AliasRow(**{field.name: found[field.name] for field in fields(AliasRow)})

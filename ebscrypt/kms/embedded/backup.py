"""Backup of the embedded KMS: every key with its material, aliases, grants, policy and tags, under a passphrase.

The content of the file (backup_file.py) is JSON: the rows of the store's tables as they are, but secrets in clear, so
that it depends on no root key. docs/formats/embedded-kms-backup.md describes it.

What an import does with a key is decided for each key by itself, and done for all of them in one transaction:

    here there is                              it is
    no such key                                added
    the same key with the same material        left as it is: its state, policy and tags are the newer ones
    the same, but less of the material         left as it is, and told; ``restore_deleted``: replaced by the backup's
    only the memory of it, for it was deleted  left out, and told; ``restore_deleted``: added
    other material under the same id           a reason to refuse the whole import
"""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ebscrypt.errors import KmsError
from ebscrypt.kms.embedded import backup_file, material, schema, secrets_kept
from ebscrypt.kms.embedded.root_key import RootKey
from ebscrypt.kms.embedded.states import KeyState
from ebscrypt.kms.embedded.store import Store

TABLES: Final = ("kms_key", "material", "alias", "kms_grant", "grant_token", "tag")
"""What is kept, each after those that it refers to."""
NOT_KEPT: Final = ("store", "import_key")
"""Of no use elsewhere or later: the fingerprint of the root key, and the private keys of imports under way."""

_SECRET: Final = "secret"  # noqa: S105 - a member's name
_SEALED: Final = {kind.table: kind for kind in secrets_kept.KINDS if kind.table in TABLES}
_OWNED: Final = tuple(table for table in TABLES if table not in ("kms_key", "grant_token"))
"""Tables whose rows belong to one key each."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exported:
    """What a backup holds: the file's bytes, and counts for people."""

    file: bytes = field(repr=False)
    keys: int
    aliases: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to: ARNs of keys, and sentences about what did not come in."""

    added: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(store: Store, passphrase: bytes, *, now: float | None = None) -> Exported:
    """A backup of everything that is in the store at one moment. Raises `KmsError` when a secret does not open."""
    with store.read() as db:
        tables = {table: list(_rows(db, table)) for table in TABLES}
        for table, kind in _SEALED.items():
            arns = {row["key_id"]: row["arn"] for row in tables["kms_key"]}
            tables[table] = [_opened(store.root, kind, row, arns[row["key_id"]]) for row in tables[table]]
    content = {"schema": schema.VERSION, "created": time.time() if now is None else now, "tables": tables}
    alive = [row for row in tables["kms_key"] if row["state"] != KeyState.DELETED]
    file = backup_file.seal(json.dumps(content, ensure_ascii=False).encode(), passphrase)
    return Exported(file, len(alive), len(tables["alias"]))


def restore(
    store: Store, file: bytes, passphrase: bytes, *, restore_deleted: bool = False, now: float | None = None
) -> Imported:
    """Put the keys of a backup into the store; see above for those that are there already.

    Keys of other accounts and Regions keep their ARNs. Raises `KmsError` when the file does not open or a key is there
    with other material; then nothing has changed.
    """
    tables = _tables(backup_file.unseal(file, passphrase))
    with store.write() as db:
        work = _Import(
            db=db,
            root=store.root,
            restore_deleted=restore_deleted,
            now=time.time() if now is None else now,
            owned={table: _by(tables[table], "key_id") for table in _OWNED},
            tokens=_by(tables["grant_token"], "grant_id"),
        )
        try:
            for row in tables["kms_key"]:
                work.key(row)
        except (KeyError, TypeError, ValueError):
            raise _unknown_form() from None
    return work.done


@dataclass(frozen=True, kw_only=True)
class _Import:
    """One import, inside its transaction."""

    db: sqlite3.Connection
    root: RootKey
    restore_deleted: bool
    now: float
    owned: dict[str, dict[str, list[Row]]]
    tokens: dict[str, list[Row]]
    done: Imported = field(default_factory=Imported)

    def key(self, row: Row) -> None:
        """Take one key in, or not, as the table above says."""
        here = next(_select(self.db, "kms_key", "key_id", row["key_id"]), None)
        if here is not None and here["arn"] != row["arn"]:
            raise _conflict(row["arn"], f"the same key id belongs to {here['arn']} here")
        was_deleted = here is not None and here["state"] == KeyState.DELETED
        overdue = row["state"] == KeyState.PENDING_DELETION and row["deletion_date"] <= self.now
        if here is not None and (row["state"] == KeyState.DELETED or not (was_deleted or self._lacks(row))):
            self.done.unchanged.append(row["arn"])
        elif (here is not None or overdue) and not self.restore_deleted:
            self._leave_out(row, here, was_deleted=was_deleted)
        else:
            self._put(row, here, overdue=overdue)

    def _lacks(self, row: Row) -> bool:
        """Whether material of the backup is missing here. Raises when what is here is not in the backup, or differs."""
        theirs = {one["material_id"]: one.get(_SECRET) for one in self.owned["material"].get(row["key_id"], [])}
        kind = _SEALED["material"]
        ours = {
            one["material_id"]: _opened(self.root, kind, one, row["arn"])[_SECRET]
            for one in _select(self.db, "material", "key_id", row["key_id"])
        }
        shared = [identity for identity in theirs if theirs[identity] and ours.get(identity)]
        if any(theirs[identity] != ours[identity] for identity in shared):
            raise _conflict(row["arn"], "it has other key material here")
        missing = [identity for identity, secret in theirs.items() if secret and not ours.get(identity)]
        only_here = [identity for identity, secret in ours.items() if secret and not theirs.get(identity)]
        if missing and only_here:
            raise _conflict(row["arn"], "each side has key material that the other lacks")
        return bool(missing)

    def _leave_out(self, row: Row, here: Row | None, *, was_deleted: bool) -> None:
        if was_deleted:
            why = "it was deleted here"
        elif here is None:
            why = "its deletion date has passed"
        else:
            why = "some of its key material was deleted here, or is newer than what is here"
        self.done.left_out.append(row["arn"])
        self.done.notes.append(f"{row['arn']} is left as it is: {why}; --restore-deleted brings it back")

    def _put(self, row: Row, here: Row | None, *, overdue: bool) -> None:
        if here is not None:
            self._empty(row["key_id"])
        if overdue:  # otherwise the next request would delete it: as CancelKeyDeletion leaves it
            row = row | {"state": KeyState.DISABLED, "deletion_date": None, "pending_window": None}
        # A key and its current material refer to each other: the key comes first, and is told of its material last.
        _insert(self.db, "kms_key", row | {"material_id": None}, "ON CONFLICT (key_id) DO UPDATE SET")
        self._put_owned(row["key_id"], row["arn"])
        self.db.execute("UPDATE kms_key SET material_id = ? WHERE key_id = ?", (row["material_id"], row["key_id"]))
        if row["state"] != KeyState.DELETED:  # else only the memory of it, which keeps its id from being used again
            (self.done.added if here is None and not overdue else self.done.restored).append(row["arn"])

    def _empty(self, key_id: str) -> None:
        """Take from a key here all that the backup's takes the place of; aliases stay."""
        self.db.execute("UPDATE kms_key SET material_id = NULL WHERE key_id = ?", (key_id,))
        for table in ("tag", "kms_grant", "import_key", "material"):
            self.db.execute(f"DELETE FROM {table} WHERE key_id = ?", (key_id,))  # noqa: S608 - our own names

    def _put_owned(self, key_id: str, arn: str) -> None:
        for one in self.owned["material"].get(key_id, []):
            if next(_select(self.db, "material", "material_id", one["material_id"]), None):
                raise _conflict(arn, "its key material belongs to another key here")
            _insert(self.db, "material", _sealed(self.root, _SEALED["material"], one, arn))
        for one in self.owned["tag"].get(key_id, []):
            _insert(self.db, "tag", one)
        for one in self.owned["kms_grant"].get(key_id, []):
            _insert(self.db, "kms_grant", one)
            for token in self.tokens.get(one["grant_id"], []):
                _insert(self.db, "grant_token", token)
        for one in self.owned["alias"].get(key_id, []):
            self._put_alias(one, arn)

    def _put_alias(self, row: Row, arn: str) -> None:
        place = (row["account"], row["region"], row["name"])
        found = self.db.execute(
            "SELECT key_id FROM alias WHERE account = ? AND region = ? AND name = ?", place
        ).fetchone()
        if found is None:
            _insert(self.db, "alias", row)
        elif found[0] != row["key_id"]:
            self.done.notes.append(f"{row['name']} names another key here and goes on doing so, not {arn}")


def _tables(content: bytes) -> dict[str, list[Row]]:
    """The rows of the tables. Raises `KmsError` for a content that this version does not know."""
    try:
        document = json.loads(content)
        version, tables = document["schema"], dict(document["tables"])
    except (ValueError, KeyError, TypeError):
        raise _unknown_form() from None
    if version != schema.VERSION or set(tables) != set(TABLES):
        raise KmsError(
            f"the backup is of a store of version {version}, and this ebscrypt knows version {schema.VERSION}",
            hint="use the ebscrypt that wrote it, or a newer one",
        )
    return tables


def _rows(db: sqlite3.Connection, table: str) -> Iterator[Row]:
    columns = ", ".join(_columns(db, table))
    for row in db.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3"):  # noqa: S608 - the schema's own names
        yield {name: _plain(row[name]) for name in row.keys()}  # noqa: SIM118 - sqlite3.Row iterates over values


def _select(db: sqlite3.Connection, table: str, column: str, value: str) -> Iterator[Row]:
    for row in db.execute(f"SELECT * FROM {table} WHERE {column} = ?", (value,)).fetchall():  # noqa: S608 - as above
        yield {name: _plain(row[name]) for name in row.keys()}  # noqa: SIM118 - as above


def _insert(db: sqlite3.Connection, table: str, row: Row, otherwise: str = "") -> None:
    """A new row; ``otherwise`` begins the clause by which one that is there takes its values."""
    columns = _columns(db, table)
    if set(row) != set(columns):
        raise _unknown_form()
    values = [
        base64.b64decode(row[name]) if kind == "BLOB" and row[name] else row[name] for name, kind in columns.items()
    ]
    places = ", ".join("?" * len(columns))
    if otherwise:
        otherwise += ", ".join(f" {name} = excluded.{name}" for name in columns)
    db.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) {otherwise}", values)  # noqa: S608


def _columns(db: sqlite3.Connection, table: str) -> dict[str, str]:
    return {row["name"]: row["type"] for row in db.execute("SELECT name, type FROM pragma_table_info(?)", (table,))}


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _opened(root: RootKey, kind: secrets_kept.Kind, row: Row, arn: str) -> Row:
    """The row with its secret in clear instead of sealed."""
    sealed, identity = row[kind.sealed_column], row[kind.id_column]
    rest = {name: value for name, value in row.items() if name != kind.sealed_column}
    if sealed is None:
        return rest | {_SECRET: None}
    secret = material.unseal(root, arn, identity, base64.b64decode(sealed), purpose=kind.purpose)
    return rest | {_SECRET: _plain(secret)}


def _sealed(root: RootKey, kind: secrets_kept.Kind, row: Row, arn: str) -> Row:
    """The row with its secret sealed for this store."""
    rest = {name: value for name, value in row.items() if name != _SECRET}
    if row[_SECRET] is None:
        return rest | {kind.sealed_column: None}
    secret = base64.b64decode(row[_SECRET])
    sealed = material.seal(root, arn, row[kind.id_column], secret, purpose=kind.purpose)
    return rest | {kind.sealed_column: _plain(sealed)}


def _by(rows: list[Row], member: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[member], []).append(row)
    return found


def _unknown_form() -> KmsError:
    return KmsError("the content of the backup is not of a known form", hint="use the ebscrypt that wrote it")


def _conflict(arn: str, why: str) -> KmsError:
    return KmsError(
        f"{arn} of the backup cannot be taken in: {why}",
        hint="nothing has changed; an import into an empty place works: EBSCRYPT_STATE_DIR=DIRECTORY",
        key_arn=arn,
    )

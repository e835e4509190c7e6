"""The tables of the embedded KMS, version 2, and how a database becomes one of ours.

STRICT tables (SQLite 3.37) keep the types honest. ``application_id`` and ``user_version`` let `file` and every later
version of ebscrypt recognise the file; docs/formats/embedded-kms.md describes it. A database of an earlier version is
migrated by whoever opens it first, in one transaction: see migrations.py.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from ebscrypt.errors import KmsError
from ebscrypt.kms.embedded import migrations

APPLICATION_ID: Final = 0x65626B6D
"""The letters ``ebkm``."""
VERSION: Final = 2

_TABLES: Final = """
CREATE TABLE store (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE kms_key (
    key_id          TEXT PRIMARY KEY,
    arn             TEXT NOT NULL UNIQUE,
    account         TEXT NOT NULL,
    region          TEXT NOT NULL,
    created         REAL NOT NULL,
    description     TEXT NOT NULL,
    usage           TEXT NOT NULL,
    spec            TEXT NOT NULL,
    origin          TEXT NOT NULL,
    manager         TEXT NOT NULL,
    state           TEXT NOT NULL,
    deletion_date   REAL,
    pending_window  INTEGER,
    material_id     TEXT REFERENCES material (material_id),
    policy          TEXT,
    rotation_period INTEGER,
    next_rotation   REAL
) STRICT, WITHOUT ROWID;

CREATE INDEX kms_key_deletion ON kms_key (deletion_date) WHERE state = 'PendingDeletion';
CREATE INDEX kms_key_rotation ON kms_key (next_rotation) WHERE next_rotation IS NOT NULL;

CREATE TABLE material (
    material_id TEXT PRIMARY KEY,
    key_id      TEXT NOT NULL REFERENCES kms_key (key_id),
    created     REAL NOT NULL,
    sealed      BLOB,
    number      INTEGER NOT NULL,
    state       TEXT NOT NULL,
    rotated     REAL,
    rotated_by  TEXT,
    description TEXT,
    valid_to    REAL,
    UNIQUE (key_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX material_expiry ON material (valid_to) WHERE valid_to IS NOT NULL AND sealed IS NOT NULL;

CREATE TABLE alias (
    account TEXT NOT NULL,
    region  TEXT NOT NULL,
    name    TEXT NOT NULL,
    key_id  TEXT NOT NULL REFERENCES kms_key (key_id),
    created REAL NOT NULL,
    updated REAL NOT NULL,
    PRIMARY KEY (account, region, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX alias_key ON alias (key_id);

CREATE TABLE import_key (
    import_id TEXT PRIMARY KEY,
    key_id    TEXT NOT NULL REFERENCES kms_key (key_id),
    algorithm TEXT NOT NULL,
    valid_to  REAL NOT NULL,
    sealed    BLOB
) STRICT, WITHOUT ROWID;

CREATE INDEX import_key_key ON import_key (key_id);
CREATE INDEX import_key_expiry ON import_key (valid_to);

CREATE TABLE kms_grant (
    grant_id    TEXT PRIMARY KEY,
    key_id      TEXT NOT NULL REFERENCES kms_key (key_id),
    created     REAL NOT NULL,
    name        TEXT NOT NULL,
    grantee     TEXT NOT NULL,
    retiring    TEXT NOT NULL,
    issuer      TEXT NOT NULL,
    operations  TEXT NOT NULL,
    constraints TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX kms_grant_key ON kms_grant (key_id, grantee);
CREATE INDEX kms_grant_name ON kms_grant (key_id, name) WHERE name != '';
CREATE INDEX kms_grant_retiring ON kms_grant (retiring);

CREATE TABLE grant_token (
    token_id TEXT PRIMARY KEY,
    grant_id TEXT NOT NULL REFERENCES kms_grant (grant_id) ON DELETE CASCADE,
    hash     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX grant_token_grant ON grant_token (grant_id);

CREATE TABLE tag (
    key_id TEXT NOT NULL REFERENCES kms_key (key_id),
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (key_id, name)
) STRICT, WITHOUT ROWID;
"""


def ready(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the database has our tables, which it then brings up to date; False for an empty one.

    Raises `KmsError` for a database of another program, or of a later version.
    """
    version = _pragma(connection, "user_version")
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        return False
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise KmsError(f"{path} is not a database of the embedded KMS", hint="move it away, or set EBSCRYPT_STATE_DIR")
    if version > VERSION:
        raise KmsError(
            f"{path} has version {version}, and this ebscrypt knows versions up to {VERSION}",
            hint="a newer ebscrypt wrote it: use that one",
        )
    if version < VERSION:
        migrations.migrate(connection, VERSION)
    return True


def create(connection: sqlite3.Connection, root_fingerprint: str) -> None:
    """Make the tables, in one transaction: a crash leaves an empty database."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _TABLES.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute("INSERT INTO store VALUES ('root_key_fingerprint', ?)", (root_fingerprint,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def root_fingerprint(connection: sqlite3.Connection) -> str:
    """The fingerprint of the root key that this store's secrets are sealed under."""
    row = connection.execute("SELECT value FROM store WHERE name = 'root_key_fingerprint'").fetchone()
    return str(row[0]) if row else ""


def set_root_fingerprint(connection: sqlite3.Connection, fingerprint: str) -> None:
    """Remember another root key, in the transaction that seals all secrets under it."""
    connection.execute("UPDATE store SET value = ? WHERE name = 'root_key_fingerprint'", (fingerprint,))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

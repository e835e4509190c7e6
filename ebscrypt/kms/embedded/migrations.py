"""The steps from one version of the embedded KMS's tables to the next, in SQL of their own.

schema.py describes the newest tables and changes with them; a step that stores in the field have taken must not. A test
holds both together: a store that came through all steps has the same tables as a fresh one.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_TO_2: Final = (
    "ALTER TABLE kms_key ADD COLUMN policy TEXT",
    "ALTER TABLE kms_key ADD COLUMN rotation_period INTEGER",
    "ALTER TABLE kms_key ADD COLUMN next_rotation REAL",
    "CREATE INDEX kms_key_rotation ON kms_key (next_rotation) WHERE next_rotation IS NOT NULL",
    # AWS managed keys rotate every year; 31536000 seconds are 365 days.
    """
    UPDATE kms_key SET rotation_period = 365, next_rotation = created + 31536000
    WHERE manager = 'AWS' AND state != 'Deleted'
    """,
    # SQLite cannot make `sealed` nullable in place: https://sqlite.org/lang_altertable.html, 7.
    """
    CREATE TABLE material_2 (
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
    ) STRICT, WITHOUT ROWID
    """,
    """
    INSERT INTO material_2 (material_id, key_id, created, sealed, number, state)
    SELECT m.material_id, m.key_id, m.created, m.sealed,
           row_number() OVER (PARTITION BY m.key_id ORDER BY m.created, m.material_id),
           iif(m.material_id = k.material_id, 'CURRENT', 'NON_CURRENT')
    FROM material m JOIN kms_key k USING (key_id)
    """,
    "DROP TABLE material",
    "ALTER TABLE material_2 RENAME TO material",
    "CREATE INDEX material_expiry ON material (valid_to) WHERE valid_to IS NOT NULL AND sealed IS NOT NULL",
    """
    CREATE TABLE import_key (
        import_id TEXT PRIMARY KEY,
        key_id    TEXT NOT NULL REFERENCES kms_key (key_id),
        algorithm TEXT NOT NULL,
        valid_to  REAL NOT NULL,
        sealed    BLOB
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX import_key_key ON import_key (key_id)",
    "CREATE INDEX import_key_expiry ON import_key (valid_to)",
    """
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
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX kms_grant_key ON kms_grant (key_id, grantee)",
    "CREATE INDEX kms_grant_name ON kms_grant (key_id, name) WHERE name != ''",
    "CREATE INDEX kms_grant_retiring ON kms_grant (retiring)",
    """
    CREATE TABLE grant_token (
        token_id TEXT PRIMARY KEY,
        grant_id TEXT NOT NULL REFERENCES kms_grant (grant_id) ON DELETE CASCADE,
        hash     BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX grant_token_grant ON grant_token (grant_id)",
    """
    CREATE TABLE tag (
        key_id TEXT NOT NULL REFERENCES kms_key (key_id),
        name   TEXT NOT NULL,
        value  TEXT NOT NULL,
        PRIMARY KEY (key_id, name)
    ) STRICT, WITHOUT ROWID
    """,
)

_STEPS: Final = {1: _TO_2}
"""The statements that lead from a version to the next."""


def migrate(connection: sqlite3.Connection, newest: int) -> None:
    """Bring the tables up to version ``newest``, in one transaction: a crash leaves the old version, whole.

    Foreign keys are checked at its end instead of meanwhile, since a table that is made anew is missing for a moment.
    Whoever comes while another process migrates waits, and finds it done.
    """
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        connection.execute("BEGIN IMMEDIATE")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        for step in range(version, newest):
            for statement in _STEPS[step]:
                connection.execute(statement)
        _check_foreign_keys(connection)
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


def _check_foreign_keys(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA foreign_key_check").fetchone():
        raise sqlite3.DatabaseError("a row names a key or material that is not there")

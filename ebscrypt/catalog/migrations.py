"""The steps from one schema of the catalog to the next, in SQL of their own.

`tables` describes the newest schema and changes with it; a step that catalogs in the field have taken must not.
A test holds both together: a catalog that came through all steps has the same tables as a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from ebscrypt.catalog.stack_migration import add_stacks

_RULES: Final = (
    """
    CREATE TABLE rules (
        name VARCHAR(64) NOT NULL,
        event_pattern TEXT NOT NULL,
        enabled BOOLEAN NOT NULL,
        description TEXT NOT NULL,
        cursor INTEGER NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE rule_targets (
        rule_name VARCHAR(64) NOT NULL,
        target_id VARCHAR(64) NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (rule_name, target_id),
        FOREIGN KEY(rule_name) REFERENCES rules (name) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE deliveries (
        delivery_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        rule_name VARCHAR(64) NOT NULL,
        target_id VARCHAR(64) NOT NULL,
        sequence INTEGER NOT NULL,
        body TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        created FLOAT NOT NULL,
        due FLOAT NOT NULL,
        UNIQUE (rule_name, target_id, sequence),
        FOREIGN KEY(rule_name, target_id) REFERENCES rule_targets (rule_name, target_id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX deliveries_by_due ON deliveries (due)",
)


_KEYS: Final = (
    "ALTER TABLE volumes ADD COLUMN on_key_unusable VARCHAR(16) DEFAULT 'ignore' NOT NULL",
    "ALTER TABLE volumes ADD COLUMN was_attached BOOLEAN DEFAULT '0' NOT NULL",
    # Attached while ebscrypt was upgraded under it.
    "UPDATE volumes SET was_attached = 1 WHERE state = 'in-use'",
    "ALTER TABLE volumes ADD COLUMN attach_failure TEXT",
    "ALTER TABLE volumes ADD COLUMN target_kms_key_arn TEXT",
    """
    CREATE TABLE encryption_defaults (
        account VARCHAR(12) NOT NULL,
        region VARCHAR(32) NOT NULL,
        enabled BOOLEAN NOT NULL,
        kms_key_arn TEXT,
        PRIMARY KEY (account, region)
    )
    """,
    """
    CREATE TABLE grants (
        name VARCHAR(256) NOT NULL,
        volume_id VARCHAR(21) NOT NULL,
        kms_key_arn TEXT NOT NULL,
        grant_id VARCHAR(128),
        create_time DATETIME NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    "CREATE INDEX ix_grants_volume_id ON grants (volume_id)",
)


_SNAPSHOTS: Final = (
    """
    CREATE TABLE snapshots (
        snapshot_id VARCHAR(22) NOT NULL,
        volume_id VARCHAR(21) NOT NULL,
        state VARCHAR(16) NOT NULL CONSTRAINT snapshots_state CHECK (state IN ('pending', 'completed', 'error')),
        volume_size BIGINT NOT NULL CONSTRAINT snapshots_size CHECK (volume_size > 0),
        sector_size INTEGER NOT NULL,
        encrypted BOOLEAN NOT NULL,
        kms_key_arn TEXT CONSTRAINT snapshots_key CHECK (encrypted OR kms_key_arn IS NULL),
        data_encryption_key_id VARCHAR(128),
        description VARCHAR(255) NOT NULL,
        start_time DATETIME NOT NULL,
        completion_time DATETIME,
        bytes_done BIGINT NOT NULL,
        bytes_total BIGINT NOT NULL,
        store TEXT NOT NULL,
        digest VARCHAR(64) CONSTRAINT snapshots_digest CHECK (state <> 'completed' OR digest IS NOT NULL),
        parent VARCHAR(22),
        copied_from VARCHAR(22),
        state_message TEXT,
        deleting BOOLEAN NOT NULL,
        job TEXT CONSTRAINT snapshots_job CHECK (job IS NULL OR state != 'error'),
        PRIMARY KEY (snapshot_id)
    )
    """,
    "CREATE INDEX ix_snapshots_volume_id ON snapshots (volume_id)",
    "CREATE INDEX snapshots_by_state ON snapshots (state)",
    """
    CREATE TABLE snapshot_tags (
        snapshot_id VARCHAR(22) NOT NULL,
        key VARCHAR(127) NOT NULL,
        value VARCHAR(256) NOT NULL,
        PRIMARY KEY (snapshot_id, key),
        FOREIGN KEY(snapshot_id) REFERENCES snapshots (snapshot_id) ON DELETE CASCADE
    )
    """,
)


_GROWTH: Final = (
    "DROP INDEX snapshots_by_state",
    """
    CREATE INDEX snapshots_unsettled ON snapshots (snapshot_id)
    WHERE state = 'pending' OR job IS NOT NULL OR deleting = 1
    """,
    "CREATE INDEX volumes_resizing ON volumes (volume_id) WHERE target_size IS NOT NULL",
    "CREATE INDEX volumes_rewrapping ON volumes (volume_id) WHERE target_kms_key_arn IS NOT NULL",
)


def _add_rules(connection: Connection) -> None:
    for statement in _RULES:
        connection.exec_driver_sql(statement)


def _add_keys(connection: Connection) -> None:
    for statement in _KEYS:
        connection.exec_driver_sql(statement)


def _add_snapshots(connection: Connection) -> None:
    for statement in _SNAPSHOTS:
        connection.exec_driver_sql(statement)


def _add_growth(connection: Connection) -> None:
    for statement in _GROWTH:
        connection.exec_driver_sql(statement)


MIGRATIONS: Final[dict[int, Callable[[Connection], None]]] = {
    1: _add_rules,
    2: _add_keys,
    3: _add_snapshots,
    4: _add_growth,
    5: add_stacks,
}
"""``MIGRATIONS[n]`` makes version ``n + 1`` from version ``n``. A released step is never changed, only followed."""

"""The steps from one schema of the catalog to the next, in SQL of their own.

`tables` describes the newest schema and changes with it; a step that catalogs in the field have taken must not.
A test holds both together: a catalog that came through all steps has the same tables as a fresh one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

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


def _add_rules(connection: Connection) -> None:
    for statement in _RULES:
        connection.exec_driver_sql(statement)


MIGRATIONS: Final[dict[int, Callable[[Connection], None]]] = {1: _add_rules}
"""``MIGRATIONS[n]`` makes version ``n + 1`` from version ``n``. A released step is never changed, only followed."""

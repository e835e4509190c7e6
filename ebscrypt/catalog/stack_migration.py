"""The step that brings stacks into the catalog. `migrations` says between which versions it lies."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

_STACKS: Final = (
    """
    CREATE TABLE stacks (
        stack_id VARCHAR(255) NOT NULL,
        name VARCHAR(128) NOT NULL,
        claim VARCHAR(128),
        create_time DATETIME NOT NULL,
        delete_time DATETIME,
        body TEXT NOT NULL,
        PRIMARY KEY (stack_id),
        UNIQUE (claim)
    )
    """,
    """
    CREATE TABLE stack_events (
        sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        stack_id VARCHAR(255) NOT NULL,
        body TEXT NOT NULL,
        FOREIGN KEY(stack_id) REFERENCES stacks (stack_id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_stack_events_stack_id ON stack_events (stack_id)",
    """
    CREATE TABLE change_sets (
        change_set_id VARCHAR(255) NOT NULL,
        stack_id VARCHAR(255) NOT NULL,
        name VARCHAR(128) NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (change_set_id),
        UNIQUE (stack_id, name),
        FOREIGN KEY(stack_id) REFERENCES stacks (stack_id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE stack_exports (
        name VARCHAR(255) NOT NULL,
        stack_id VARCHAR(255) NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (name),
        FOREIGN KEY(stack_id) REFERENCES stacks (stack_id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE stack_imports (
        stack_id VARCHAR(255) NOT NULL,
        name VARCHAR(255) NOT NULL,
        PRIMARY KEY (stack_id, name),
        FOREIGN KEY(stack_id) REFERENCES stacks (stack_id) ON DELETE CASCADE
    )
    """,
)


def add_stacks(connection: Connection) -> None:
    """The tables of stacks, empty."""
    for statement in _STACKS:
        connection.exec_driver_sql(statement)

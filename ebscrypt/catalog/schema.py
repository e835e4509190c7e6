"""Opening the catalog's database: who may read it, how safely it writes, and which schema it has.

SQLite in WAL mode with ``synchronous=FULL``: a committed state change survives a power cut, and readers never wait for
a writer. Writers start with ``BEGIN IMMEDIATE``, so that two commands queue at the start of their transactions and
never fail at the end of them. A newer schema than this code knows is refused: an old program could not keep its
promises.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, update

from ebscrypt.catalog.migrations import MIGRATIONS
from ebscrypt.catalog.reading import BUSY_TIMEOUT, VERSION, check_file
from ebscrypt.catalog.tables import METADATA, SCHEMA_VERSION
from ebscrypt.errors import CatalogError, NotPermitted

WRITE: Final = "ebscrypt_write"
"""Execution option of a connection whose transaction will write."""


def open_database(path: Path) -> Engine:
    """The database at ``path``, made with mode 0600 in a directory of mode 0700 if missing, at the newest schema.

    Raises `NotPermitted` where this user may not, and `CatalogError` for a database from a newer version.
    """
    _make_private(path)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        _migrate(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_private(path: Path) -> None:
    """SQLite would make the file with the umask's mode; its WAL files then take the mode of this one."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            check_file(path)
    except PermissionError as error:
        raise NotPermitted(
            f"this user may not use the catalog {path}: {error.strerror}",
            hint="run the command with sudo, or set EBSCRYPT_STATE_DIR to a directory of your own",
        ) from error
    except OSError as error:
        raise CatalogError(f"cannot open the catalog {path}: {error.strerror}") from error


def _configure(connection: Any, _record: object) -> None:
    # The driver's own transaction handling begins too late and commits behind one's back: `_begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA trusted_schema = OFF")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Switch to WAL; does nothing where it is on. For this alone SQLite does not wait for others that open the file."""
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= end:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(SCHEMA_VERSION.name):
        return 0
    version: int = connection.execute(select(SCHEMA_VERSION.c.version)).scalar_one()
    return version


def _migrate(engine: Engine, path: Path) -> None:
    """Bring the schema up to date in one transaction; two commands that start at once do it once."""
    with engine.begin() as connection:
        found = _version(connection)
    if found == VERSION:
        return
    if found > VERSION:
        raise CatalogError(
            f"the catalog {path} has schema {found}, and this ebscrypt knows {VERSION} at most",
            hint="install the version of ebscrypt that wrote it, or a newer one",
        )
    with engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        found = _version(connection)
        if found == 0:
            METADATA.create_all(connection)
            connection.execute(insert(SCHEMA_VERSION).values(version=VERSION))
            return
        for version in range(found, VERSION):
            MIGRATIONS[version](connection)
        connection.execute(update(SCHEMA_VERSION).values(version=VERSION))

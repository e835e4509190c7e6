"""`CatalogReader`: looking into a SQLite catalog without SQLAlchemy, for commands that change nothing.

Importing SQLAlchemy takes twenty times as long as Python's own start; the two or three queries of a command that lists
take a millisecond. So what only reads may read here. The rows become the same records, by the same field names, and a
test holds every answer beside that of `Catalog`.

Nothing is decided here that the catalog decides. Where there is none yet, or it has another schema, is damaged or may
not be used, `open_reader` gives None: `Catalog` then makes, migrates or refuses, and says why.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from ebscrypt.errors import CatalogDamaged, CatalogError, SnapshotLimit, SnapshotNotFound, VolumeNotFound
from ebscrypt.model import Snapshot, Volume, VolumeState

VERSION: Final = 6
"""The schema that `tables` describes. A fresh catalog is made at this version at once."""
BUSY_TIMEOUT: Final = 10.0
"""Seconds that a writer waits for another one. Transactions here take milliseconds."""
REBUILD: Final = "`ebscrypt rebuild-catalog` makes a new one from the volumes' headers"
UNSETTLED: Final = "state = 'pending' OR job IS NOT NULL OR deleting = 1"
"""Which snapshots a crash may have left something to do for, in the words of the index `snapshots_unsettled`."""
UNDER_WAY: Final = (
    "SELECT EXISTS (SELECT * FROM volumes WHERE target_size IS NOT NULL) "  # noqa: S608 - a constant
    "OR EXISTS (SELECT * FROM volumes WHERE target_kms_key_arn IS NOT NULL) "
    f"OR EXISTS (SELECT * FROM snapshots WHERE {UNSETTLED})"
)

_Row = TypeVar("_Row", Volume, Snapshot)
_Snapshots: TypeAlias = list[Snapshot]
"""`SnapshotReader.list` takes the name of the builtin within the class, as `SnapshotRows.list` does."""


def columns(kind: type[Volume | Snapshot]) -> tuple[str, ...]:
    """The columns that a record's fields come from: those of the same name. Tags have a table of their own."""
    return tuple(name for name in kind.__struct_fields__ if name != "tags")


def volume_not_found(volume_id: str) -> VolumeNotFound:
    return VolumeNotFound(f"the volume {volume_id!r} does not exist", hint="`ebscrypt ls` shows the volumes there are")


def snapshot_not_found(snapshot_id: str) -> SnapshotNotFound:
    return SnapshotNotFound(
        f"the snapshot {snapshot_id!r} does not exist", hint="`ebscrypt snapshot ls` shows the snapshots there are"
    )


def snapshot_limit(other: Snapshot) -> SnapshotLimit:
    """The refusal of a second snapshot of one volume at a time."""
    return SnapshotLimit(
        f"volume {other.volume_id} has a snapshot under way: {other.snapshot_id}",
        hint=f"wait for it: `ebscrypt snapshot show {other.snapshot_id} --wait`",
    )


def check_file(path: Path) -> None:
    """Raise OSError unless ``path`` is a file, and no link to one, that this process may read and write.

    It is not opened: closing any descriptor of it would end the locks that SQLite has on it for all connections of this
    process, and then another one takes the WAL away under them (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    mode = os.lstat(path).st_mode
    if not stat.S_ISREG(mode):
        reason = errno.ELOOP if stat.S_ISLNK(mode) else errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(reason, os.strerror(reason))
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def open_reader(path: Path) -> CatalogReader | None:
    """A reader of the catalog at ``path``; None where only `Catalog` can say what is the matter with it."""
    connection = None
    try:
        # As `Catalog` asks: whoever may not write it may not read it, and a link in its place is not followed.
        check_file(path)
        uri = f"{path.absolute().as_uri()}?mode=rw"
        # Used by one thread at a time: `_Database` has a lock.
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        found = connection.execute("SELECT version FROM schema_version").fetchone()
    except (OSError, sqlite3.Error):
        found = None
    if connection is not None and found != (VERSION,):
        connection.close()
        connection = None
    return None if connection is None else CatalogReader(_Database(connection))


class CatalogReader:
    """What `Catalog` answers, without the means to change anything. Close it."""

    def __init__(self, database: _Database) -> None:
        self._database = database
        self.snapshots = SnapshotReader(database)

    def close(self) -> None:
        """Let go of the database. Idempotent."""
        self._database.close()

    def volume(self, volume_id: str) -> Volume:
        """The volume of this id. Raises `VolumeNotFound`."""
        found = self._database.records(Volume, "volume_id = ?", (volume_id,))
        if not found:
            raise volume_not_found(volume_id)
        return found[0]

    def volumes(self, *states: VolumeState) -> list[Volume]:
        """All volumes, or those in one of ``states``, oldest first."""
        marks = ", ".join("?" for _ in states)
        condition = f"state IN ({marks})" if states else "TRUE"
        return self._database.records(Volume, condition, [state.value for state in states])

    def is_work_left(self) -> bool:
        """Whether an enabled rule has events to look at, or a target something to get, be it due or not."""
        return self._database.is_any(
            "SELECT EXISTS (SELECT * FROM rules WHERE enabled = 1 AND cursor < (SELECT max(sequence) FROM events)) "
            "OR EXISTS (SELECT * FROM deliveries)"
        )

    def is_change_under_way(self) -> bool:
        """Whether the catalog has a resize or a rewrap of a volume, or a snapshot, that has begun and not ended."""
        return self._database.is_any(UNDER_WAY)


class SnapshotReader:
    """The reading part of `SnapshotRows`."""

    def __init__(self, database: _Database) -> None:
        self._database = database

    def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot of this id. Raises `SnapshotNotFound`."""
        found = self._database.records(Snapshot, "snapshot_id = ?", (snapshot_id,))
        if not found:
            raise snapshot_not_found(snapshot_id)
        return found[0]

    def list(self, *, volume_id: str | None = None) -> _Snapshots:
        """All snapshots, or those of one volume; oldest first."""
        if volume_id is None:
            return self._database.records(Snapshot, "TRUE", ())
        return self._database.records(Snapshot, "volume_id = ?", (volume_id,))


_TABLES: Final = {
    Volume: ("volumes", "volume_id", "create_time"),
    Snapshot: ("snapshots", "snapshot_id", "start_time"),
}
_TIMES: Final = ("create_time", "start_time", "completion_time")


def statements(kind: type[Volume | Snapshot], condition: str) -> tuple[str, str]:
    """The two queries for the records that fulfil ``condition``: tags, then rows. Both take its values."""
    table, key, age = _TABLES[kind]
    tags = table.removesuffix("s") + "_tags"
    # No part of these texts comes from outside: names are the schema's, values are bound.
    chosen = f"SELECT {key} FROM {table} WHERE {condition}"  # noqa: S608 - see above
    return (
        f"SELECT {key}, key, value FROM {tags} WHERE {key} IN ({chosen}) ORDER BY key",  # noqa: S608 - the same
        f"SELECT {', '.join(columns(kind))} FROM {table} WHERE {condition} ORDER BY {age}, {key}",  # noqa: S608 - the same
    )


class _Database:
    """One connection, for one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def close(self) -> None:
        self._connection.close()

    def is_any(self, statement: str) -> bool:
        """The answer to a query for one truth value."""
        with self._transaction():
            return bool(self._connection.execute(statement).fetchone()[0])

    def records(self, kind: type[_Row], condition: str, values: Sequence[str]) -> list[_Row]:
        """The records that fulfil ``condition``, oldest first, with their tags."""
        tag_query, row_query = statements(kind, condition)
        names = columns(kind)
        tags_of: dict[str, dict[str, str]] = {}
        with self._transaction():
            for key, name, value in self._connection.execute(tag_query, values):
                tags_of.setdefault(key, {})[name] = value
            rows = self._connection.execute(row_query, values).fetchall()
        return [_record(kind, dict(zip(names, row, strict=True)), tags_of.get(row[0], {})) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Both queries see the same state, and errors of the database become ours."""
        try:
            with self._lock:
                self._connection.execute("BEGIN")
                try:
                    yield
                finally:
                    self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            damaged = "malformed" in str(error) or "not a database" in str(error)
            kind = CatalogDamaged if damaged else CatalogError
            raise kind(f"the catalog does not answer: {error}", hint=REBUILD) from error


def _record(kind: type[_Row], row: dict[str, Any], tags: dict[str, str]) -> _Row:
    try:
        for name in _TIMES:
            if row.get(name) is not None:
                row[name] = datetime.fromisoformat(row[name]).replace(tzinfo=UTC)
        # Not strict: SQLite keeps a boolean as 0 or 1.
        return msgspec.convert(row | {"tags": tags}, kind, strict=False)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise CatalogDamaged(
            f"the catalog's row of {next(iter(row.values()))} is damaged: {error}", hint=REBUILD
        ) from error

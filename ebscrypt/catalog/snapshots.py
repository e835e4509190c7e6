"""`SnapshotRows`: what the catalog knows of snapshots. A change of state and its event are one transaction, as ever.

A pending snapshot has a *job*: what its copier must know and nobody else asks for. It goes with the state, so that
whoever takes up an interrupted copy finds it. The job of a completed one is a rewrap under way; usually it has none. A
deletion is noted (``deleting``) before the store is touched and the row removed after it, so that nothing is left in a
store that no row speaks of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, insert, select, true, update

from ebscrypt.catalog.event_rows import Event
from ebscrypt.catalog.reading import REBUILD, columns, snapshot_limit, snapshot_not_found
from ebscrypt.catalog.tables import SNAPSHOT_TAGS, SNAPSHOTS, UNSETTLED
from ebscrypt.errors import CatalogDamaged, CopyLimit, StateError
from ebscrypt.model import Snapshot, SnapshotState, check_snapshot_transition

_Snapshots: TypeAlias = list[Snapshot]
"""`SnapshotRows.list` takes the name of the builtin within the class."""
_BEING_COPIED: Final = and_(
    SNAPSHOTS.c.state == SnapshotState.PENDING.value, SNAPSHOTS.c.copied_from.is_not(None), ~SNAPSHOTS.c.deleting
)
_COLUMNS: Final = columns(Snapshot)


class Rewrap(msgspec.Struct, frozen=True, kw_only=True):
    """A rewrap under way: ``digest`` of the manifest (hexadecimal) and KMS key that the snapshot is about to have."""

    digest: str
    kms_key_arn: str


class _Transaction(Protocol):
    def __call__(self, *, write: bool = False) -> AbstractContextManager[Connection]: ...


class SnapshotRows:
    """The rows about snapshots of one catalog: what `Catalog.snapshots` gives."""

    def __init__(self, transaction: _Transaction, write_event: Callable[[Connection, Event | None], None]) -> None:
        self._transaction = transaction
        self._write_event = write_event

    def add(
        self,
        snapshot: Snapshot,
        *,
        job: str | None = None,
        alone: bool = False,
        copies: int | None = None,
        event: Event | None = None,
    ) -> None:
        """Enter a new snapshot with its tags. Raises `StateError` when there is one of that id already.

        With ``alone`` it is entered only if its volume has no other pending snapshot that was not copied from another;
        else `SnapshotLimit`, naming the other. ``copies`` is how many copies may be under way at once, this one
        included; else `CopyLimit`.
        """
        with self._transaction(write=True) as connection:
            if _many(connection, SNAPSHOTS.c.snapshot_id == snapshot.snapshot_id):
                raise StateError(f"the catalog has a snapshot {snapshot.snapshot_id} already")
            others = _many(connection, _being_made(snapshot.volume_id)) if alone else []
            if others:
                raise snapshot_limit(others[0])
            if copies is not None and len(under_way := _many(connection, _BEING_COPIED)) >= copies:
                raise CopyLimit(
                    f"{len(under_way)} copies of snapshots are under way in this Region, and more are not allowed",
                    hint=f"wait for one, for example `ebscrypt snapshot show {under_way[0].snapshot_id} --wait`",
                )
            connection.execute(insert(SNAPSHOTS).values(**_row(snapshot), job=job))
            _write_tags(connection, snapshot.snapshot_id, snapshot.tags)
            self._write_event(connection, event)

    def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot of this id. Raises `SnapshotNotFound`."""
        with self._transaction() as connection:
            return _one(connection, snapshot_id)

    def list(self, *states: SnapshotState, volume_id: str | None = None, store: str | None = None) -> _Snapshots:
        """All snapshots, or those in one of ``states``, of one volume, in one store; oldest first."""
        wanted: list[ColumnElement[bool]] = [true()]
        if states:
            wanted.append(SNAPSHOTS.c.state.in_([state.value for state in states]))
        if volume_id is not None:
            wanted.append(SNAPSHOTS.c.volume_id == volume_id)
        if store is not None:
            wanted.append(SNAPSHOTS.c.store == store)
        with self._transaction() as connection:
            return _many(connection, and_(*wanted))

    def being_made(self, volume_id: str) -> Snapshot | None:
        """The snapshot whose blocks are being read from this volume now, or were when its copier died."""
        with self._transaction() as connection:
            found = _many(connection, _being_made(volume_id))
        return found[0] if found else None

    def unsettled(self) -> _Snapshots:
        """The snapshots that are being made, rewrapped or deleted, in one query: what a crash may have left to do."""
        with self._transaction() as connection:
            return _many(connection, UNSETTLED)

    def rewrap(self, snapshot_id: str) -> Rewrap | None:
        """The rewrap of a completed snapshot that has begun and not ended."""
        if self.get(snapshot_id).state is not SnapshotState.COMPLETED:
            return None
        job = self.job(snapshot_id)
        return None if job is None else msgspec.json.decode(job, type=Rewrap)

    def begin_rewrap(self, snapshot_id: str, rewrap: Rewrap) -> None:
        """Note the manifest that a rewrap is about to put in the old one's place."""
        completed = SNAPSHOTS.c.state == SnapshotState.COMPLETED.value
        condition = (SNAPSHOTS.c.snapshot_id == snapshot_id) & completed & ~SNAPSHOTS.c.deleting
        with self._transaction(write=True) as connection:
            statement = update(SNAPSHOTS).where(condition).values(job=msgspec.json.encode(rewrap).decode())
            if connection.execute(statement).rowcount != 1:
                raise _state_error(_one(connection, snapshot_id), SnapshotState.COMPLETED)

    def end_rewrap(self, snapshot_id: str, *, done: bool) -> None:
        """No rewrap is under way any more; with ``done`` the noted manifest and KMS key are the snapshot's."""
        rewrap = self.rewrap(snapshot_id)
        if rewrap is None:
            return
        values = msgspec.structs.asdict(rewrap) if done else {}
        with self._transaction(write=True) as connection:
            statement = update(SNAPSHOTS).where(SNAPSHOTS.c.snapshot_id == snapshot_id).values(job=None, **values)
            connection.execute(statement)

    def job(self, snapshot_id: str) -> str | None:
        """What `add` was told about the copier's work, or a rewrap under way; None where there is nothing to do."""
        with self._transaction() as connection:
            row = connection.execute(select(SNAPSHOTS.c.job).where(SNAPSHOTS.c.snapshot_id == snapshot_id)).first()
        if row is None:
            raise snapshot_not_found(snapshot_id)
        job: str | None = row.job
        return job

    def change_state(
        self,
        snapshot_id: str,
        expected: SnapshotState,
        new: SnapshotState,
        event: Event | None = None,
        **values: Any,
    ) -> Snapshot:
        """Take a snapshot from one state to another, with its event and further columns (``digest``…).

        Raises `StateError` when the table of transitions forbids it, when the snapshot is not in ``expected`` now, and
        when its deletion has begun.
        """
        check_snapshot_transition(snapshot_id, expected, new)
        condition = (
            (SNAPSHOTS.c.snapshot_id == snapshot_id) & (SNAPSHOTS.c.state == expected.value) & ~SNAPSHOTS.c.deleting
        )
        with self._transaction(write=True) as connection:
            statement = update(SNAPSHOTS).where(condition).values(state=new.value, job=None, **values)
            if connection.execute(statement).rowcount != 1:
                raise _state_error(_one(connection, snapshot_id), expected)
            self._write_event(connection, event)
            return _one(connection, snapshot_id)

    def progress(self, snapshot_id: str, done: int, total: int) -> None:
        """Note how many bytes are stored, and of how many. Raises `StateError` when it is to be made no longer."""
        condition = (
            (SNAPSHOTS.c.snapshot_id == snapshot_id)
            & (SNAPSHOTS.c.state == SnapshotState.PENDING.value)
            & ~SNAPSHOTS.c.deleting
        )
        with self._transaction(write=True) as connection:
            statement = update(SNAPSHOTS).where(condition).values(bytes_done=done, bytes_total=total)
            if connection.execute(statement).rowcount != 1:
                raise _state_error(_one(connection, snapshot_id), SnapshotState.PENDING)

    def begin_deletion(self, snapshot_id: str) -> Snapshot:
        """Note that the snapshot is being deleted. Idempotent; raises `SnapshotNotFound`."""
        with self._transaction(write=True) as connection:
            _one(connection, snapshot_id)
            connection.execute(update(SNAPSHOTS).where(SNAPSHOTS.c.snapshot_id == snapshot_id).values(deleting=True))
            return _one(connection, snapshot_id)

    def remove(self, snapshot_id: str) -> None:
        """Forget a snapshot whose deletion was noted, with its tags. Raises `StateError` for any other. Idempotent."""
        with self._transaction(write=True) as connection:
            found = _many(connection, SNAPSHOTS.c.snapshot_id == snapshot_id)
            if found and not found[0].deleting:
                raise StateError(f"snapshot {snapshot_id} is not being deleted")
            connection.execute(delete(SNAPSHOTS).where(SNAPSHOTS.c.snapshot_id == snapshot_id))

    def change_tags(self, snapshot_id: str, change: Callable[[Mapping[str, str]], Mapping[str, str]]) -> Snapshot:
        """Give a snapshot the tags that ``change`` makes of its present ones, in one transaction."""
        with self._transaction(write=True) as connection:
            tags = change(_one(connection, snapshot_id).tags)
            connection.execute(delete(SNAPSHOT_TAGS).where(SNAPSHOT_TAGS.c.snapshot_id == snapshot_id))
            _write_tags(connection, snapshot_id, tags)
            return _one(connection, snapshot_id)


def _being_made(volume_id: str) -> ColumnElement[bool]:
    return and_(
        SNAPSHOTS.c.volume_id == volume_id,
        SNAPSHOTS.c.state == SnapshotState.PENDING.value,
        SNAPSHOTS.c.copied_from.is_(None),
        ~SNAPSHOTS.c.deleting,
    )


def _one(connection: Connection, snapshot_id: str) -> Snapshot:
    found = _many(connection, SNAPSHOTS.c.snapshot_id == snapshot_id)
    if not found:
        raise snapshot_not_found(snapshot_id)
    return found[0]


def _many(connection: Connection, condition: ColumnElement[bool]) -> list[Snapshot]:
    tags = select(SNAPSHOT_TAGS).where(
        SNAPSHOT_TAGS.c.snapshot_id.in_(select(SNAPSHOTS.c.snapshot_id).where(condition))
    )
    tags_of: dict[str, dict[str, str]] = {}
    for row in connection.execute(tags.order_by(SNAPSHOT_TAGS.c.key)):
        tags_of.setdefault(row.snapshot_id, {})[row.key] = row.value
    statement = select(SNAPSHOTS).where(condition).order_by(SNAPSHOTS.c.start_time, SNAPSHOTS.c.snapshot_id)
    rows = connection.execute(statement).mappings()
    return [_snapshot(row, tags_of.get(row["snapshot_id"], {})) for row in rows]


def _snapshot(row: RowMapping, tags: dict[str, str]) -> Snapshot:
    try:
        return msgspec.convert({name: row[name] for name in _COLUMNS} | {"tags": tags}, Snapshot)
    except msgspec.ValidationError as error:
        raise CatalogDamaged(f"the catalog's row of {row['snapshot_id']} is damaged: {error}", hint=REBUILD) from error


def _row(snapshot: Snapshot) -> dict[str, Any]:
    return {name: getattr(snapshot, name) for name in _COLUMNS}


def _write_tags(connection: Connection, snapshot_id: str, tags: Mapping[str, str]) -> None:
    if tags:
        rows = [{"snapshot_id": snapshot_id, "key": key, "value": value} for key, value in tags.items()]
        connection.execute(insert(SNAPSHOT_TAGS), rows)


def _state_error(snapshot: Snapshot, expected: SnapshotState) -> StateError:
    found = "being deleted" if snapshot.deleting else snapshot.state.value
    return StateError(
        f"snapshot {snapshot.snapshot_id} is {found}, not {expected}",
        hint=f"`ebscrypt snapshot show {snapshot.snapshot_id}` tells more",
    )

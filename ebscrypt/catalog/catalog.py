"""`Catalog`: what control asks of the catalog and changes in it.

Two rules make it safe for commands that run at the same time. A change of state is *compare and set*: it names the
state that it expects, and of two racing commands the second finds another state and is refused. And a change and its
event are one transaction: either both are there after a crash or neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import DatabaseError, IntegrityError

from ebscrypt.catalog import event_rows
from ebscrypt.catalog.event_rows import Event
from ebscrypt.catalog.keys import KeyRows
from ebscrypt.catalog.reading import REBUILD, columns, volume_not_found
from ebscrypt.catalog.rules import RuleRows
from ebscrypt.catalog.schema import WRITE, open_database
from ebscrypt.catalog.snapshots import SnapshotRows
from ebscrypt.catalog.stacks import StackRows
from ebscrypt.catalog.tables import VOLUME_TAGS, VOLUMES
from ebscrypt.errors import (
    BackingInUse,
    CatalogDamaged,
    CatalogError,
    EbscryptError,
    NotPermitted,
    OutOfSpace,
    StateError,
)
from ebscrypt.model import Volume, VolumeState, check_transition

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Engine

_COLUMNS: Final = columns(Volume)


class Catalog:
    """The catalog of one state directory. Close it, or use it as a context manager."""

    def __init__(self, path: Path, *, keep_events: int = event_rows.KEPT) -> None:
        """Open the catalog at ``path``, made if missing. Raises `NotPermitted` or `CatalogError`.

        Of events, it keeps the newest ``keep_events``, and those that an enabled rule has not looked at yet.
        """
        self._path = path
        self._keep_events = keep_events
        self.rules = RuleRows(self._transaction)
        self.keys = KeyRows(self._transaction)
        self.snapshots = SnapshotRows(self._transaction, self._write_event)
        self.stacks = StackRows(self._transaction)
        with self._translated():
            self._engine: Engine = open_database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database. Idempotent."""
        self._engine.dispose()

    def volume(self, volume_id: str) -> Volume:
        """The volume of this id. Raises `VolumeNotFound`."""
        with self._transaction() as connection:
            return _one(connection, volume_id)

    def volumes(self, *states: VolumeState) -> list[Volume]:
        """All volumes, or those in one of ``states``, oldest first."""
        wanted = VOLUMES.c.state.in_([state.value for state in states]) if states else None
        with self._transaction() as connection:
            return _many(connection, wanted)

    def add(self, volume: Volume, event: Event | None = None) -> None:
        """Enter a new volume with its tags. Raises `BackingInUse` if another volume has its backing."""
        with self._transaction(write=True) as connection:
            try:
                connection.execute(insert(VOLUMES).values(**_row(volume)))
            except IntegrityError as error:
                raise _claimed(connection, volume) from error
            _write_tags(connection, volume.volume_id, volume.tags)
            self._write_event(connection, event)

    def change_state(
        self,
        volume_id: str,
        expected: VolumeState,
        new: VolumeState,
        event: Event | Sequence[Event] | None = None,
        **values: Any,
    ) -> Volume:
        """Take a volume from one state to another, with its events and further columns (``size``, ``state_message``…).

        Raises `StateError` when the table of transitions forbids it, or when the volume is not in ``expected`` now. A
        volume that goes to ``error`` gives up its claim on its backing.
        """
        check_transition(volume_id, expected, new)
        if new is VolumeState.ERROR:
            values["claim"] = None
        return self._compare_and_set(volume_id, expected, {"state": new.value, **values}, event)

    def begin_resize(self, volume_id: str, expected: VolumeState, target_size: int) -> Volume:
        """Note the size that a resize is on its way to, before anything else of it happens."""
        return self._compare_and_set(volume_id, expected, {"target_size": target_size})

    def end_resize(self, volume_id: str, size: int) -> Volume:
        """The volume has ``size`` now (its old one, if the resize was undone), and no resize is under way."""
        with self._transaction(write=True) as connection:
            _one(connection, volume_id)
            statement = update(VOLUMES).where(VOLUMES.c.volume_id == volume_id).values(size=size, target_size=None)
            connection.execute(statement)
            return _one(connection, volume_id)

    def correct(self, volume_id: str, event: Event | None = None, /, **values: Any) -> Volume:
        """Put other values in a volume's row, with the event that goes with them. Never the state.

        Raises `BackingInUse` if ``backing`` is another volume's.
        """
        if "state" in values:
            raise ValueError("a state is changed by change_state")
        if "backing" in values:
            values["claim"] = values["backing"]
        with self._transaction(write=True) as connection:
            volume = _one(connection, volume_id)
            try:
                connection.execute(update(VOLUMES).where(VOLUMES.c.volume_id == volume_id).values(**values))
            except IntegrityError as error:
                raise _claimed(connection, msgspec.structs.replace(volume, backing=values["backing"])) from error
            self._write_event(connection, event)
            return _one(connection, volume_id)

    def resizes(self) -> dict[str, int]:
        """Volume id → target size of every resize that has begun and not ended."""
        statement = select(VOLUMES.c.volume_id, VOLUMES.c.target_size).where(VOLUMES.c.target_size.is_not(None))
        with self._transaction() as connection:
            return {row.volume_id: row.target_size for row in connection.execute(statement)}

    def remove(self, volume_id: str, event: Event | None = None) -> None:
        """Forget a volume in ``deleting`` with its tags: it is ``deleted``. Raises `StateError` in any other state."""
        check_transition(volume_id, VolumeState.DELETING, VolumeState.DELETED)
        condition = (VOLUMES.c.volume_id == volume_id) & (VOLUMES.c.state == VolumeState.DELETING.value)
        with self._transaction(write=True) as connection:
            if connection.execute(delete(VOLUMES).where(condition)).rowcount != 1:
                raise _state_error(_one(connection, volume_id), VolumeState.DELETING)
            self._write_event(connection, event)

    def change_tags(self, volume_id: str, change: Callable[[Mapping[str, str]], Mapping[str, str]]) -> Volume:
        """Give a volume the tags that ``change`` makes of its present ones, in one transaction."""
        with self._transaction(write=True) as connection:
            tags = change(_one(connection, volume_id).tags)
            connection.execute(delete(VOLUME_TAGS).where(VOLUME_TAGS.c.volume_id == volume_id))
            _write_tags(connection, volume_id, tags)
            return _one(connection, volume_id)

    def add_event(self, event: Event) -> None:
        """Keep an event that comes with no change of state (a refused attachment)."""
        with self._transaction(write=True) as connection:
            self._write_event(connection, event)

    def events(self, after: int = 0, limit: int | None = None) -> list[tuple[int, dict[str, Any]]]:
        """Events with their sequence numbers, oldest first, of those after ``after``; at most ``limit``."""
        with self._transaction() as connection:
            return event_rows.read_events(connection, after=after, limit=limit)

    def newest_events(self, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """The same, of the newest ``limit``."""
        with self._transaction() as connection:
            after = event_rows.sequence_before_newest(connection, limit)
            return event_rows.read_events(connection, after=after)

    def newest_sequence(self) -> int:
        """The sequence number of the newest event; 0 if there is none."""
        with self._transaction() as connection:
            return event_rows.newest_sequence(connection)

    def sequence_of(self, event_id: str) -> int | None:
        """The sequence number of an event; None if the catalog does not have it (any more)."""
        with self._transaction() as connection:
            return event_rows.sequence_of(connection, event_id)

    def _write_event(self, connection: Connection, event: Event | Sequence[Event] | None) -> None:
        for one in [event] if event is None or isinstance(event, Mapping) else event:
            event_rows.write_event(connection, one, keep=self._keep_events)

    def _compare_and_set(
        self,
        volume_id: str,
        expected: VolumeState,
        values: Mapping[str, Any],
        event: Event | Sequence[Event] | None = None,
    ) -> Volume:
        condition = (VOLUMES.c.volume_id == volume_id) & (VOLUMES.c.state == expected.value)
        with self._transaction(write=True) as connection:
            if connection.execute(update(VOLUMES).where(condition).values(**values)).rowcount != 1:
                raise _state_error(_one(connection, volume_id), expected)
            self._write_event(connection, event)
            return _one(connection, volume_id)

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Connection]:
        with (
            self._translated(),
            self._engine.connect().execution_options(**{WRITE: write}) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The database's errors as ours: no permission, no space, busy, damaged."""
        try:
            yield
        except DatabaseError as error:
            reason = str(error.orig)
            if "readonly" in reason:
                raise NotPermitted(
                    f"the catalog {self._path} cannot be written", hint="run the command with sudo"
                ) from error
            if "full" in reason:
                raise OutOfSpace(f"no space for the catalog {self._path}: {reason}") from error
            if "locked" in reason:
                raise CatalogError(
                    f"the catalog {self._path} is busy: {reason}", hint="another command holds it; try again"
                ) from error
            kind = CatalogDamaged if "malformed" in reason or "not a database" in reason else CatalogError
            raise kind(f"the catalog {self._path} does not answer: {reason}", hint=REBUILD) from error


def _one(connection: Connection, volume_id: str) -> Volume:
    found = _many(connection, VOLUMES.c.volume_id == volume_id)
    if not found:
        raise volume_not_found(volume_id)
    return found[0]


def _many(connection: Connection, condition: ColumnElement[bool] | None) -> list[Volume]:
    volumes, tags = select(VOLUMES), select(VOLUME_TAGS)
    if condition is not None:
        volumes = volumes.where(condition)
        tags = tags.where(VOLUME_TAGS.c.volume_id.in_(select(VOLUMES.c.volume_id).where(condition)))
    tags_of: dict[str, dict[str, str]] = {}
    for row in connection.execute(tags.order_by(VOLUME_TAGS.c.key)):
        tags_of.setdefault(row.volume_id, {})[row.key] = row.value
    rows = connection.execute(volumes.order_by(VOLUMES.c.create_time, VOLUMES.c.volume_id)).mappings()
    return [_volume(row, tags_of.get(row["volume_id"], {})) for row in rows]


def _volume(row: RowMapping, tags: dict[str, str]) -> Volume:
    try:
        return msgspec.convert({name: row[name] for name in _COLUMNS} | {"tags": tags}, Volume)
    except msgspec.ValidationError as error:
        raise CatalogDamaged(f"the catalog's row of {row['volume_id']} is damaged: {error}", hint=REBUILD) from error


def _row(volume: Volume) -> dict[str, Any]:
    claim = None if volume.state is VolumeState.ERROR else volume.backing
    return {name: getattr(volume, name) for name in _COLUMNS} | {"claim": claim}


def _claimed(connection: Connection, volume: Volume) -> EbscryptError:
    """Why a new row was refused: its backing or, after a rebuild, its id is there already."""
    others = [other for other in _many(connection, VOLUMES.c.claim == volume.backing) if volume.backing]
    if others:
        return BackingInUse(f"{volume.backing} is the backing of {others[0].volume_id}")
    return StateError(f"the catalog has a volume {volume.volume_id} already")


def _write_tags(connection: Connection, volume_id: str, tags: Mapping[str, str]) -> None:
    if tags:
        rows = [{"volume_id": volume_id, "key": key, "value": value} for key, value in tags.items()]
        connection.execute(insert(VOLUME_TAGS), rows)


def _state_error(volume: Volume, expected: VolumeState) -> StateError:
    hint = f"`ebscrypt show {volume.volume_id}` tells more"
    if volume.state is VolumeState.IN_USE:
        hint = f"detach it first: `ebscrypt detach {volume.volume_id}`"
    return StateError(f"volume {volume.volume_id} is {volume.state}, not {expected}", hint=hint)

"""`StackRows`: the stacks of one catalog, their events, change sets, exports and imports.

A stack and the events of its change are written in one transaction. Whoever changes a stack holds the lock of its name,
so nothing here compares before it sets; what two stacks can fight over, names and exports, the tables keep apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from ebscrypt.catalog.stack_records import ChangeSet, Stack, StackEvent, StackStatus
from ebscrypt.catalog.tables import CHANGE_SETS, STACK_EVENTS, STACK_EXPORTS, STACK_IMPORTS, STACKS
from ebscrypt.errors import CatalogDamaged, ChangeSetNotFound, StackNotFound, StackStateError

_Record = TypeVar("_Record")


class _Transaction(Protocol):
    def __call__(self, *, write: bool = False) -> AbstractContextManager[Connection]: ...


class StackRows:
    """The rows about stacks of one catalog: what `Catalog.stacks` gives."""

    def __init__(self, transaction: _Transaction) -> None:
        self._transaction = transaction

    def get(self, name: str) -> Stack:
        """The stack of this name, or of this id, with which a deleted one is found too. Raises `StackNotFound`."""
        found = self.find(name)
        if found is None:
            raise StackNotFound(f"Stack with id {name[:255]} does not exist", hint="see `ebscrypt stack ls`")
        return found

    def find(self, name: str) -> Stack | None:
        """The same, or None."""
        statement = select(STACKS.c.body).where(or_(STACKS.c.claim == name, STACKS.c.stack_id == name))
        with self._transaction() as connection:
            body = connection.execute(statement).scalar()
        return None if body is None else _read(body, Stack)

    def all(self, *, deleted: bool = False) -> list[Stack]:
        """All stacks, oldest first; those that are deleted only if asked for."""
        statement = select(STACKS.c.body).order_by(STACKS.c.create_time, STACKS.c.stack_id)
        if not deleted:
            statement = statement.where(STACKS.c.claim.is_not(None))
        with self._transaction() as connection:
            return [_read(body, Stack) for body in connection.execute(statement).scalars()]

    def add(self, stack: Stack, *events: StackEvent) -> None:
        """Enter a new stack. Raises `StackStateError` if there is one of its name."""
        with self._transaction(write=True) as connection:
            try:
                connection.execute(insert(STACKS).values(**_row(stack)))
            except IntegrityError as error:
                raise StackStateError(f"Stack [{stack.name}] already exists") from error
            _add_events(connection, stack, events)

    def write(
        self,
        stack: Stack,
        *events: StackEvent,
        exports: Mapping[str, str] | None = None,
        imports: Collection[str] | None = None,
    ) -> None:
        """Write a stack as it is now, with the events of what happened; and all its exports and imports where given.

        Raises `StackStateError`, and changes nothing, for an export that another stack has, and for one that would go
        or change while another stack imports it.
        """
        with self._transaction(write=True) as connection:
            if exports is not None:
                _write_exports(connection, stack, exports)
            if imports is not None:
                connection.execute(delete(STACK_IMPORTS).where(STACK_IMPORTS.c.stack_id == stack.stack_id))
                for name in sorted(imports):
                    connection.execute(insert(STACK_IMPORTS).values(stack_id=stack.stack_id, name=name))
            row = _row(stack)
            connection.execute(update(STACKS).where(STACKS.c.stack_id == stack.stack_id).values(**row))
            _add_events(connection, stack, events)

    def forget_deleted(self, before: datetime) -> None:
        """Forget stacks that were deleted before that time, with their events."""
        with self._transaction(write=True) as connection:
            connection.execute(delete(STACKS).where(STACKS.c.delete_time < before))

    def remove(self, stack_id: str) -> None:
        """Forget a stack of which nothing was ever made."""
        with self._transaction(write=True) as connection:
            connection.execute(delete(STACKS).where(STACKS.c.stack_id == stack_id))

    def events(self, stack_id: str) -> list[StackEvent]:
        """A stack's events, newest first."""
        rows = select(STACK_EVENTS.c.body).where(STACK_EVENTS.c.stack_id == stack_id)
        with self._transaction() as connection:
            bodies = connection.execute(rows.order_by(STACK_EVENTS.c.sequence.desc())).scalars()
            return [_read(body, StackEvent) for body in bodies]

    def forget_events(self, stack_id: str, keep: int) -> None:
        """Forget a stack's events but the newest ``keep``."""
        own = STACK_EVENTS.c.stack_id == stack_id
        newest = (
            select(STACK_EVENTS.c.sequence).where(own).order_by(STACK_EVENTS.c.sequence.desc()).offset(keep).limit(1)
        )
        with self._transaction(write=True) as connection:
            first = connection.execute(newest).scalar()
            if first is not None:
                connection.execute(delete(STACK_EVENTS).where(own, STACK_EVENTS.c.sequence <= first))

    def exports(self) -> dict[str, tuple[str, str]]:
        """Export → the stack that has it, and its value; by name."""
        with self._transaction() as connection:
            rows = connection.execute(select(STACK_EXPORTS).order_by(STACK_EXPORTS.c.name))
            return {row.name: (row.stack_id, row.value) for row in rows}

    def importers(self, name: str) -> list[str]:
        """The names of the stacks that import an export."""
        with self._transaction() as connection:
            return _importers(connection, name)

    def write_change_set(self, change_set: ChangeSet) -> None:
        """Enter a change set, or write it anew. Raises `StackStateError` if another of the stack has its name."""
        row = {
            "change_set_id": change_set.change_set_id,
            "stack_id": change_set.stack_id,
            "name": change_set.name,
            "body": msgspec.json.encode(change_set).decode(),
        }
        with self._transaction(write=True) as connection:
            connection.execute(delete(CHANGE_SETS).where(CHANGE_SETS.c.change_set_id == change_set.change_set_id))
            try:
                connection.execute(insert(CHANGE_SETS).values(**row))
            except IntegrityError as error:
                raise StackStateError(f"ChangeSet {change_set.name} already exists") from error

    def change_sets(self, stack_id: str) -> list[ChangeSet]:
        """A stack's change sets, by name."""
        rows = select(CHANGE_SETS.c.body).where(CHANGE_SETS.c.stack_id == stack_id).order_by(CHANGE_SETS.c.name)
        with self._transaction() as connection:
            return [_read(body, ChangeSet) for body in connection.execute(rows).scalars()]

    def change_set(self, name: str, stack_id: str | None = None) -> ChangeSet:
        """A change set by its id, or by its name and its stack's id. Raises `ChangeSetNotFound`."""
        wanted = CHANGE_SETS.c.change_set_id == name
        if stack_id is not None:
            wanted |= (CHANGE_SETS.c.name == name) & (CHANGE_SETS.c.stack_id == stack_id)
        with self._transaction() as connection:
            body = connection.execute(select(CHANGE_SETS.c.body).where(wanted)).scalar()
        if body is None:
            raise ChangeSetNotFound(f"ChangeSet [{name[:255]}] does not exist")
        return _read(body, ChangeSet)

    def remove_change_sets(self, stack_id: str, name: str | None = None) -> None:
        """Forget a change set of a stack, or all. Idempotent."""
        condition = CHANGE_SETS.c.stack_id == stack_id
        if name is not None:
            condition &= or_(CHANGE_SETS.c.name == name, CHANGE_SETS.c.change_set_id == name)
        with self._transaction(write=True) as connection:
            connection.execute(delete(CHANGE_SETS).where(condition))


def _row(stack: Stack) -> dict[str, Any]:
    return {
        "stack_id": stack.stack_id,
        "name": stack.name,
        "claim": None if stack.status is StackStatus.DELETE_COMPLETE else stack.name,
        "create_time": stack.create_time,
        "delete_time": stack.delete_time,
        "body": msgspec.json.encode(stack).decode(),
    }


def _read(body: str, kind: type[_Record]) -> _Record:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise CatalogDamaged(f"a row about stacks is damaged: {error}") from error


def _add_events(connection: Connection, stack: Stack, events: Sequence[StackEvent]) -> None:
    for event in events:
        body = msgspec.json.encode(event).decode()
        connection.execute(insert(STACK_EVENTS).values(stack_id=stack.stack_id, body=body))


def _importers(connection: Connection, name: str) -> list[str]:
    statement = (
        select(STACKS.c.name)
        .join(STACK_IMPORTS, STACK_IMPORTS.c.stack_id == STACKS.c.stack_id)
        .where(STACK_IMPORTS.c.name == name, STACKS.c.claim.is_not(None))
        .order_by(STACKS.c.name)
    )
    return list(connection.execute(statement).scalars())


def _write_exports(connection: Connection, stack: Stack, exports: Mapping[str, str]) -> None:
    own = STACK_EXPORTS.c.stack_id == stack.stack_id
    before = {row.name: row.value for row in connection.execute(select(STACK_EXPORTS).where(own))}
    for name, value in before.items():
        if exports.get(name) != value and (users := _importers(connection, name)):
            verb = "updated" if name in exports else "deleted"
            raise StackStateError(f"Export {name} cannot be {verb} as it is in use by {' and '.join(users)}")
    connection.execute(delete(STACK_EXPORTS).where(own))
    for name, value in exports.items():
        owner = connection.execute(select(STACK_EXPORTS.c.stack_id).where(STACK_EXPORTS.c.name == name)).scalar()
        if owner is not None:
            raise StackStateError(f"Export with name {name} is already exported by stack {owner.split('/')[1]}")
        connection.execute(insert(STACK_EXPORTS).values(name=name, stack_id=stack.stack_id, value=value))

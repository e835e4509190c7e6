"""The rows of the event log: writing one in its change's transaction, reading them, letting the oldest go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select

from ebscrypt.catalog.rules import oldest_cursor
from ebscrypt.catalog.tables import EVENTS

Event = Mapping[str, Any]

KEPT: Final = 10_000
"""Events that a catalog keeps unless it is told otherwise: about 5 MB, some years of an ordinary server."""


def write_event(connection: Connection, event: Event | None, *, keep: int) -> None:
    """Enter an event, if there is one, and remove what is older than the newest ``keep``.

    What an enabled rule has not looked at yet stays.
    """
    if event is None:
        return
    written = connection.execute(insert(EVENTS).values(event_id=event["id"], body=json.dumps(event)))
    newest = written.inserted_primary_key[0] if written.inserted_primary_key else 0
    too_old = EVENTS.c.sequence <= newest - keep
    if (cursor := oldest_cursor(connection)) is not None:
        too_old &= EVENTS.c.sequence <= cursor
    connection.execute(delete(EVENTS).where(too_old))


def read_events(connection: Connection, *, after: int, limit: int | None = None) -> list[tuple[int, dict[str, Any]]]:
    """Events with their sequence numbers, oldest first: the first ``limit`` of those after ``after``."""
    statement = select(EVENTS).where(EVENTS.c.sequence > after).order_by(EVENTS.c.sequence).limit(limit)
    return [(row.sequence, json.loads(row.body)) for row in connection.execute(statement)]


def sequence_before_newest(connection: Connection, count: int) -> int:
    """The sequence number after which the newest ``count`` events come; 0 if there are no more than that."""
    statement = select(EVENTS.c.sequence).order_by(EVENTS.c.sequence.desc()).offset(count).limit(1)
    return connection.execute(statement).scalar() or 0


def newest_sequence(connection: Connection) -> int:
    """The sequence number of the newest event; 0 if there is none."""
    return connection.execute(select(func.max(EVENTS.c.sequence))).scalar() or 0


def sequence_of(connection: Connection, event_id: str) -> int | None:
    """The sequence number of the event with this id; None if the catalog does not have it."""
    sequence: int | None = connection.execute(
        select(EVENTS.c.sequence).where(EVENTS.c.event_id == event_id)
    ).scalar_one_or_none()
    return sequence

"""`RuleRows`: the rules in the catalog, and what their targets have yet to get.

An event is written once, in the transaction of its change, and that is all it costs the command that caused it. Each
rule has a cursor, the last event it has looked at. Taking the next events in, that is moving the cursor and entering a
delivery for each target of the rule, is one transaction, and so is removing a delivery that has arrived. So a crash
anywhere can make a delivery happen twice, but never not at all.

Patterns and targets are text here; `ebscrypt.events` knows what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, literal, or_, select, update

from ebscrypt.catalog.tables import DELIVERIES, EVENTS, RULE_TARGETS, RULES
from ebscrypt.errors import RuleNotFound

CLOCK_LEAP: Final = 2 * 86_400.0
"""Seconds. What is due later than this from now was entered by a clock that went wrong; it is due at once."""


class StoredRule(msgspec.Struct, frozen=True):
    """A rule as it lies in the catalog; ``targets`` is target id → text."""

    name: str
    event_pattern: str
    enabled: bool
    description: str
    targets: Mapping[str, str]
    cursor: int = 0
    pending: int = 0


class Delivery(msgspec.Struct, frozen=True):
    """One event that one target has yet to get. ``created``: seconds since 1970 at which its rule took it in."""

    delivery_id: int
    rule_name: str
    target_id: str
    target: str
    body: str
    attempts: int
    created: float

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


class _Transaction(Protocol):
    def __call__(self, *, write: bool = False) -> AbstractContextManager[Connection]: ...


class RuleRows:
    """The rules of one catalog: what `Catalog.rules` gives."""

    def __init__(self, transaction: _Transaction) -> None:
        self._transaction = transaction

    def put(self, rule: StoredRule) -> None:
        """Enter a rule or replace it. A new one, and one that was disabled, wants events from now on.

        Targets whose id stays keep what they have yet to get, and it is due now: the reason why it could not be
        delivered may be gone. For those that go, it is dropped.
        """
        with self._transaction(write=True) as connection:
            known = connection.execute(select(RULES).where(RULES.c.name == rule.name)).one_or_none()
            cursor = known.cursor if known is not None and known.enabled else _newest(connection)
            values = {
                "event_pattern": rule.event_pattern,
                "enabled": rule.enabled,
                "description": rule.description,
                "cursor": cursor,
            }
            if known is None:
                connection.execute(insert(RULES).values(name=rule.name, **values))
            else:
                connection.execute(update(RULES).where(RULES.c.name == rule.name).values(**values))
            _replace_targets(connection, rule)
            of_rule = update(DELIVERIES).where(DELIVERIES.c.rule_name == rule.name)
            connection.execute(of_rule.values(due=DELIVERIES.c.created))

    def all(self) -> list[StoredRule]:
        """All rules by name, with the number of deliveries that are still to be made."""
        with self._transaction() as connection:
            return _rules(connection)

    def one(self, name: str) -> StoredRule:
        """The rule of this name. Raises `RuleNotFound`."""
        with self._transaction() as connection:
            found = [rule for rule in _rules(connection) if rule.name == name]
        if not found:
            raise RuleNotFound(f"there is no rule {name!r}", hint="`ebscrypt rule ls` lists them")
        return found[0]

    def remove(self, name: str) -> None:
        """Forget a rule with its targets and what they have yet to get. Raises `RuleNotFound`."""
        with self._transaction(write=True) as connection:
            if connection.execute(delete(RULES).where(RULES.c.name == name)).rowcount != 1:
                raise RuleNotFound(f"there is no rule {name!r}", hint="`ebscrypt rule ls` lists them")

    def is_work_left(self) -> bool:
        """Whether an enabled rule has events to look at, or a target something to get, be it due or not."""
        unseen = exists().where(RULES.c.enabled, RULES.c.cursor < select(func.max(EVENTS.c.sequence)).scalar_subquery())
        with self._transaction() as connection:
            return bool(connection.execute(select(or_(unseen, exists().where(DELIVERIES.c.delivery_id > 0)))).scalar())

    def unseen(self, rule: StoredRule, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """The next events that a rule has not looked at, oldest first, with their sequence numbers."""
        after = select(EVENTS).where(EVENTS.c.sequence > rule.cursor).order_by(EVENTS.c.sequence).limit(limit)
        with self._transaction() as connection:
            return [(row.sequence, json.loads(row.body)) for row in connection.execute(after)]

    def take_in(self, rule: StoredRule, cursor: int, matched: Collection[int], now: float) -> bool:
        """Move a rule's cursor and enter a delivery of each ``matched`` event for each of its targets.

        False, and nothing done, if the rule was changed since ``rule`` was read.
        """
        same = (
            (RULES.c.name == rule.name)
            & (RULES.c.cursor == rule.cursor)
            & (RULES.c.event_pattern == rule.event_pattern)
            & RULES.c.enabled
        )
        with self._transaction(write=True) as connection:
            if connection.execute(update(RULES).where(same).values(cursor=cursor)).rowcount != 1:
                return False
            for sequence in matched:
                rows = (
                    select(
                        RULE_TARGETS.c.rule_name,
                        RULE_TARGETS.c.target_id,
                        EVENTS.c.sequence,
                        EVENTS.c.body,
                        literal(0),
                        literal(now),
                        literal(now),
                    )
                    .join_from(RULE_TARGETS, EVENTS, EVENTS.c.sequence == sequence)
                    .where(RULE_TARGETS.c.rule_name == rule.name)
                )
                columns = ["rule_name", "target_id", "sequence", "body", "attempts", "created", "due"]
                connection.execute(insert(DELIVERIES).from_select(columns, rows))
            return True

    def due(self, now: float, busy: Collection[tuple[str, str]] = ()) -> Delivery | None:
        """The delivery that is due the longest, of targets (rule name, target id) that are not ``busy``."""
        statement = (
            select(DELIVERIES, RULE_TARGETS.c.body.label("target"))
            .join(RULE_TARGETS)
            .where(or_(DELIVERIES.c.due <= now, DELIVERIES.c.due > now + CLOCK_LEAP), *_not_of(busy))
            .order_by(DELIVERIES.c.due, DELIVERIES.c.delivery_id)
            .limit(1)
        )
        with self._transaction() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        return Delivery(
            delivery_id=row.delivery_id,
            rule_name=row.rule_name,
            target_id=row.target_id,
            target=row.target,
            body=row.body,
            attempts=row.attempts,
            created=row.created,
        )

    def next_due(self, busy: Collection[tuple[str, str]] = ()) -> float | None:
        """When the next delivery of a target that is not ``busy`` is due; None if there is none."""
        statement = select(func.min(DELIVERIES.c.due)).where(*_not_of(busy))
        with self._transaction() as connection:
            due: float | None = connection.execute(statement).scalar()
            return due

    def remove_delivery(self, delivery: Delivery) -> None:
        """It has arrived, or was given up."""
        with self._transaction(write=True) as connection:
            connection.execute(delete(DELIVERIES).where(DELIVERIES.c.delivery_id == delivery.delivery_id))

    def put_off(self, delivery: Delivery, due: float) -> None:
        """One more attempt has failed; the next is at ``due``."""
        with self._transaction(write=True) as connection:
            row = update(DELIVERIES).where(DELIVERIES.c.delivery_id == delivery.delivery_id)
            connection.execute(row.values(attempts=delivery.attempts + 1, due=due))


def oldest_cursor(connection: Connection) -> int | None:
    """The last event that every enabled rule has looked at; None without enabled rules."""
    cursor: int | None = connection.execute(select(func.min(RULES.c.cursor)).where(RULES.c.enabled)).scalar()
    return cursor


def _not_of(targets: Collection[tuple[str, str]]) -> list[ColumnElement[bool]]:
    return [
        or_(DELIVERIES.c.rule_name != rule_name, DELIVERIES.c.target_id != target_id)
        for rule_name, target_id in targets
    ]


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(EVENTS.c.sequence))).scalar() or 0


def _replace_targets(connection: Connection, rule: StoredRule) -> None:
    """Not by deleting all of them: that would take their deliveries along."""
    of_rule = RULE_TARGETS.c.rule_name == rule.name
    known = set(connection.execute(select(RULE_TARGETS.c.target_id).where(of_rule)).scalars())
    connection.execute(delete(RULE_TARGETS).where(of_rule, RULE_TARGETS.c.target_id.not_in(list(rule.targets))))
    for target_id, body in rule.targets.items():
        if target_id in known:
            row = update(RULE_TARGETS).where(of_rule, RULE_TARGETS.c.target_id == target_id)
            connection.execute(row.values(body=body))
        else:
            row_values = {"rule_name": rule.name, "target_id": target_id, "body": body}
            connection.execute(insert(RULE_TARGETS).values(**row_values))


def _rules(connection: Connection) -> list[StoredRule]:
    targets: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(RULE_TARGETS).order_by(RULE_TARGETS.c.target_id)):
        targets.setdefault(row.rule_name, {})[row.target_id] = row.body
    counted = select(DELIVERIES.c.rule_name, func.count()).group_by(DELIVERIES.c.rule_name)
    pending = {row[0]: row[1] for row in connection.execute(counted)}
    return [
        StoredRule(
            name=row.name,
            event_pattern=row.event_pattern,
            enabled=row.enabled,
            description=row.description,
            targets=targets.get(row.name, {}),
            cursor=row.cursor,
            pending=pending.get(row.name, 0),
        )
        for row in connection.execute(select(RULES).order_by(RULES.c.name))
    ]

"""Rules: a name, a pattern, and the targets that get what matches. As EventBridge's PutRule and PutTargets together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ebscrypt.catalog.rules import StoredRule
from ebscrypt.errors import InvalidParameter, MissingDependency, RuleNotFound
from ebscrypt.events.patterns import Pattern
from ebscrypt.events.targets import kinds
from ebscrypt.events.targets.kinds import Target, shown

if TYPE_CHECKING:
    from ebscrypt.catalog.catalog import Catalog

MOST_TARGETS: Final = 5
"""Targets of one rule (EventBridge's limit)."""
_LONGEST_DESCRIPTION: Final = 512
_NAME: Final = re.compile(r"[.\-_A-Za-z0-9]{1,64}")
_TARGET_ID: Final = _NAME
_ENVELOPE: Final = ("id", "account", "source", "time", "region", "resources", "detail-type")
"""What TestEventPattern wants of an event."""


class Rule(msgspec.Struct, frozen=True):
    """A rule with its targets by id. ``pending``: deliveries that are still to be made."""

    name: str
    event_pattern: str
    enabled: bool = True
    description: str = ""
    targets: Mapping[str, Target] = msgspec.field(default_factory=dict)
    pending: int = 0


def put_rule(
    catalog: Catalog,
    name: str,
    *,
    event_pattern: str | None = None,
    enabled: bool | None = None,
    description: str | None = None,
    targets: Mapping[str, Target] | None = None,
) -> Rule:
    """Make a rule, or change one: what is None stays as it is, or is what a new rule has without it.

    A new rule, and one that was disabled, gets the events from now on. Raises `InvalidEventPattern`,
    `InvalidParameter`, and `MissingDependency` for a new rule without a pattern.
    """
    check_name(name)
    old = _known(catalog, name)
    if old is None and event_pattern is None:
        raise MissingDependency(f"the rule {name} is new and has no pattern", hint="give it with --event-pattern")
    old = old or Rule(name, "")
    given = {"event_pattern": event_pattern, "enabled": enabled, "description": description, "targets": targets}
    rule = msgspec.structs.replace(old, **{field: value for field, value in given.items() if value is not None})
    _check(rule)
    catalog.rules.put(
        StoredRule(
            name=rule.name,
            event_pattern=rule.event_pattern,
            enabled=rule.enabled,
            description=rule.description,
            targets={target_id: kinds.encode(target) for target_id, target in rule.targets.items()},
        )
    )
    return _read(catalog.rules.one(name))


def list_rules(catalog: Catalog) -> list[Rule]:
    """All rules, by name."""
    return [_read(rule) for rule in catalog.rules.all()]


def delete_rule(catalog: Catalog, name: str) -> None:
    """Forget a rule, its targets, and what they have yet to get. Raises `RuleNotFound`."""
    check_name(name)
    catalog.rules.remove(name)


def test_event_pattern(event_pattern: str, event: Any) -> bool:
    """Whether a rule with this pattern would get this event, as EventBridge's TestEventPattern says it.

    Raises `InvalidEventPattern`, and `InvalidParameter` for an event without the members that each event has.
    """
    pattern = Pattern.compile(event_pattern)
    if not isinstance(event, dict):
        raise InvalidParameter("the event is not a JSON object")
    if missing := [name for name in _ENVELOPE if name not in event]:
        raise InvalidParameter(f"the event has no {', '.join(missing)}", hint=f"it needs {', '.join(_ENVELOPE)}")
    return pattern.matches(event)


def check_name(name: str) -> None:
    """Raise `InvalidParameter` unless EventBridge would take this name for a rule."""
    if _NAME.fullmatch(name) is None:
        raise InvalidParameter(
            f"{shown(name)} is not the name of a rule", hint="1 to 64 letters, digits, and any of . - _"
        )


def _check(rule: Rule) -> None:
    Pattern.compile(rule.event_pattern)
    if len(rule.description) > _LONGEST_DESCRIPTION:
        raise InvalidParameter(f"the description is longer than {_LONGEST_DESCRIPTION} characters")
    if len(rule.targets) > MOST_TARGETS:
        raise InvalidParameter(
            f"{len(rule.targets)} targets are given, and a rule has {MOST_TARGETS} at most", hint="make a second rule"
        )
    for target_id, target in rule.targets.items():
        if _TARGET_ID.fullmatch(target_id) is None:
            raise InvalidParameter(f"{shown(target_id)} is not the id of a target")
        kinds.check(target)


def _known(catalog: Catalog, name: str) -> Rule | None:
    try:
        return _read(catalog.rules.one(name))
    except RuleNotFound:
        return None


def _read(stored: StoredRule) -> Rule:
    return Rule(
        name=stored.name,
        event_pattern=stored.event_pattern,
        enabled=stored.enabled,
        description=stored.description,
        targets={target_id: kinds.decode(body) for target_id, body in stored.targets.items()},
        pending=stored.pending,
    )

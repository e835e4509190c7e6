"""From JSON text to branches: the ways in which an event can match, each a plain list of fields that must all hold.

`$or` is multiplied out, as AWS's engine does, because two conditions on one list must meet in the same element even
when one of them stands in an `$or`. A path given twice in one branch means what was written last, again as AWS does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

from ebscrypt.events.patterns.comparisons import Comparison
from ebscrypt.events.patterns.operators import Absent, JsonObject, alternative
from ebscrypt.events.patterns.refusal import Place, refusal, shown

MAX_LENGTH: Final = 4096
"""Characters in a pattern (EventBridge PutRule)."""
MAX_COMBINATIONS: Final = 1000
"""Branches that the `$or`s of a pattern may multiply out to (EventBridge guide, "$or matching")."""
MAX_DEPTH: Final = 64
"""Objects and lists inside one another, and names in a path. Ours: AWS gives no number; an EBS event is four deep."""
MAX_FIELDS: Final = 100_000
"""Fields of all branches together. Ours: it keeps 4096 characters of `$or` from filling the memory."""

RESERVED_IN_OR: Final = frozenset(
    {"exactly", "equals-ignore-case", "prefix", "suffix", "anything-but", "exists", "wildcard", "numeric", "cidr"}
    | {"=", "<", "<=", ">", ">="}
    | {"regex", "not-wildcard", "not-equals-ignore-case", "ip-address-in-range", "ip-address-not-in-range"}
    | {"date-after", "date-on-or-after", "date-before", "date-on-or-before", "in-date-range"}
)
"""Field names that AWS's engine keeps for itself inside `$or` (event-ruler's Constants)."""


@dataclass(frozen=True, slots=True)
class Field:
    """The alternatives of one field, of which one must hold."""

    comparisons: tuple[Comparison, ...]
    may_be_absent: bool

    def holds(self, values: list[object]) -> bool:
        """Whether a field with these values, which may be none, is what the pattern wants."""
        if not values:
            return self.may_be_absent
        return any(comparison.holds(value) for value in values for comparison in self.comparisons)


Branch: TypeAlias = dict[str, Field]
"""Fields by path, the names joined by dots: to AWS's engine, a dot in a name and a step inwards are the same."""


def branches_of(text: str) -> list[Branch]:
    """The branches of a pattern's JSON text, at least one; raises `InvalidEventPattern`."""
    if len(text) > MAX_LENGTH:
        raise refusal((), f"it has {len(text)} characters, EventBridge takes {MAX_LENGTH}", hint="make two rules of it")
    if _depth(text) > MAX_DEPTH:
        raise refusal((), f"more than {MAX_DEPTH} objects and lists inside one another")
    value = _json(text)
    if not isinstance(value, JsonObject):
        raise refusal((), "must be a JSON object", hint='for example {"source": ["aws.ec2"]}')
    branches: list[Branch] = [{}]
    _read_object(value, (), branches, (), inside_or=False)
    return branches


def _depth(text: str) -> int:
    """How deep brackets stand inside one another; measured before anything that recurses sees the text."""
    deepest = depth = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
        else:
            quoted = character == '"'
    return deepest


def _json(text: str) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> JsonObject:
        return JsonObject(tuple(pairs))

    try:
        return json.loads(
            text, object_pairs_hook=members, parse_int=Decimal, parse_float=Decimal, parse_constant=_no_constant
        )
    except InvalidOperation:
        raise refusal((), "a number with an exponent that cannot be") from None
    except ValueError as problem:
        raise refusal((), f"is not JSON: {problem}") from problem


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _read_object(
    value: JsonObject, names: tuple[str, ...], branches: list[Branch], at: Place, *, inside_or: bool
) -> None:
    """Add the object's fields to every branch, in place; an `$or` leaves more branches than it found."""
    if not value.members:
        raise refusal(at, "an empty object", hint="name at least one field")
    for name, member in value.members:
        here = (*at, name)
        if name == "$or":
            _read_or(member, names, branches, here)
            continue
        if inside_or and name in RESERVED_IN_OR:
            raise refusal(here, f"{name} is a reserved name and cannot be a field inside $or")
        inner = (*names, *name.split("."))
        if len(inner) > MAX_DEPTH:
            raise refusal(here, f"a path of more than {MAX_DEPTH} names")
        if isinstance(member, JsonObject):
            _read_object(member, inner, branches, here, inside_or=inside_or)
        elif isinstance(member, list):
            _set_field(branches, ".".join(inner), _read_field(member, here), here)
        else:
            raise refusal(here, "must be a list or an object", hint=f"write [{shown(member)}]")


def _read_or(value: Any, names: tuple[str, ...], branches: list[Branch], at: Place) -> None:
    if not isinstance(value, list) or len(value) < 2:
        raise refusal(at, "must be a list of two objects or more")
    before = branches.copy()
    branches.clear()
    for index, option in enumerate(value):
        here = (*at, index)
        if not isinstance(option, JsonObject):
            raise refusal(here, "must be an object")
        ways = [branch.copy() for branch in before]
        _read_object(option, names, ways, here, inside_or=True)
        branches += ways
        if len(branches) > MAX_COMBINATIONS:
            raise refusal(at, f"more than {MAX_COMBINATIONS} combinations", hint="make several rules of it")


def _set_field(branches: list[Branch], path: str, field: Field, at: Place) -> None:
    for branch in branches:
        branch[path] = field
    if sum(map(len, branches)) > MAX_FIELDS:
        raise refusal(at, f"more than {MAX_FIELDS} fields in all combinations", hint="make several rules of it")


def _read_field(entries: list[Any], at: Place) -> Field:
    if not entries:
        raise refusal(at, "an empty list matches nothing", hint="give at least one value")
    read = [alternative(entry, (*at, index)) for index, entry in enumerate(entries)]
    comparisons = tuple(found for found in read if not isinstance(found, Absent))
    return Field(comparisons, may_be_absent=len(comparisons) < len(read))

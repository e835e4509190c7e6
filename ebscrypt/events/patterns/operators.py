"""One alternative of a field's list, from JSON to a `Comparison`; whatever AWS's engine would not take is refused.

JSON arrives as `grammar` read it: objects are `JsonObject`, which keeps order and repeated names, numbers are Decimal.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from ebscrypt.events.patterns.comparisons import (
    AnythingBut,
    Between,
    Comparison,
    IgnoreCase,
    Literally,
    Network,
    Number,
    Prefix,
    Present,
    Suffix,
    Text,
    Wildcard,
)
from ebscrypt.events.patterns.refusal import Place, refusal, shown

NUMERIC_LIMIT: Final = Decimal(5_000_000_000)
"""The bounds of `numeric` go from minus this to this, inclusive (EventBridge guide, "numeric matching")."""
NUMERIC_DECIMALS: Final = 6
"""Decimals that a bound of `numeric` may have (the same)."""

_CIDR = re.compile(r"[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}")
_LOWER = {">": False, ">=": True}
_UPPER = {"<": False, "<=": True}


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A JSON object as it was written: its members in order, repeated names and all."""

    members: tuple[tuple[str, Any], ...]


class Absent:
    """What `exists` false reads as: not a statement about a value, but that the field has none."""


ABSENT: Final = Absent()


def alternative(value: Any, at: Place) -> Comparison | Absent:
    """What one entry of a field's list asks for; raises `InvalidEventPattern`."""
    match value:
        case str():
            return Text(value)
        case Decimal():
            return Number(value)
        case None | bool():
            return Literally(value)
        case JsonObject():
            name, argument = _only_member(value, at)
            read = _OPERATORS.get(name)
            if read is None:
                raise refusal(at, f"unknown operator {shown(name)}", hint=f"operators are {', '.join(_OPERATORS)}")
            return read(argument, (*at, name))
        case _:
            raise refusal(at, "a list inside a list", hint="write the alternatives in one list")


def _only_member(value: JsonObject, at: Place) -> tuple[str, Any]:
    if len(value.members) != 1:
        names = ", ".join(shown(name) for name, _ in value.members[:4]) or "none"
        raise refusal(at, f"an operator object has exactly one operator, found {names}")
    return value.members[0]


def _text(value: Any, at: Place) -> str:
    if not isinstance(value, str):
        raise refusal(at, f"must be a string, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    match value:
        case JsonObject():
            return "an object"
        case list():
            return "a list"
        case _:
            return shown(value)


def _at_either_end(part: Literal["start", "end"]) -> Callable[[Any, Place], Comparison]:
    plain: Callable[[str], Comparison] = Prefix if part == "start" else Suffix

    def read(value: Any, at: Place) -> Comparison:
        if not isinstance(value, JsonObject):
            return plain(_text(value, at))
        name, argument = _only_member(value, at)
        if name != "equals-ignore-case":
            raise refusal(at, f"unknown operator {shown(name)}", hint="only equals-ignore-case may stand in here")
        return IgnoreCase(_text(argument, (*at, name)), part)

    return read


def _equals_ignore_case(value: Any, at: Place) -> Comparison:
    return IgnoreCase(_text(value, at))


def _wildcard(value: Any, at: Place) -> Comparison:
    pieces, piece, starred = [], "", False
    characters = iter(_text(value, at))
    for character in characters:
        if character == "*" and starred:
            raise refusal(at, "two wildcards in a row", hint="one * already stands for any text")
        starred = character == "*"
        if starred:
            pieces.append(piece)
            piece = ""
        elif character != "\\":
            piece += character
        elif (escaped := next(characters, "")) in ("*", "\\"):
            piece += escaped
        else:
            raise refusal(at, f"a backslash before {shown(escaped)}", hint=r"a backslash may stand only in \* and \\")
    return Wildcard(pieces[0], tuple(pieces[1:]), piece) if pieces else Text(piece)


def _exists(value: Any, at: Place) -> Comparison | Absent:
    if not isinstance(value, bool):
        raise refusal(at, f"must be true or false, not {_kind(value)}")
    return Present() if value else ABSENT


def _cidr(value: Any, at: Place) -> Comparison:
    text = _text(value, at)
    try:
        # A netmask for the bits is Python's liberty, not AWS's.
        network = ipaddress.ip_network(text, strict=False) if _CIDR.fullmatch(text) else None
    except ValueError:
        network = None
    if network is None:
        raise refusal(at, f"{shown(text)} is not an IP network", hint="for example 10.0.0.0/24 or 2001:db8::/32")
    if network.prefixlen == network.max_prefixlen:
        raise refusal(at, f"{shown(text)} is one address", hint="EventBridge takes one only as a plain string")
    return Network(network)


def _numeric(value: Any, at: Place) -> Comparison:
    if not isinstance(value, list):
        raise refusal(at, f"must be a list, not {_kind(value)}", hint='write it as ["=", 5] or [">", 0, "<=", 5]')
    match value:
        case ["=", number]:
            exact = _bound(number, (*at, 1))
            return Between(exact, True, exact, True)
        case [str(sign), number] if sign in _LOWER:
            return Between(_bound(number, (*at, 1)), _LOWER[sign], None, False)
        case [str(sign), number] if sign in _UPPER:
            return Between(None, False, _bound(number, (*at, 1)), _UPPER[sign])
        case [str(sign), number, str(second), other] if sign in _LOWER and second in _UPPER:
            low, high = _bound(number, (*at, 1)), _bound(other, (*at, 3))
            if low >= high:
                raise refusal(at, f"the lower bound {low} is not below the upper bound {high}")
            return Between(low, _LOWER[sign], high, _UPPER[second])
        case _:
            raise refusal(
                at,
                "not a numeric comparison",
                hint='write ["=", 5], a bound as [">", 5] or ["<=", 5], or a lower and then an upper one',
            )


def _bound(value: Any, at: Place) -> Decimal:
    if not isinstance(value, Decimal):
        raise refusal(at, f"must be a number, not {_kind(value)}")
    if not -NUMERIC_LIMIT <= value <= NUMERIC_LIMIT or _decimals(value) > NUMERIC_DECIMALS:
        raise refusal(
            at,
            f"{shown(value)} is beyond what numeric takes",
            hint=f"from -{NUMERIC_LIMIT} to {NUMERIC_LIMIT}, with at most {NUMERIC_DECIMALS} decimals",
        )
    return value


def _decimals(value: Decimal) -> int:
    """Digits after the point, trailing zeros left out; counted, because arithmetic would round them away."""
    _, digits, exponent = value.as_tuple()
    significant = "".join(map(str, digits)).rstrip("0")
    return len(significant) - len(digits) - int(exponent) if significant else 0


def _anything_but(value: Any, at: Place) -> Comparison:
    if isinstance(value, JsonObject):
        name, argument = _only_member(value, at)
        if name not in _NEGATABLE:
            hint = f"anything-but takes values or one of {', '.join(_NEGATABLE)}"
            raise refusal(at, f"{shown(name)} cannot be negated", hint=hint)
        at = (*at, name)
        return AnythingBut(tuple(_negated(name, entry, place) for entry, place in _entries(argument, at)))
    entries = _entries(value, at)
    for entry, place in entries:
        if not isinstance(entry, str | Decimal):
            raise refusal(place, f"must be a string or a number, not {_kind(entry)}")
    if len({type(entry) for entry, _ in entries}) > 1:
        raise refusal(at, "strings and numbers in one list", hint="EventBridge takes a list of one kind only")
    return AnythingBut(tuple(Text(entry) if isinstance(entry, str) else Number(entry) for entry, _ in entries))


def _entries(value: Any, at: Place) -> list[tuple[Any, Place]]:
    if not isinstance(value, list):
        return [(value, at)]
    if not value:
        raise refusal(at, "an empty list excludes nothing", hint="use exists to take any value")
    return [(entry, (*at, index)) for index, entry in enumerate(value)]


def _negated(name: str, entry: Any, at: Place) -> Comparison:
    if _text(entry, at) == "" and name in ("prefix", "suffix"):
        raise refusal(at, f"every string has the empty {name}", hint=f"give the {name} at least one character")
    return _NEGATABLE[name](entry, at)


_NEGATABLE: Final[dict[str, Callable[[Any, Place], Comparison]]] = {
    "prefix": _at_either_end("start"),
    "suffix": _at_either_end("end"),
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
}
_OPERATORS: Final[dict[str, Callable[[Any, Place], Comparison | Absent]]] = {
    **_NEGATABLE,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "exists": _exists,
    "cidr": _cidr,
}

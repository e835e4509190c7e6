"""What one alternative in a pattern's list says of one value of an event; nothing here can fail.

A value is a JSON scalar: text, number, true, false or null. Numbers are compared by value (300 is 300.0), as AWS does
and against the sentence in AWS's guide; text is compared character by character, never normalised.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol

_LONGEST_ADDRESS = 45
"""Characters of the longest text for an IPv6 address, the form that ends in dotted IPv4."""


class Comparison(Protocol):
    """One alternative of a field."""

    def holds(self, value: object) -> bool:
        """Whether this value of an event is one that the alternative wants."""


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this string."""

    wanted: str

    def holds(self, value: object) -> bool:
        return isinstance(value, str) and value == self.wanted


@dataclass(frozen=True, slots=True)
class Number:
    """A number of this value, however it is written."""

    wanted: Decimal

    def holds(self, value: object) -> bool:
        return number_of(value) == self.wanted


@dataclass(frozen=True, slots=True)
class Literally:
    """true, false or null."""

    wanted: bool | None

    def holds(self, value: object) -> bool:
        return value is self.wanted


@dataclass(frozen=True, slots=True)
class Present:
    """Any value at all: what `exists` true asks of a field that has one."""

    def holds(self, value: object) -> bool:  # noqa: ARG002 (the protocol's signature; every value will do)
        return True


@dataclass(frozen=True, slots=True)
class Prefix:
    wanted: str

    def holds(self, value: object) -> bool:
        return isinstance(value, str) and value.startswith(self.wanted)


@dataclass(frozen=True, slots=True)
class Suffix:
    wanted: str

    def holds(self, value: object) -> bool:
        return isinstance(value, str) and value.endswith(self.wanted)


@dataclass(frozen=True, slots=True)
class IgnoreCase:
    """This text in any casing: all of the value, its start or its end.

    Each character may stand as it is, in its lower or in its upper case, whose length may differ (ß is SS).
    """

    wanted: str
    part: Literal["all", "start", "end"] = "all"

    def holds(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        backwards = self.part == "end"
        wanted, text = (self.wanted[::-1], value[::-1]) if backwards else (self.wanted, value)
        reached = {0}
        for character in wanted:
            casings = {character, character.lower(), character.upper()}
            if backwards:
                casings = {casing[::-1] for casing in casings}
            reached = {at + len(casing) for at in reached for casing in casings if text.startswith(casing, at)}
            if not reached:
                return False
        return self.part != "all" or len(text) in reached


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Text with stars in it: what stands before the first star, between the stars, and after the last one."""

    start: str
    middle: tuple[str, ...]
    end: str

    def holds(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        at, end = len(self.start), len(value) - len(self.end)
        if end < at or not (value.startswith(self.start) and value.endswith(self.end)):
            return False
        # The leftmost place for a piece leaves the most room for those after it, so nothing is ever tried twice.
        for piece in self.middle:
            found = value.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


@dataclass(frozen=True, slots=True)
class Between:
    """A number between two bounds, either of which may be missing."""

    low: Decimal | None
    low_included: bool
    high: Decimal | None
    high_included: bool

    def holds(self, value: object) -> bool:
        number = number_of(value)
        if number is None:
            return False
        above = self.low is None or number > self.low or (self.low_included and number == self.low)
        below = self.high is None or number < self.high or (self.high_included and number == self.high)
        return above and below


@dataclass(frozen=True, slots=True)
class Network:
    """The text of an IP address in this network; an IPv4 network holds no IPv6 address."""

    wanted: ipaddress.IPv4Network | ipaddress.IPv6Network

    def holds(self, value: object) -> bool:
        # An address with a zone (fe80::1%eth0) belongs to one host's interface, not to a network.
        if not isinstance(value, str) or len(value) > _LONGEST_ADDRESS or "%" in value:
            return False
        try:
            return ipaddress.ip_address(value) in self.wanted
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class AnythingBut:
    """Every value, of any type, for which none of these holds."""

    unwanted: tuple[Comparison, ...]

    def holds(self, value: object) -> bool:
        return not any(comparison.holds(value) for comparison in self.unwanted)


def number_of(value: object) -> Decimal | None:
    """The exact value of a JSON number, or None of anything else (true is no number, and infinity none of JSON's)."""
    match value:
        case bool():
            return None
        case int():
            return Decimal(value)
        case float():
            # The shortest text that reads back as this float is what a JSON writer sends: 0.1 is 0.1.
            return Decimal(repr(value)) if math.isfinite(value) else None
        case Decimal():
            return value if value.is_finite() else None
        case _:
            return None

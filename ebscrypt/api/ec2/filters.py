"""EC2's filters: values within one are alternatives, several must all hold (facts §6.6).

``*`` stands for any characters, ``?`` for one; a backslash takes the meaning from either. Case matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar

from ebscrypt.api.errors import ApiError
from ebscrypt.api.protocol import scalars

Item = TypeVar("Item")
Values = Callable[[Item], Iterable[Any]]
"""What an item has for a filter to match: one of them must."""

MOST_VALUES: Final = 200
"""Values of all filters of a request (AWS's own limit)."""
_TAG: Final = "tag:"


def select(
    items: Iterable[Item],
    filters: list[dict[str, Any]],
    known: Mapping[str, Values[Item]],
    tags: Callable[[Item], Mapping[str, str]] | None = None,
) -> list[Item]:
    """The items that all filters let through. ``known`` has the filters by name, ``tags`` makes the three for tags.

    Raises `ApiError` for an unknown filter, one without values, and far too many values.
    """
    if sum(len(wanted.get("Values", ())) for wanted in filters) > MOST_VALUES:
        raise ApiError("FilterLimitExceeded", f"The request has more than {MOST_VALUES} filter values.")
    tests = [_test(wanted, known, tags) for wanted in filters]
    return [item for item in items if all(test(item) for test in tests)]


def _test(
    wanted: dict[str, Any], known: Mapping[str, Values[Item]], tags: Callable[[Item], Mapping[str, str]] | None
) -> Callable[[Item], bool]:
    name = wanted.get("Name", "")
    patterns = [_pattern(value) for value in wanted.get("Values", ())]
    if not patterns:
        raise ApiError("InvalidParameterValue", f"The filter '{name[:80]}' has no values.")
    values = _values(name, known, tags)
    return lambda item: any(
        _matches(pattern, scalars.write(value)) for value in values(item) if value is not None for pattern in patterns
    )


def _values(
    name: str, known: Mapping[str, Values[Item]], tags: Callable[[Item], Mapping[str, str]] | None
) -> Values[Item]:
    if tags is not None and name.startswith(_TAG):
        key = name.removeprefix(_TAG)
        return lambda item: [value for tag, value in tags(item).items() if tag == key]
    if tags is not None and name == "tag-key":
        return lambda item: tags(item).keys()
    if tags is not None and name == "tag-value":
        return lambda item: tags(item).values()
    if name not in known:
        raise ApiError("InvalidParameterValue", f"The filter '{name[:80]}' is invalid")
    return known[name]


_ANY: Final = "*"
_ONE: Final = "?"
_Pattern = tuple[tuple[bool, str], ...]
"""Characters, and whether each is a wildcard."""


@lru_cache(maxsize=1024)
def _pattern(text: str) -> _Pattern:
    parts: list[tuple[bool, str]] = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts.append((False, next(characters, character)))
        else:
            parts.append((character in (_ANY, _ONE), character))
    return tuple(parts)


def _matches(pattern: _Pattern, text: str) -> bool:
    """Whether all of ``text`` is what ``pattern`` describes.

    Goes back to the last ``*`` only, so it takes len(pattern) × len(text) steps at most: a regular expression with as
    many ``.*`` could keep the server busy for ever.
    """
    at = place = 0
    star, resume = -1, 0
    while place < len(text):
        wild, character = pattern[at] if at < len(pattern) else (False, "")
        if wild and character == _ANY:
            star, resume = at, place
            at += 1
        elif (wild and character == _ONE) or (character == text[place] and not wild):
            at, place = at + 1, place + 1
        elif star >= 0:
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return all(part == (True, _ANY) for part in pattern[at:])

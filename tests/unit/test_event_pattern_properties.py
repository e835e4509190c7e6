"""A second, naive evaluator agrees with the first; wildcards agree with a textbook table; the work stays in bounds."""

import ipaddress
import json
import operator
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ebscrypt.events.patterns import Pattern
from ebscrypt.events.patterns.comparisons import Wildcard

Where = dict[int, int]
"""Lists on the way to a value, by identity, and the index taken in each."""
COMPARE = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def naive(pattern: dict[str, Any], event: dict[str, Any]) -> bool:
    """AWS's documented rules, by brute force: flatten the event, multiply out the pattern, try everything."""
    fields = list(flattened(event, "", {}))
    return any(satisfied(sorted(dict(way).items()), fields, {}) for way in multiplied_out(pattern, ""))


def multiplied_out(pattern: dict[str, Any], prefix: str) -> list[list[tuple[str, list[Any]]]]:
    ways: list[list[tuple[str, list[Any]]]] = [[]]
    for name, value in pattern.items():
        if name == "$or":
            more = [way for option in value for way in multiplied_out(option, prefix)]
        elif isinstance(value, dict):
            more = multiplied_out(value, f"{prefix}{name}.")
        else:
            more = [[(prefix + name, value)]]
        ways = [way + then for way in ways for then in more]
    return ways


def flattened(value: Any, path: str, where: Where) -> Iterator[tuple[str, Any, Where]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flattened(inner, f"{path}.{name}" if path else name, where)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from flattened(inner, path, where | {id(value): index} if isinstance(inner, dict | list) else where)
    else:
        yield path, value, where


def satisfied(wanted: list[tuple[str, list[Any]]], fields: list[tuple[str, Any, Where]], chosen: Where) -> bool:
    """Whether each path finds a value, or its absence, with one index only for each list."""
    if not wanted:
        return True
    (path, alternatives), *rest = wanted
    there = [
        (value, where)
        for name, value, where in fields
        if name == path and all(chosen.get(array, index) == index for array, index in where.items())
    ]
    if not there and {"exists": False} in alternatives and satisfied(rest, fields, chosen):
        return True
    return any(
        any(says(alternative, value) for alternative in alternatives) and satisfied(rest, fields, chosen | where)
        for value, where in there
    )


def glob(text: str, wanted: str) -> bool:
    pieces = [re.sub(r"\\(.)", r"\1", piece) for piece in re.split(r"(?<!\\)\*", wanted)]
    return re.fullmatch(".*".join(map(re.escape, pieces)), text) is not None


def at_an_end(test: Callable[[str, str], bool]) -> Callable[[str, Any], bool]:
    def says_of(text: str, wanted: Any) -> bool:
        ignoring = isinstance(wanted, dict)
        return test(text.lower(), wanted["equals-ignore-case"].lower()) if ignoring else test(text, wanted)

    return says_of


OF_TEXT: dict[str, Callable[[str, Any], bool]] = {
    "prefix": at_an_end(str.startswith),
    "suffix": at_an_end(str.endswith),
    "equals-ignore-case": lambda text, wanted: text.lower() == wanted.lower(),
    "wildcard": glob,
    "cidr": lambda text, network: text.count(".") == 3 and ipaddress.ip_address(text) in ipaddress.ip_network(network),
}


def says(alternative: Any, value: Any) -> bool:
    if not isinstance(alternative, dict):
        return type(alternative) is type(value) and bool(alternative == value)
    ((name, argument),) = alternative.items()
    if name == "exists":
        return bool(argument)
    if name == "numeric":
        terms = zip(argument[::2], argument[1::2], strict=True)
        return type(value) is int and all(COMPARE[sign](value, number) for sign, number in terms)
    if name == "anything-but":
        return not any(says(entry, value) for entry in excluded(argument))
    return isinstance(value, str) and OF_TEXT[name](value, argument)


def excluded(argument: Any) -> list[Any]:
    if isinstance(argument, dict):
        ((name, inner),) = argument.items()
        return [{name: entry} for entry in excluded(inner)]
    return argument if isinstance(argument, list) else [argument]


texts = st.sampled_from(["", "a", "b", "A", "ab", "aB", "ba", "aab", "a*b", "10.0.0.1", "10.0.1.1"])
numbers = st.integers(-1, 2)
some_texts = texts | st.lists(texts, min_size=1, max_size=2)
filled = texts.filter(bool)
wildcards = st.lists(st.sampled_from(["a", "b", "A", r"\*", "*"]), max_size=5).map(
    lambda parts: re.sub(r"(?<!\\)\*(?:\*)+", "*", "".join(parts))
)
scalars = texts | numbers | st.booleans() | st.none()
alternatives = st.one_of(
    scalars,
    *[st.booleans().map(lambda there: {"exists": there})] * 3,
    *[st.just({"anything-but": "zz"})] * 3,  # holds of any value, so that a good part of the patterns match
    texts.map(lambda text: {"prefix": text}),
    texts.map(lambda text: {"suffix": {"equals-ignore-case": text}}),
    texts.map(lambda text: {"equals-ignore-case": text}),
    wildcards.map(lambda text: {"wildcard": text}),
    some_texts.map(lambda texts: {"anything-but": texts}),
    numbers.map(lambda number: {"anything-but": number}),
    some_texts.map(lambda texts: {"anything-but": {"equals-ignore-case": texts}}),
    filled.map(lambda text: {"anything-but": {"suffix": text}}),
    wildcards.map(lambda text: {"anything-but": {"wildcard": [text]}}),
    st.tuples(st.sampled_from(list(COMPARE)), numbers).map(lambda pair: {"numeric": list(pair)}),
    numbers.map(lambda number: {"numeric": [">", number, "<=", number + 1]}),
    st.sampled_from(["10.0.0.0/24", "10.0.0.0/8"]).map(lambda network: {"cidr": network}),
)
names = st.sampled_from("ab")
event_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(st.dictionaries(names, inner, min_size=1) | inner, max_size=3) | st.dictionaries(names, inner)
    ),
    max_leaves=16,
)
events = st.fixed_dictionaries({"a": event_values}, optional={"b": event_values, "c": scalars})
leaves = st.dictionaries(
    names | st.sampled_from(["a.a", "a.b"]), st.lists(alternatives, min_size=1, max_size=4), min_size=1, max_size=2
)
patterns = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(names, inner, min_size=1, max_size=2)
        | st.tuples(leaves, inner, inner).map(lambda parts: {**parts[0], "$or": list(parts[1:])})
    ),
    max_leaves=4,
)


@settings(max_examples=400)
@given(pattern=patterns, event=events)
def test_the_naive_evaluator_agrees(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    """Two ways of reading the same rules, one by a tree of choices and one by trying everything, give one answer."""
    assert Pattern.compile(pattern).matches(event) is naive(pattern, event)


@given(event=events)
def test_a_pattern_made_of_an_event_matches_it(event: dict[str, Any]) -> None:
    """Writing an event's plain fields down as a pattern gives one that matches it."""
    own = {path: [value] for path, value, where in flattened(event, "", {}) if not where}
    assert not own or Pattern.compile(json.dumps(own)).matches(event)


def by_table(wanted: str, text: str) -> bool:
    """The textbook's table for wildcards: which starts of ``wanted`` match which starts of ``text``."""
    row = [True] + [False] * len(text)
    for symbol in wanted:
        if symbol == "*":
            row = [any(row[: at + 1]) for at in range(len(row))]
        else:
            row = [False] + [row[at] and text[at] == symbol for at in range(len(text))]
    return row[-1]


@settings(max_examples=400)
@given(
    wanted=st.lists(st.sampled_from(["a", "b", "ab", "*"]), max_size=8).map("".join),
    text=st.text(alphabet="ab", max_size=12),
)
@example(wanted="a*ab*b", text="aab")
@example(wanted="ab*ba", text="aba")
def test_a_wildcard_matches_what_the_table_says(wanted: str, text: str) -> None:
    """Every piece in order, the first at the start and the last at the end, none overlapping."""
    wanted = re.sub(r"\*+", "*", wanted)
    assert Pattern.compile({"a": [{"wildcard": wanted}]}).matches({"a": text}) is by_table(wanted, text)


class CountedText(str):
    """Text that counts the characters which searches go through."""

    __slots__ = ("read",)

    def find(self, sub: str, start: SupportsIndex | None = 0, end: SupportsIndex | None = None, /) -> int:
        found = super().find(sub, start, end)
        stop = found + len(sub) if found >= 0 else int(len(self) if end is None else end)
        self.read = getattr(self, "read", 0) + stop - int(start or 0)
        return found


def test_a_wildcard_goes_through_a_text_once() -> None:
    """Many stars on a text that almost matches: where a backtracking matcher takes ages, nothing is read twice."""
    stars = Wildcard("a", ("a",) * 1000 + ("b",), "a")
    text = CountedText("a" * 20_000)
    assert not stars.holds(text)
    assert 0 < text.read <= len(text)


def calls(action: Callable[[], object]) -> int:
    """How many calls, of Python or C functions, the action makes: the same on every machine at every time."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def beside_one_another(size: int) -> dict[str, Any]:
    return {name: [{"x": 1, "y": index} for index in range(size)] for name in "abcd"}


def inside_one_another(size: int) -> dict[str, Any]:
    return {"a": [{"b": [{"x": 1, "y": index} for index in range(10)]} for _ in range(size // 10)]}


def lists_in_lists(size: int) -> dict[str, Any]:
    value: list[Any] = []
    for _ in range(size):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    ("pattern", "event"),
    [
        ({name: {"x": [1], "y": [{"anything-but": "z"}]} for name in "abc"} | {"d": {"z": [1]}}, beside_one_another),
        ({name: {"x": [{"exists": False}, 1], "y": [2]} for name in "abc"} | {"d": {"z": [1]}}, beside_one_another),
        ({"a": {"b": {"x": [1], "y": [{"exists": False}, -1]}}}, inside_one_another),
        ({"a": {"b": [{"exists": True}]}}, lists_in_lists),
    ],
)
def test_the_work_grows_as_the_event_does(pattern: dict[str, Any], event: Callable[[int], dict[str, Any]]) -> None:
    """Twice the event is twice the work: no combinations of lists are tried, and the event's depth is no danger."""
    compiled = Pattern.compile(pattern)
    small, large = event(1000), event(2000)
    assert not compiled.matches(large)
    assert calls(lambda: compiled.matches(large)) <= 2.2 * calls(lambda: compiled.matches(small))

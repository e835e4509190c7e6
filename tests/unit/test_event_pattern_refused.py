"""Patterns that are refused: always with the one typed error, which names the place, and never with anything else."""

import json
from typing import Any

import pytest

from ebscrypt import errors
from ebscrypt.errors import InvalidEventPattern
from ebscrypt.events.patterns import MAX_COMBINATIONS, MAX_DEPTH, MAX_FIELDS, MAX_LENGTH, Pattern


def refused(source: Any) -> InvalidEventPattern:
    with pytest.raises(InvalidEventPattern) as caught:
        Pattern.compile(source)
    return caught.value


@pytest.mark.parametrize(
    ("pattern", "place", "why"),
    [
        ("[]", "event pattern:", "must be a JSON object"),
        ("7", "event pattern:", "must be a JSON object"),
        ("{}", "event pattern:", "an empty object"),
        ("", "event pattern:", "not JSON"),
        ('{"a": [1],}', "event pattern:", "not JSON"),
        ('{"a": [1]} x', "event pattern:", "not JSON"),
        ('{"a": [NaN]}', "event pattern:", "NaN"),
        ('{"a": [-Infinity]}', "event pattern:", "-Infinity"),
        ('{"a": [1e99999999999999999999]}', "event pattern:", "exponent"),
        ('{"a": "x"}', "at a:", "must be a list or an object"),
        ('{"a": {"b": 7}}', "at a.b:", "must be a list or an object"),
        ('{"a": {"b": {}}}', "at a.b:", "an empty object"),
        ('{"a": []}', "at a:", "an empty list"),
        ('{"a": ["x", ["y"]]}', "at a[1]:", "a list inside a list"),
        ('{"a": [{}]}', "at a[0]:", "exactly one operator"),
        ('{"a": [{"prefix": "x", "suffix": "y"}]}', "at a[0]:", "exactly one operator"),
        ('{"a": [{"prefix": "x", "prefix": "y"}]}', "at a[0]:", "exactly one operator"),
        ('{"a": [{"prefx": "x"}]}', "at a[0]:", 'unknown operator "prefx"'),
        ('{"a": [{"PREFIX": "x"}]}', "at a[0]:", 'unknown operator "PREFIX"'),
        ('{"a": [{"prefix": 7}]}', "at a[0].prefix:", "must be a string, not 7"),
        ('{"a": [{"prefix": null}]}', "at a[0].prefix:", "must be a string, not null"),
        ('{"a": [{"suffix": ["x"]}]}', "at a[0].suffix:", "must be a string, not a list"),
        ('{"a": [{"prefix": {"wildcard": "x"}}]}', "at a[0].prefix:", "unknown operator"),
        ('{"a": [{"suffix": {"equals-ignore-case": 1}}]}', "at a[0].suffix.equals-ignore-case:", "must be a string"),
        ('{"a": [{"equals-ignore-case": ["x"]}]}', "at a[0].equals-ignore-case:", "must be a string"),
        ('{"a": [{"wildcard": "a**b"}]}', "at a[0].wildcard:", "two wildcards"),
        (r'{"a": [{"wildcard": "a\\b"}]}', "at a[0].wildcard:", "backslash"),
        (r'{"a": [{"wildcard": "a\\"}]}', "at a[0].wildcard:", "backslash"),
        ('{"a": [{"wildcard": {"x": 1}}]}', "at a[0].wildcard:", "must be a string, not an object"),
        ('{"a": [{"exists": "true"}]}', "at a[0].exists:", "must be true or false"),
        ('{"a": [{"exists": null}]}', "at a[0].exists:", "must be true or false"),
        ('{"a": [{"cidr": "10.0.0.0"}]}', "at a[0].cidr:", "not an IP network"),
        ('{"a": [{"cidr": "10.0.0/8"}]}', "at a[0].cidr:", "not an IP network"),
        ('{"a": [{"cidr": "10.0.0.256/8"}]}', "at a[0].cidr:", "not an IP network"),
        ('{"a": [{"cidr": "10.0.0.0/255.0.0.0"}]}', "at a[0].cidr:", "not an IP network"),
        ('{"a": [{"cidr": "10.0.0.0/33"}]}', "at a[0].cidr:", "not an IP network"),
        ('{"a": [{"cidr": "10.0.0.0/32"}]}', "at a[0].cidr:", "one address"),
        ('{"a": [{"cidr": "::1/128"}]}', "at a[0].cidr:", "one address"),
        ('{"a": [{"cidr": "fe80::%eth0/64"}]}', "at a[0].cidr:", "not an IP network"),
        ('{"a": [{"cidr": 10}]}', "at a[0].cidr:", "must be a string"),
        ('{"a": [{"numeric": 5}]}', "at a[0].numeric:", "must be a list"),
        ('{"a": [{"numeric": []}]}', "at a[0].numeric:", "not a numeric comparison"),
        ('{"a": [{"numeric": ["!=", 5]}]}', "at a[0].numeric:", "not a numeric comparison"),
        ('{"a": [{"numeric": ["="]}]}', "at a[0].numeric:", "not a numeric comparison"),
        ('{"a": [{"numeric": ["=", 5, "<", 6]}]}', "at a[0].numeric:", "not a numeric comparison"),
        ('{"a": [{"numeric": ["<", 5, ">", 1]}]}', "at a[0].numeric:", "not a numeric comparison"),
        ('{"a": [{"numeric": [">", 1, ">", 2]}]}', "at a[0].numeric:", "not a numeric comparison"),
        ('{"a": [{"numeric": [">", 5, "<=", 5]}]}', "at a[0].numeric:", "not below the upper bound"),
        ('{"a": [{"numeric": [">", "5"]}]}', "at a[0].numeric[1]:", "must be a number"),
        ('{"a": [{"numeric": [">", true]}]}', "at a[0].numeric[1]:", "must be a number"),
        ('{"a": [{"numeric": [">", 0, "<", null]}]}', "at a[0].numeric[3]:", "must be a number"),
        ('{"a": [{"numeric": [">", 5000000001]}]}', "at a[0].numeric[1]:", "beyond"),
        ('{"a": [{"numeric": [">", 5000000000.0000000000000000000000000001]}]}', "at a[0].numeric[1]:", "beyond"),
        ('{"a": [{"numeric": [">", 0.0000001]}]}', "at a[0].numeric[1]:", "beyond"),
        ('{"a": [{"anything-but": []}]}', "at a[0].anything-but:", "an empty list"),
        ('{"a": [{"anything-but": null}]}', "at a[0].anything-but:", "must be a string or a number"),
        ('{"a": [{"anything-but": ["x", true]}]}', "at a[0].anything-but[1]:", "must be a string or a number"),
        ('{"a": [{"anything-but": ["x", 1]}]}', "at a[0].anything-but:", "strings and numbers"),
        ('{"a": [{"anything-but": {}}]}', "at a[0].anything-but:", "exactly one operator"),
        ('{"a": [{"anything-but": {"numeric": ["=", 1]}}]}', "at a[0].anything-but:", "cannot be negated"),
        ('{"a": [{"anything-but": {"prefix": []}}]}', "at a[0].anything-but.prefix:", "an empty list"),
        ('{"a": [{"anything-but": {"prefix": ""}}]}', "at a[0].anything-but.prefix:", "the empty prefix"),
        ('{"a": [{"anything-but": {"suffix": ["x", ""]}}]}', "at a[0].anything-but.suffix[1]:", "the empty suffix"),
        ('{"a": [{"anything-but": {"prefix": {"equals-ignore-case": "x"}}}]}', "anything-but.prefix:", "a string"),
        ('{"a": [{"anything-but": {"wildcard": ["x", "**"]}}]}', "anything-but.wildcard[1]:", "two wildcards"),
        ('{"$or": {"a": [1]}}', "at $or:", "two objects or more"),
        ('{"$or": [{"a": [1]}]}', "at $or:", "two objects or more"),
        ('{"x": {"$or": [{"a": [1]}, 7]}}', "at x.$or[1]:", "must be an object"),
        ('{"$or": [{"a": [1]}, {}]}', "at $or[1]:", "an empty object"),
        ('{"$or": [{"a": [1]}, {"b": {"prefix": ["x"]}}]}', "at $or[1].b.prefix:", "reserved"),
        ('{"größe": "x"}', "at größe:", "must be a list or an object"),
        (r'{"a\n\ud800": "x"}', r"at a\n\ud800:", "must be a list or an object"),
        ('{"": "x"}', 'at "":', "must be a list or an object"),
    ],
)
def test_a_malformed_pattern_is_refused_where_it_is_wrong(pattern: str, place: str, why: str) -> None:
    """The message names the place and the reason, on one line that any terminal can show."""
    error = refused(pattern)
    assert place in error.message
    assert why in error.message
    assert error.message.isprintable()
    assert (error.api_code, error.exit_status) == ("InvalidEventPatternException", 2)
    assert errors.from_record(error.record()).message == error.message


def nested(depth: int) -> str:
    return '{"a":' * (depth - 1) + "[1]" + "}" * (depth - 1)


def test_the_limits_are_where_they_are_said_to_be() -> None:
    """What is just within each limit is taken, what is just beyond it is refused."""
    longest = '{"a":["' + "x" * (MAX_LENGTH - 10) + '"]}'
    assert len(longest) == MAX_LENGTH
    assert Pattern.compile(longest).matches({"a": "x" * (MAX_LENGTH - 10)})
    assert f"{MAX_LENGTH + 1} characters" in refused(longest + " ").message
    assert Pattern.compile({"a": ["ü" * (MAX_LENGTH - 10)]}).text == longest.replace("x", "ü")

    Pattern.compile(nested(MAX_DEPTH))
    assert "inside one another" in refused(nested(MAX_DEPTH + 1)).message
    Pattern.compile({".".join("a" * MAX_DEPTH): [1]})
    assert "more than 64 names" in refused({".".join("a" * (MAX_DEPTH + 1)): [1]}).message


def test_brackets_and_quotes_inside_a_string_do_not_count_as_depth() -> None:
    """The depth is measured before the text is read as JSON, and still only counts what is structure."""
    text = '[{"\\' * 200
    assert Pattern.compile({"a": [text]}).matches({"a": text})


def either(ways: int, name: str) -> dict[str, Any]:
    return {"$or": [{name: [way]} for way in range(ways)]}


def test_or_multiplies_out_to_a_thousand_and_no_further() -> None:
    """10 × 10 × 10 combinations are taken and match; one branch more is refused, and the `$or` at fault named."""
    three = {"a": either(10, "x"), "b": either(10, "x"), "c": either(10, "x")}
    pattern = Pattern.compile(three)
    assert MAX_COMBINATIONS == 1000
    assert pattern.matches({"a": {"x": 9}, "b": {"x": 0}, "c": {"x": 5}})
    assert not pattern.matches({"a": {"x": 9}, "b": {"x": 0}, "c": {"x": 10}})
    error = refused(three | {"c": either(11, "x")})
    assert "at c.$or: more than 1000 combinations" in error.message


def test_a_short_pattern_cannot_stand_for_millions_of_fields() -> None:
    """The widest pattern of 4096 characters is refused before its combinations fill the memory."""
    wide: dict[str, Any] = {"a": either(10, "x"), "b": either(10, "x"), "c": either(10, "x")}
    wide |= {f"f{index}": [0] for index in range(200)}
    assert len(json.dumps(wide)) < MAX_LENGTH
    assert f"more than {MAX_FIELDS} fields" in refused(wide).message


@pytest.mark.parametrize(
    "source",
    [
        "[" * 100_000,
        "[" * MAX_LENGTH,
        r'{"\\":' + "[" * 4000,
        '{"a":' * 819,
        '{"a":[' + '{"anything-but":' * 250,
        {"a": [float("nan")]},
        {"a": [{1, 2}]},
        {"a": [10**5000]},
        {"a": b"x"},
        ["a"],
        b'{"a": [1]}',
        None,
    ],
    ids=lambda source: type(source).__name__ + str(source)[:12] if not isinstance(source, dict) else "dict",
)
def test_bombs_and_strangers_are_refused(source: Any) -> None:
    """Depth, size and types that JSON does not have: the same error, no `RecursionError`."""
    refused(source)


def test_a_dict_deeper_than_python_s_stack_is_refused() -> None:
    """Writing it as JSON would recurse; that, too, ends in the one error."""
    deep: Any = [1]
    for _ in range(100_000):
        deep = {"a": deep}
    error = refused(deep)
    while isinstance(deep, dict):  # by hand: the interpreter would take it apart by recursion
        deep = deep.pop("a")
    assert "cannot be written as JSON" in error.message

"""Answers of AWS's own engine, frozen in tests/vectors/event-patterns, and the cases where we answer otherwise."""

import json
from pathlib import Path

import pytest

from ebscrypt.errors import InvalidEventPattern
from ebscrypt.events.patterns import Pattern

CASES = Path(__file__).parents[1] / "vectors" / "event-patterns" / "cases.jsonl"


def answer(pattern: str, event: str) -> bool | str:
    try:
        return Pattern.compile(pattern).matches(json.loads(event))
    except InvalidEventPattern:
        return "refused"


def test_every_frozen_answer_of_aws_s_engine_is_ours() -> None:
    """Match, no match or refusal: the same for each of several hundred pairs of pattern and event."""
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    assert {case["answer"] for case in cases} == {True, False, "refused"}
    assert len(cases) > 400
    assert [case for case in cases if answer(case["pattern"], case["event"]) != case["answer"]] == []


@pytest.mark.parametrize(
    ("pattern", "event", "ours"),
    [
        # The guide: strings are compared character by character. The engine takes texts of one IP address as equal.
        ('{"a": ["::1"]}', '{"a": "0:0:0:0:0:0:0:1"}', False),
        ('{"a": ["10.0.0.1"]}', '{"a": "10.0.0.01"}', False),
        # An IPv4 network holds no IPv6 address and the other way round; the engine compares hexadecimal text.
        ('{"a": [{"cidr": "0.0.0.0/0"}]}', '{"a": "::1"}', False),
        ('{"a": [{"cidr": "::/0"}]}', '{"a": "1.2.3.4"}', False),
        ('{"a": [{"cidr": "::/0"}]}', '{"a": "::ffff:1.2.3.4"}', True),
        # A leading zero is octal to some and decimal to others.
        ('{"a": [{"cidr": "10.0.0.0/8"}]}', '{"a": "010.0.0.1"}', False),
        ('{"a": [{"cidr": "010.0.0.0/8"}]}', '{"a": "10.0.0.1"}', "refused"),
        # The engine's slips in reading: a sign before the bits, a slash after them, text after the end.
        ('{"a": [{"cidr": "10.0.0.0/+8"}]}', '{"a": "10.0.0.1"}', "refused"),
        ('{"a": [{"cidr": "10.0.0.0/8/"}]}', '{"a": "10.0.0.1"}', "refused"),
        ('{"a": [1]} x', '{"a": 1}', "refused"),
        # It takes these empty lists, then fails at the first event.
        ('{"a": [{"anything-but": {"prefix": []}}]}', '{"a": "x"}', "refused"),
        # Its guide limits the bounds of numeric; the engine has dropped the limit.
        ('{"a": [{"numeric": ["=", 5000000001]}]}', '{"a": 5000000001}', "refused"),
        ('{"a": [{"numeric": ["=", 1.0000001]}]}', '{"a": 1}', "refused"),
        # Not in the guide.
        ('{"a": [{"exactly": "x"}]}', '{"a": "x"}', "refused"),
        # Letters that the engine's casing by UTF-16 units loses: beyond the first plane, and title case.
        ('{"a": [{"equals-ignore-case": "a\\ud83d\\ude00B"}]}', '{"a": "A\\ud83d\\ude00b"}', True),
        ('{"a": [{"equals-ignore-case": "\\u01c5"}]}', '{"a": "\\u01c5"}', True),
        # Its automaton takes ß for É beside a wildcard with é, and loses a branch when the field may be absent in two.
        ('{"a": [{"wildcard": "*\\u00e9y"}, {"equals-ignore-case": "\\u00c9"}]}', '{"a": "\\u00df"}', False),
        (
            '{"b": ["x"], "$or": [{"a": [{"exists": false}]}, {"a": [{"exists": false}, 2]}]}',
            '{"a": 2, "b": "x"}',
            True,
        ),
    ],
)
def test_where_the_engine_goes_astray_the_guide_is_followed(pattern: str, event: str, ours: bool | str) -> None:  # noqa: FBT001
    """Each deliberate difference from the engine, with its reason beside it (decision 0003)."""
    assert answer(pattern, event) == ours

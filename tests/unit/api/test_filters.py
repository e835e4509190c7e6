"""EC2's filters: alternatives within one, all of several, wildcards as EC2 documents them."""

from __future__ import annotations

import fnmatch
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.api.ec2 import filters
from ebscrypt.api.errors import ApiError

ITEMS: list[dict[str, Any]] = [
    {"name": "data", "size": 8, "on": True, "tags": {"Env": "prod", "Team": "a*b"}},
    {"name": "logs", "size": 80, "on": False, "tags": {"Env": "test"}},
    {"name": "Data2", "size": 18, "on": True, "tags": {}},
]
KNOWN: dict[str, Any] = {"name": lambda i: [i["name"]], "size": lambda i: [i["size"]], "on": lambda i: [i["on"]]}


def chosen(*wanted: tuple[str, list[str]]) -> list[str]:
    asked = [{"Name": name, "Values": values} for name, values in wanted]
    return [item["name"] for item in filters.select(ITEMS, asked, KNOWN, lambda item: item["tags"])]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([], ["data", "logs", "Data2"]),
        ([("name", ["data"])], ["data"]),
        ([("name", ["data", "logs"])], ["data", "logs"]),
        ([("name", ["data", "logs"]), ("size", ["80"])], ["logs"]),
        ([("name", ["DATA"])], []),
        ([("name", ["?ata*"])], ["data", "Data2"]),
        ([("name", ["data?"])], []),
        ([("name", ["*"])], ["data", "logs", "Data2"]),
        ([("size", ["8*"])], ["data", "logs"]),
        ([("on", ["true"])], ["data", "Data2"]),
        ([("tag:Env", ["prod", "test"])], ["data", "logs"]),
        ([("tag:env", ["prod"])], []),
        ([("tag:Team", [r"a\*b"])], ["data"]),
        ([("tag:Team", [r"a\?b"])], []),
        ([("tag-key", ["E*"])], ["data", "logs"]),
        ([("tag-value", ["test"])], ["logs"]),
    ],
)
def test_what_a_filter_lets_through(wanted: list[tuple[str, list[str]]], found: list[str]) -> None:
    """Values are alternatives, filters all hold, case matters, and a backslash takes a wildcard's meaning."""
    assert chosen(*wanted) == found


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ([("colour", ["red"])], "InvalidParameterValue"),
        ([("name", [])], "InvalidParameterValue"),
        ([("name", ["x"] * (filters.MOST_VALUES + 1))], "FilterLimitExceeded"),
    ],
)
def test_what_is_no_filter_is_refused(wanted: list[tuple[str, list[str]]], code: str) -> None:
    """An unknown name, one without values, and too many values."""
    with pytest.raises(ApiError) as refused:
        chosen(*wanted)
    assert refused.value.code == code


@given(pattern=st.text("ab*?", max_size=8), text=st.text("ab\n", max_size=8))
def test_wildcards_mean_what_they_do_in_a_shell(pattern: str, text: str) -> None:
    """Without backslashes and brackets the patterns are the shell's, of which Python has its own matching."""
    asked = [{"Name": "name", "Values": [pattern]}]
    assert bool(filters.select([{"name": text}], asked, KNOWN)) == fnmatch.fnmatchcase(text, pattern)


def test_a_pattern_cannot_keep_the_server_busy() -> None:
    """A pattern of nothing but wildcards over the longest value that a tag has ends soon."""
    began = time.monotonic()
    asked = [{"Name": "name", "Values": ["*a" * 12 + "b"]}]
    assert filters.select([{"name": "a" * 256}], asked, KNOWN) == []
    assert time.monotonic() - began < 5

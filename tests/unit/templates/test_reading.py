"""The text of a template: YAML with short tags or JSON, and what is refused of both."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from ebscrypt.errors import InvalidTemplate
from ebscrypt.templates.reading import DEEPEST, LARGEST_TEMPLATE, read_text

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what cfn-lint's own dependencies warn of is not ours
    from cfnlint.decode import decode_str

TAGS = """
Resources:
  A:
    Type: AWS::KMS::Key
    Properties:
      A: !Ref B
      B: !GetAtt C.D.E
      C: !GetAtt [C, D]
      D: !Sub "${X}"
      E: !Sub ["${X}", {X: !Ref Y}]
      F: !Join [",", [a, !Ref B]]
      G: !If [Cond, 1, !Ref "AWS::NoValue"]
      H: !Select [0, !GetAZs ""]
      I: !FindInMap [M, a, b]
      J: !Base64 text
      K: !Split [",", "a,b"]
      L: !ImportValue x
      Version: 2012-10-17
      M: 012
      N: [yes, No, 1.5, "1"]
Conditions:
  Cond: !And [!Equals [a, a], !Not [!Equals [a, b]], !Or [!Condition X, !Equals [a, a]]]
"""


def plain(value: Any) -> Any:
    """cfn-lint's own nodes as what they stand for."""
    return json.loads(json.dumps(value, default=str))


def test_short_tags_are_the_long_form() -> None:
    """Every tag stands for what cfn-lint reads of it as well, and a date stays text."""
    theirs, matches = decode_str(TAGS)

    ours = read_text(TAGS)

    assert matches == []
    assert ours == plain(theirs)
    properties = ours["Resources"]["A"]["Properties"]
    assert properties["B"] == {"Fn::GetAtt": ["C", "D.E"]}
    assert properties["Version"] == "2012-10-17"


def test_json_and_yaml_are_one() -> None:
    """The same template written as JSON, also with tabs, gives the same values."""
    value = read_text(TAGS)

    assert read_text(json.dumps(value, indent="\t")) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2\n", "line 2, column 1: the key 'a' is there twice"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ("a: &x 1\nb: *x\n", "line 2, column 4: YAML aliases are not allowed"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "aliases are not allowed"),
        ("a: null\n", r"\[/a\] null values are not allowed"),
        ("a: {b: [1, ~]}\n", r"\[/a/b/1\] null values"),
        ('{"a": null}', "null values"),
        ("a: !Nope x\n", "there is no tag !Nope"),
        ("a: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("a: !!binary aGk=\n", "is not allowed in templates"),
        ("a: !!timestamp 2012-10-17\n", "is not allowed in templates"),
        ("a: [1\n", "line 2"),
        ("{", "is no JSON: line 1"),
        ('{"a": NaN}', "NaN is no number"),
        ("- a\n", "a template is a mapping"),
        ("", "a template is a mapping"),
        ("? [a]\n: b\n", "a key is not text"),
        ("a: '\x01'\n", "is no YAML"),
        ('{"a": {"b": "\\ud800"}}', "/a/b.* has a character"),
        ('{"a": {"b\\u0000": 1}}', "/a.* has a character"),
        ("[" * 5000, "nested deeper"),
        ('{"a":' * 5000, "nested deeper"),
        ('{"a": ' + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1) + "}", "nested deeper"),
        ("x" * (LARGEST_TEMPLATE + 1), f"over {LARGEST_TEMPLATE} bytes"),
    ],
    ids=range(24),
)
def test_what_is_refused(text: str, told: str) -> None:
    """The refusal says what is wrong and, where there is one, at which line or path."""
    with pytest.raises(InvalidTemplate, match=told):
        read_text(text)

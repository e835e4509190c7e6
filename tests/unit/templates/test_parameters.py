"""Parameters: where a value comes from, and what its declaration forbids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ebscrypt.errors import EbscryptError, InvalidParameter, InvalidTemplate
from ebscrypt.templates.parameters import parameter_values, shown
from ebscrypt.templates.template import Template, read_template

SECRET = "hunter2hunter2"


def template(**declared: Any) -> Template:
    return read_template(json.dumps({"Parameters": {"P": declared}, "Resources": {"R": {"Type": "T"}}}))


def test_given_then_previous_then_default() -> None:
    """A value that is given wins over the stack's, and that over the default."""
    one = template(Type="Number", Default=1)

    assert parameter_values(one, {}) == {"P": "1"}
    assert parameter_values(one, {}, {"P": "2", "Gone": "x"}) == {"P": "2"}
    assert parameter_values(one, {"P": "3"}, {"P": "2"}) == {"P": "3"}


@pytest.mark.parametrize(
    ("declared", "good", "bad"),
    [
        ({"Type": "Number"}, "-1.5", "one"),
        ({"Type": "Number", "MinValue": 2, "MaxValue": "4"}, "4", "4.1"),
        ({"Type": "Number", "MinValue": 2}, "2", "1"),
        ({"Type": "String", "AllowedValues": ["a", 1, True]}, "true", "b"),
        ({"Type": "String", "AllowedPattern": "[a-z]+"}, "ab", "ab1"),
        ({"Type": "String", "MinLength": 2, "MaxLength": "3"}, "abc", "abcd"),
        ({"Type": "String", "MinLength": 2}, "ab", "a"),
        ({"Type": "List<Number>", "MaxValue": 5}, "1, 5", "1,6"),
        ({"Type": "List<Number>"}, "1,2", "1,b"),
        ({"Type": "CommaDelimitedList", "AllowedValues": ["a", "b"]}, "a,b", "a,c"),
        ({"Type": "AWS::EC2::Volume::Id"}, "vol-0123456789abcdef0", "snap-0123456789abcdef0"),
        ({"Type": "List<AWS::EC2::Volume::Id>"}, "vol-0123456789abcdef0", "vol-1"),
        ({"Type": "AWS::EC2::AvailabilityZone::Name"}, "us-east-1a", "x" * 4097),
    ],
    ids=range(13),
)
def test_constraints(declared: dict[str, Any], good: str, bad: str) -> None:
    """What a declaration allows is taken, the next beside it is refused."""
    one = template(**declared)

    assert parameter_values(one, {"P": good}) == {"P": good}
    with pytest.raises(InvalidParameter, match="P"):
        parameter_values(one, {"P": bad})


def test_what_is_missing_or_unknown_is_named() -> None:
    """With CloudFormation's words."""
    with pytest.raises(InvalidParameter, match=r"Parameters: \[P\] must have values"):
        parameter_values(template(Type="String"), {})
    with pytest.raises(InvalidParameter, match=r"Parameters: \[Q\] do not exist in the template"):
        parameter_values(template(Type="String"), {"P": "", "Q": ""})


@pytest.mark.parametrize(
    "declared",
    [
        {"AllowedPattern": "[a-z]"},
        {"AllowedValues": ["x"]},
        {"MaxLength": 3},
        {"ConstraintDescription": "be short", "MaxLength": 3},
        {"Type": "Number"},
        {"Type": "AWS::EC2::Volume::Id"},
    ],
    ids=range(6),
)
def test_no_echo_is_never_shown(declared: dict[str, Any]) -> None:
    """Neither where it is shown nor in a refusal."""
    one = template(**{"Type": "String", "NoEcho": True} | declared)

    assert shown(one, {"P": SECRET}) == {"P": "****"}
    with pytest.raises(EbscryptError) as caught:
        parameter_values(one, {"P": SECRET})
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"


def test_a_type_that_needs_aws_is_refused() -> None:
    """There is no parameter store here to look values up in."""
    with pytest.raises(InvalidTemplate, match="Unrecognized parameter type"):
        parameter_values(template(Type="AWS::SSM::Parameter::Value<String>"), {"P": "/name"})


def test_a_pattern_that_is_none_is_the_templates_fault() -> None:
    """Not the value's."""
    with pytest.raises(InvalidTemplate, match="AllowedPattern of P"):
        parameter_values(template(Type="String", AllowedPattern="["), {"P": "x"})

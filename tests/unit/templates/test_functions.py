"""The intrinsic functions, one row a rule."""

from __future__ import annotations

from typing import Any

import pytest

from ebscrypt.errors import InvalidTemplate
from ebscrypt.templates.functions import Scope
from ebscrypt.templates.template import read_template

TEMPLATE = """
Transform: AWS::LanguageExtensions
Parameters:
  Text: {Type: String, Default: t}
  List: {Type: CommaDelimitedList, Default: "a, b"}
Mappings:
  Zones: {eu: {zone: a, zones: [a, b]}}
Conditions:
  Yes: !Equals [!Ref Text, t]
  No: !Not [!Condition Yes]
  Both: !And [!Condition Yes, !Condition No]
  Either: !Or [!Condition No, !Condition Yes]
  Round: !Not [!Condition About]
  About: !Not [!Condition Round]
Resources:
  R: {Type: T}
"""
PSEUDO = {"AWS::Region": "eu-central-1", "AWS::StackName": "s"}


def scope(text: str = TEMPLATE) -> Scope:
    def attribute(name: str, wanted: str | None) -> str:
        return f"<{name}>" if wanted is None else f"<{name}.{wanted}>"

    values = {"Text": "t", "List": "a, b"}
    return Scope(read_template(text), values, PSEUDO, attribute=attribute, exported=lambda name: f"exported {name}")


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ({"Ref": "Text"}, "t"),
        ({"Ref": "List"}, ["a", "b"]),
        ({"Ref": "R"}, "<R>"),
        ({"Ref": "AWS::Region"}, "eu-central-1"),
        ({"a": {"Ref": "AWS::NoValue"}, "b": [1, {"Ref": "AWS::NoValue"}]}, {"b": [1]}),
        ({"Fn::GetAtt": ["R", "Arn"]}, "<R.Arn>"),
        ({"Fn::GetAtt": "R.A.B"}, "<R.A.B>"),
        ({"Fn::GetAtt": ["R", {"Ref": "Text"}]}, "<R.t>"),
        ({"Fn::Sub": "${Text}-${R}-${R.Arn}-${AWS::Region}-${!Text}-$x"}, "t-<R>-<R.Arn>-eu-central-1-${Text}-$x"),
        ({"Fn::Sub": ["${Text} ${ Own }", {"Own": {"Ref": "R"}, "Text": "mine"}]}, "mine <R>"),
        ({"Fn::Join": ["-", ["a", 1, True, {"Ref": "Text"}]]}, "a-1-true-t"),
        ({"Fn::Join": ["", {"Ref": "List"}]}, "ab"),
        ({"Fn::Split": ["|", "a||b"]}, ["a", "", "b"]),
        ({"Fn::Select": [1, {"Ref": "List"}]}, "b"),
        ({"Fn::Select": ["0", {"Fn::GetAZs": ""}]}, "eu-central-1a"),
        ({"Fn::FindInMap": ["Zones", "eu", "zone"]}, "a"),
        ({"Fn::FindInMap": ["Zones", "eu", "zones"]}, ["a", "b"]),
        ({"Fn::FindInMap": ["Zones", "us", "zone", {"DefaultValue": {"Ref": "Text"}}]}, "t"),
        ({"Fn::If": ["Yes", 1, 2]}, 1),
        ({"Fn::If": ["No", {"Fn::ImportValue": "never"}, {"Ref": "Text"}]}, "t"),
        ({"Fn::If": ["Both", 1, 2]}, 2),
        ({"Fn::If": ["Either", 1, 2]}, 1),
        ({"Fn::Base64": "text"}, "dGV4dA=="),
        ({"Fn::ImportValue": {"Fn::Sub": "${Text}-id"}}, "exported t-id"),
        ({"Fn::Length": {"Ref": "List"}}, 2),
        ({"Fn::ToJsonString": {"a": {"Ref": "Text"}}}, '{"a":"t"}'),
        ({"Condition": {"StringEquals": "x"}}, {"Condition": {"StringEquals": "x"}}),
        (5, 5),
    ],
    ids=range(28),
)
def test_value(node: Any, value: Any) -> None:
    """Each function gives what CloudFormation documents for it."""
    assert scope().value(node, "x") == value


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"Fn::Nope": 1}, "there is no function Fn::Nope"),
        ({"Ref": ["a"]}, "names a parameter"),
        ({"Fn::GetAtt": "R"}, "names a resource and its attribute"),
        ({"Fn::Sub": ["a"]}, "is text, or a list"),
        ({"Fn::Sub": "${List}"}, "is not text"),
        ({"Fn::Join": ["a"]}, "a delimiter and a list"),
        ({"Fn::Join": [1, ["a"]]}, "a delimiter and a list"),
        ({"Fn::Split": ["", "a"]}, "a delimiter and text"),
        ({"Fn::Select": [2, {"Ref": "List"}]}, "nonexistent value at index 2"),
        ({"Fn::Select": ["-1", ["a"]]}, "an index and a list"),
        ({"Fn::FindInMap": ["Zones", "us", "zone"]}, "Unable to get mapping for Zones::us::zone"),
        ({"Fn::If": ["Unknown", 1, 2]}, "Unresolved condition"),
        ({"Fn::If": ["Round", 1, 2]}, "Circular dependency of the condition"),
        ({"Fn::GetAZs": "us-east-1"}, "no zones of us-east-1"),
        ({"Fn::Length": "a"}, "counts a list"),
        ({"Fn::Join": ["", ["x" * 40_000, "x" * 40_000]]}, "makes over"),
    ],
    ids=range(16),
)
def test_refused(node: Any, told: str) -> None:
    """A wrong call is refused with the path to it."""
    with pytest.raises(InvalidTemplate, match=told) as caught:
        scope().value({"Properties": [node]}, "Resources/R")

    assert (
        "Round" in caught.value.message or "Unknown" in caught.value.message or "[/Resources/R" in caught.value.message
    )


def test_a_condition_that_is_no_truth_is_refused() -> None:
    """Text but true and false is no condition."""
    text = (
        "Conditions: {C: !Equals [a, a], D: !Not [!Ref T]}\nParameters: {T: {Type: String}}\nResources: {R: {Type: T}}"
    )
    wrong = Scope(read_template(text), {"T": "x"}, PSEUDO, attribute=lambda *_: "", exported=str)

    assert wrong.condition("C")
    with pytest.raises(InvalidTemplate, match="neither true nor false"):
        wrong.condition("D")


def test_extensions_must_be_declared() -> None:
    """Length is AWS::LanguageExtensions', and a template says that it uses them."""
    with pytest.raises(InvalidTemplate, match="language extensions"):
        scope(TEMPLATE.replace("Transform: AWS::LanguageExtensions", "")).value({"Fn::Length": []}, "x")

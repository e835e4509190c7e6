"""The sections of a template, what is refused in each, and cfn-lint as a second opinion."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from ebscrypt.control.stacks.values import checked_template
from ebscrypt.errors import InvalidTemplate
from ebscrypt.templates.references import edges, ordered, references
from ebscrypt.templates.template import read_template

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what cfn-lint's own dependencies warn of is not ours
    from cfnlint.api import ManualArgs, lint

VOLUME = {"Type": "AWS::EC2::Volume", "Properties": {"AvailabilityZone": {"Ref": "Zone"}, "Size": 1, "Encrypted": True}}
ZONE = {"Zone": {"Type": "String", "Default": "us-east-1a"}}


def template(**sections: Any) -> str:
    return json.dumps({"Parameters": ZONE, "Resources": {"V": VOLUME}} | sections)


def volume(**keys: Any) -> dict[str, Any]:
    return VOLUME | keys


GOOD = {
    "plain": template(),
    "everything": template(
        AWSTemplateFormatVersion="2010-09-09",
        Description="d",
        Metadata={"x": 1},
        Mappings={"M": {"a": {"b": "c"}}},
        Conditions={"C": {"Fn::Equals": [{"Ref": "Zone"}, "x"]}},
        Resources={
            "V": volume(DeletionPolicy="Snapshot", UpdateReplacePolicy="Retain"),
            "W": volume(DependsOn="V"),
            "X": volume(DependsOn=["W"], Condition="C"),
        },
        Outputs={"O": {"Value": {"Ref": "W"}, "Export": {"Name": {"Fn::Sub": "${AWS::StackName}-w"}}}},
    ),
    "attributes": template(
        Resources={
            "K": {"Type": "AWS::KMS::Key", "Properties": {}},
            "A": {
                "Type": "AWS::KMS::Alias",
                "Properties": {"AliasName": "alias/a", "TargetKeyId": {"Fn::GetAtt": ["K", "Arn"]}},
            },
        },
    ),
}
BAD = {
    "unknown section": (template(Resource={}), "Invalid template property"),
    "version": (template(AWSTemplateFormatVersion="2011-09-09"), "AWSTemplateFormatVersion"),
    "no type": (template(Resources={"V": {"Properties": {}}}), "must contain a Type"),
    "unknown key": (template(Resources={"V": volume(Propertys={})}), "Invalid template resource property"),
    "policy": (template(Resources={"V": volume(DeletionPolicy="Keep")}), "is none of Delete"),
    "name": (template(Resources={"V-1": VOLUME}), "non alphanumeric"),
    "unknown reference": (template(Outputs={"O": {"Value": {"Ref": "W"}}}), r"dependencies \[W\] in the Outputs"),
    "unknown in sub": (template(Outputs={"O": {"Value": {"Fn::Sub": "${W.Arn}"}}}), r"dependencies \[W\]"),
    "unknown in depends": (template(Resources={"V": volume(DependsOn="W")}), r"dependencies \[W\]"),
    "resource in condition": (
        template(Conditions={"C": {"Fn::Equals": [{"Ref": "V"}, "x"]}}),
        r"dependencies \[V\] in the Conditions",
    ),
    "circle": (
        template(Resources={"V": volume(DependsOn="W"), "W": volume(DependsOn="V")}),
        r"Circular dependency between resources: \[V, W\]",
    ),
    "itself": (template(Resources={"V": volume(DependsOn="V")}), "Circular dependency"),
    "no value": (template(Outputs={"O": {"Description": "x"}}), "must contain a Value"),
    "parameter key": (template(Parameters=ZONE | {"P": {"Type": "String", "Defalt": "x"}}), r"has no \[Defalt\]"),
    "parameter type": (template(Parameters=ZONE | {"P": {}}), "missing required field `type`"),
    "mapping": (template(Mappings={"M": {"a": "b"}}), r"\[/Mappings/M/a\]"),
    "snapshot of a key": (
        template(Resources={"K": {"Type": "AWS::KMS::Key", "DeletionPolicy": "Snapshot"}}),
        "does not support deletion policy Snapshot",
    ),
}


def errors_of_cfn_lint(text: str) -> list[str]:
    return [match.rule.id for match in lint(text, config=ManualArgs(regions=["us-east-1"])) if match.rule.id[0] == "E"]


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    """What is a template to cfn-lint is one to us."""
    assert errors_of_cfn_lint(GOOD[name]) == []
    checked_template(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    """What we refuse cfn-lint refuses too, and we say why."""
    text, told = BAD[name]

    assert errors_of_cfn_lint(text) != []
    with pytest.raises(InvalidTemplate, match=told):
        checked_template(text)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"Resources": {"B": {"Type": "AWS::S3::Bucket"}}}, r"Unrecognized resource types: \[AWS::S3::Bucket\]"),
        ({"Transform": "AWS::Serverless-2016-10-31"}, r"needs the transform \[AWS::Serverless"),
        ({"Resources": {}}, "At least one Resources member"),
        ({"Rules": {}}, r"property or properties \[Rules\]"),
    ],
)
def test_what_is_not_here_is_refused(sections: dict[str, Any], told: str) -> None:
    """What CloudFormation has and we have not is never passed over in silence."""
    with pytest.raises(InvalidTemplate, match=told):
        checked_template(template(**sections))


def test_references_are_found_wherever_they_are() -> None:
    """In Ref, GetAtt of both forms, and Sub but for its own variables and literals."""
    node = {
        "a": [{"Ref": "A"}, {"Fn::GetAtt": "B.Arn"}, {"Fn::GetAtt": ["C", {"Ref": "D"}]}],
        "b": {"Fn::Sub": ["${E} ${F.Arn} ${!G} ${H}", {"H": {"Ref": "I"}}]},
        "c": {"Fn::If": ["Cond", {"Ref": "J"}, "K"]},
    }

    assert set(references(node)) == {"A", "B", "C", "D", "E", "F", "I", "J"}


def test_the_order_is_one_and_right() -> None:
    """What is needed comes before, and equals come by name; what is left out needs nothing."""
    text = template(
        Resources={
            "D": volume(),
            "C": volume(DependsOn=["D", "B"]),
            "B": volume(),
            "A": volume(DependsOn=["C"]),
        }
    )
    parsed = read_template(text)

    assert ordered(edges(parsed, parsed.resources)) == ["B", "D", "C", "A"]
    assert edges(parsed, ["A", "C"]) == {"A": {"C"}, "C": set()}

"""`ebscrypt stack`: what it prints, where, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

TEMPLATE = """
Description: one volume
Parameters:
  Size: {Type: Number, Default: 1}
  Secret: {Type: String, NoEcho: true, Default: hunter2}
Resources:
  Data:
    Type: AWS::EC2::Volume
    Properties: {AvailabilityZone: a, Size: !Ref Size}
Outputs:
  Id: {Value: !Ref Data, Description: the volume, Export: {Name: !Sub "${AWS::StackName}-id"}}
"""


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    return str(path)


def test_deploy_prints_the_id_alone(run: Run, template: str) -> None:
    """On stdout the stack's id, on stderr what happened; again the same id, and that nothing was to be done."""
    first = run("stack", "deploy", template, "--name", "web")
    second = run("stack", "deploy", template, "--name", "web")

    assert (first.status, second.status) == (0, 0)
    assert first.out.startswith("arn:aws:cloudformation:us-east-1:000000000000:stack/web/")
    assert first.err.splitlines()[-1] == "web CREATE_COMPLETE"
    assert second.out == first.out
    assert second.err == "note: web: No updates are to be performed.\n"


def test_show_as_text_and_as_json(run: Run, template: str) -> None:
    """The fields of DescribeStacks; a NoEcho value is nowhere."""
    run("stack", "deploy", template, "--name", "web", "--tag", "a=b")

    text = run("stack", "show", "web", "--events")
    shown = run("stack", "show", "web", "--events", "--output", "json")

    record = shown.json
    assert record["StackStatus"] == "CREATE_COMPLETE"
    assert record["Tags"] == [{"Key": "a", "Value": "b"}]
    assert record["Parameters"] == [
        {"ParameterKey": "Size", "ParameterValue": "1"},
        {"ParameterKey": "Secret", "ParameterValue": "****"},
    ]
    (output,), (resource,) = record["Outputs"], record["Resources"]
    assert output == {
        "OutputKey": "Id",
        "OutputValue": resource["PhysicalResourceId"],
        "Description": "the volume",
        "ExportName": "web-id",
    }
    assert [event["ResourceStatus"] for event in record["Events"]] == [
        "CREATE_COMPLETE",
        "CREATE_COMPLETE",
        "CREATE_IN_PROGRESS",
        "CREATE_IN_PROGRESS",
    ]
    for part in ("web-id", "Data", "User Initiated", "Secret=****", resource["PhysicalResourceId"]):
        assert part in text.out
    assert "hunter2" not in text.out + shown.out


def test_dry_run_changes_nothing(run: Run, template: str) -> None:
    """It names each change with the properties that differ; of no change it says nothing."""
    fresh = run("stack", "deploy", template, "--name", "web", "--dry-run")
    assert fresh.out.splitlines()[1].split()[:3] == ["Add", "Data", "AWS::EC2::Volume"]
    assert run("stack", "ls").out == ""
    run("stack", "deploy", template, "--name", "web")

    same = run("stack", "deploy", template, "--name", "web", "--dry-run")
    larger = run("stack", "deploy", template, "--name", "web", "--parameter", "Size=2", "--dry-run", "--output", "json")

    assert (same.status, same.out) == (0, "")
    (change,) = larger.json["Changes"]
    assert change["ResourceChange"]["Replacement"] == "False"
    assert change["ResourceChange"]["Details"] == [{"Target": {"Attribute": "Properties", "Name": "Size"}}]
    assert run("stack", "show", "web", "--output", "json").json["LastUpdatedTime"] is None


def test_delete_and_ls(run: Run, template: str) -> None:
    """A deleted stack is listed if asked for, and shown by its id."""
    stack_id = run("stack", "deploy", template, "--name", "web").out.strip()
    assert run("stack", "ls").out.splitlines()[1].split()[:2] == ["web", "CREATE_COMPLETE"]

    deleted = run("stack", "delete", "web")

    assert (deleted.status, deleted.out) == (0, "")
    assert run("stack", "ls").out == ""
    (record,) = run("stack", "ls", "--deleted", "--output", "json").json["Stacks"]
    assert (record["StackId"], record["StackStatus"]) == (stack_id, "DELETE_COMPLETE")
    assert run("stack", "show", stack_id).status == 0
    assert run("stack", "show", "web").status == 1


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["deploy", "/nonexistent", "--name", "web"], 2, "cannot read the template /nonexistent"),
        (["deploy", "TEMPLATE", "--name", "1"], 2, "is no name for a stack"),
        (["deploy", "TEMPLATE", "--name", "web", "--parameter", "Size"], 2, "has no ="),
        (["deploy", "TEMPLATE", "--name", "web", "--parameter", "Size=one"], 2, "Size must be a number"),
        (["deploy", "TEMPLATE", "--name", "web", "--parameter", "a=1", "--parameter", "a=1"], 2, "given twice"),
        (["deploy", "TEMPLATE", "--name", "web", "--parameter", "Other=1"], 2, "do not exist in the template"),
        (["delete", "web"], 1, "Stack with id web does not exist"),
        (["continue-update-rollback", "web"], 1, "Stack with id web does not exist"),
    ],
    ids=range(8),
)
def test_refusals(run: Run, template: str, words: list[str], status: int, told: str) -> None:
    """What is wrong with the request is usage (2), what is wrong with the world is not (1)."""
    ran = run("stack", *(template if word == "TEMPLATE" else word for word in words))

    assert (ran.status, ran.out) == (status, "")
    assert told in ran.err


def test_events_are_json_where_the_output_is(run: Run, template: str) -> None:
    """Every line on stderr is a JSON object."""
    ran = run("stack", "deploy", template, "--name", "web", "--output", "json")

    assert ran.json["StackStatus"] == "CREATE_COMPLETE"
    assert len([json.loads(line) for line in ran.err.splitlines()]) >= 3

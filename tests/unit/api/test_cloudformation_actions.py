"""CloudFormation's actions: what they answer, checked against botocore's model, and what they refuse."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from ebscrypt.api.call import Call
from ebscrypt.api.cloudformation import OPERATIONS
from ebscrypt.api.errors import ApiError
from ebscrypt.config import PathSettings, Settings
from ebscrypt.control.site import Site
from ebscrypt.control.stacks import requests
from ebscrypt.model import utc_now

MODEL = botocore.session.Session().get_service_model("cloudformation")
TEMPLATE = """
Description: one volume
Parameters:
  Size: {Type: Number, Default: 1, AllowedValues: [1, 2, 3]}
  Secret: {Type: String, NoEcho: true, Default: hunter2}
Resources:
  Data:
    Type: AWS::EC2::Volume
    Properties: {AvailabilityZone: a, Size: !Ref Size}
Outputs:
  Id: {Value: !Ref Data, Export: {Name: data}}
"""


class Caller:
    """Calls an action as the gateway does, but for HTTP; an operation is done before its answer is."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, action: str, **request: Any) -> dict[str, Any]:
        call = Call(
            site=self.site,
            account=self.site.settings.kms.account,
            region=self.site.settings.kms.region,
            request_id="r",
            principal="arn:aws:iam::000000000000:user/admin",
            now=utc_now(),
        )
        answer = OPERATIONS[action](call, request)
        shape = MODEL.operation_model(action).output_shape
        if shape is not None:
            report = ParamValidator().validate(answer, shape)
            assert not report.has_errors(), report.generate_report()
        assert "hunter2" not in str({name: value for name, value in answer.items() if name != "TemplateBody"})
        return answer

    def refused(self, action: str, **request: Any) -> tuple[str, str]:
        """Code and message of a refusal."""
        with pytest.raises(ApiError) as caught:
            self(action, **request)
        return caught.value.code, caught.value.message


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    runtime = tempfile.mkdtemp(prefix="ec-", dir="/tmp")
    monkeypatch.setattr(requests, "start", lambda site, stack: requests.settle_stack(site, stack.stack_id))
    with Site(Settings(paths=PathSettings(state=str(tmp_path / "state"), runtime=runtime))) as site:
        yield Caller(site)
    shutil.rmtree(runtime)


def status(call: Caller, name: str = "web") -> str:
    stack: dict[str, Any] = call("DescribeStacks", StackName=name)["Stacks"][0]
    return str(stack["StackStatus"])


def test_the_life_of_a_stack(call: Caller) -> None:
    """Created, updated with previous values, looked at from all sides, deleted."""
    stack_id = call("CreateStack", StackName="web", TemplateBody=TEMPLATE, Tags=[{"Key": "a", "Value": "b"}])["StackId"]
    assert status(call) == "CREATE_COMPLETE"
    assert call.refused("CreateStack", StackName="web", TemplateBody=TEMPLATE)[0] == "AlreadyExistsException"

    larger = [{"ParameterKey": "Size", "ParameterValue": "2"}, {"ParameterKey": "Secret", "UsePreviousValue": True}]
    call("UpdateStack", StackName="web", UsePreviousTemplate=True, Parameters=larger)
    assert status(call, stack_id) == "UPDATE_COMPLETE"
    same = [{"ParameterKey": "Size", "UsePreviousValue": True}]
    code, message = call.refused("UpdateStack", StackName="web", UsePreviousTemplate=True, Parameters=same)
    assert (code, message) == ("ValidationError", "No updates are to be performed.")

    (stack,) = call("DescribeStacks")["Stacks"]
    (data,) = call("DescribeStackResources", StackName="web")["StackResources"]
    assert stack["Outputs"] == [{"OutputKey": "Id", "OutputValue": data["PhysicalResourceId"], "ExportName": "data"}]
    assert stack["Tags"] == [{"Key": "a", "Value": "b"}]
    assert {"ParameterKey": "Secret", "ParameterValue": "****"} in stack["Parameters"]
    by_id = call("DescribeStackResources", PhysicalResourceId=data["PhysicalResourceId"])["StackResources"]
    assert by_id == [data]
    one = call("DescribeStackResource", StackName="web", LogicalResourceId="Data")["StackResourceDetail"]
    assert one["PhysicalResourceId"] == data["PhysicalResourceId"]
    assert len(call("ListStackResources", StackName="web")["StackResourceSummaries"]) == 1
    assert call("DescribeStackEvents", StackName="web")["StackEvents"][-1]["ResourceStatusReason"] == "User Initiated"
    assert call("GetTemplate", StackName="web")["TemplateBody"] == TEMPLATE
    assert [one["Name"] for one in call("ListExports")["Exports"]] == ["data"]
    assert call.refused("ListImports", ExportName="data")[1] == "Export 'data' is not imported by any stack."

    call("DeleteStack", StackName="web")
    assert "Stack with id web does not exist" in call.refused("DescribeStacks", StackName="web")[1]
    assert status(call, stack_id) == "DELETE_COMPLETE"
    assert call("ListStacks", StackStatusFilter=["DELETE_COMPLETE"])["StackSummaries"][0]["StackId"] == stack_id
    assert call("ListStacks", StackStatusFilter=["CREATE_COMPLETE"])["StackSummaries"] == []
    call("DeleteStack", StackName="web")


def test_change_sets(call: Caller) -> None:
    """The way of `aws cloudformation deploy`: made, described, executed; without changes it is FAILED."""
    asked = {"StackName": "web", "TemplateBody": TEMPLATE}
    made = call("CreateChangeSet", ChangeSetName="first", ChangeSetType="CREATE", **asked)
    assert status(call) == "REVIEW_IN_PROGRESS"
    described = call("DescribeChangeSet", ChangeSetName=made["Id"])
    assert (described["Status"], described["ExecutionStatus"]) == ("CREATE_COMPLETE", "AVAILABLE")
    assert described["Changes"][0]["ResourceChange"]["Action"] == "Add"
    call("ExecuteChangeSet", ChangeSetName="first", StackName="web")
    assert status(call) == "CREATE_COMPLETE"
    assert call.refused("ExecuteChangeSet", ChangeSetName=made["Id"])[0] == "InvalidChangeSetStatus"

    call("CreateChangeSet", ChangeSetName="second", **asked)
    described = call("DescribeChangeSet", ChangeSetName="second", StackName="web")
    assert (described["Status"], described["ExecutionStatus"]) == ("FAILED", "UNAVAILABLE")
    assert described["StatusReason"].startswith("The submitted information didn't contain changes.")
    names = [one["ChangeSetName"] for one in call("ListChangeSets", StackName="web")["Summaries"]]
    assert names == ["first", "second"]
    call("DeleteChangeSet", ChangeSetName="second", StackName="web")
    assert call.refused("DescribeChangeSet", ChangeSetName="second", StackName="web")[0] == "ChangeSetNotFound"


def test_templates(call: Caller) -> None:
    """What one declares; hidden defaults stay hidden."""
    valid = call("ValidateTemplate", TemplateBody=TEMPLATE)
    assert valid["Description"] == "one volume"
    assert valid["Parameters"][1] == {"ParameterKey": "Secret", "DefaultValue": "****", "NoEcho": True}
    summary = call("GetTemplateSummary", TemplateBody=TEMPLATE)
    assert summary["ResourceTypes"] == ["AWS::EC2::Volume"]
    assert summary["Parameters"][0]["ParameterConstraints"] == {"AllowedValues": ["1", "2", "3"]}
    wrong = json.dumps({"Resources": {"B": {"Type": "AWS::S3::Bucket"}}})
    code, message = call.refused("ValidateTemplate", TemplateBody=wrong)
    assert code == "ValidationError"
    assert "Unrecognized resource types: [AWS::S3::Bucket]" in message


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({}, "Either Template URL or Template Body"),
        ({"TemplateURL": "https://example.com/t"}, "TemplateURL is not supported"),
        ({"TemplateBody": TEMPLATE, "DisableRollback": True}, "DisableRollback is not supported"),
        ({"TemplateBody": TEMPLATE, "OnFailure": "DO_NOTHING"}, "OnFailure is not supported"),
        ({"TemplateBody": TEMPLATE + "#" * 51_200}, "over 51200 bytes"),
        ({"TemplateBody": TEMPLATE, "Parameters": [{"ParameterKey": "Size"}]}, "must have a value"),
        ({"TemplateBody": TEMPLATE, "Parameters": [{"ParameterKey": "Size", "UsePreviousValue": True}]}, "usePrevious"),
        ({"TemplateBody": TEMPLATE, "Parameters": [{"ParameterKey": "Size", "ParameterValue": "9"}]}, "one of 1, 2, 3"),
        ({"TemplateBody": TEMPLATE, "Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, "Duplicate tag"),
        ({"TemplateBody": "a: *b"}, "aliases are not allowed"),
    ],
    ids=range(10),
)
def test_refusals(call: Caller, request_: dict[str, Any], told: str) -> None:
    """Nothing is passed over in silence, and no stack is entered for what is refused."""
    code, message = call.refused("CreateStack", StackName="web", **request_)

    assert code == "ValidationError"
    assert told in message
    assert call("ListStacks")["StackSummaries"] == []

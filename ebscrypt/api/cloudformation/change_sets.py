"""Change sets: made, looked at, executed, deleted. They are worked out before the answer, so none is ever pending."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebscrypt.api.cloudformation import asked
from ebscrypt.catalog.stack_records import ChangeSet, ResourceChange
from ebscrypt.control.stacks import requests
from ebscrypt.errors import ChangeSetNotFound
from ebscrypt.templates.parameters import shown
from ebscrypt.templates.template import read_template

if TYPE_CHECKING:
    from ebscrypt.api.call import Call


def create_change_set(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """What a template would change. Of the types of change sets, CREATE and UPDATE."""
    asked.refuse_options(request)
    kind = request.get("ChangeSetType", "UPDATE")
    if kind not in ("CREATE", "UPDATE"):
        raise asked.validation(f"ChangeSetType {kind[:40]} is not supported by this endpoint")
    made = requests.create_change_set(
        call.site,
        request["StackName"],
        request["ChangeSetName"],
        asked.template(request),
        kind=kind,
        parameters=asked.parameters(request, call.site.catalog.stacks.find(request["StackName"])),
        tags=asked.tags(request),
        description=request.get("Description"),
    )
    return {"Id": made.change_set_id, "StackId": made.stack_id}


def describe_change_set(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """A change set with its changes."""
    found = requests.find_change_set(call.site, request["ChangeSetName"], request.get("StackName"))
    values = shown(read_template(found.wanted.template), found.wanted.parameters)
    return _summary(found) | {
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
        "NotificationARNs": [],
        "Capabilities": [],
        "Tags": [{"Key": key, "Value": value} for key, value in found.wanted.tags.items()],
        "Changes": [{"Type": "Resource", "ResourceChange": _change(one)} for one in found.changes],
    }


def list_change_sets(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """A stack's change sets."""
    stack = call.site.catalog.stacks.get(request["StackName"])
    return {"Summaries": [_summary(one) for one in call.site.catalog.stacks.change_sets(stack.stack_id)]}


def execute_change_set(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Its stack is ``CREATE_IN_PROGRESS`` or ``UPDATE_IN_PROGRESS`` then."""
    asked.refuse_options(request)
    requests.execute_change_set(call.site, request["ChangeSetName"], request.get("StackName"))
    return {}


def delete_change_set(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Forget a change set. One that is not there is no error; its stack must be."""
    name = request["ChangeSetName"]
    stack_id = None
    if "StackName" in request:
        stack_id = call.site.catalog.stacks.get(request["StackName"]).stack_id
    elif name.startswith("arn:"):
        try:
            stack_id = call.site.catalog.stacks.change_set(name).stack_id
        except ChangeSetNotFound:
            return {}
    if stack_id is None:
        raise asked.validation("StackName must be specified if ChangeSetName is not specified as an ARN.")
    call.site.catalog.stacks.remove_change_sets(stack_id, name)
    return {}


def _summary(found: ChangeSet) -> dict[str, Any]:
    executable = "UNAVAILABLE" if found.failure else "EXECUTE_COMPLETE" if found.executed else "AVAILABLE"
    record = {
        "ChangeSetName": found.name,
        "ChangeSetId": found.change_set_id,
        "StackId": found.stack_id,
        "StackName": found.stack_name,
        "Description": found.description,
        "CreationTime": found.create_time,
        "ExecutionStatus": executable,
        "Status": "FAILED" if found.failure else "CREATE_COMPLETE",
        "StatusReason": found.failure,
        "IncludeNestedStacks": False,
    }
    return {name: value for name, value in record.items() if value is not None}


def _change(one: ResourceChange) -> dict[str, Any]:
    record: dict[str, Any] = {
        "Action": one.action,
        "LogicalResourceId": one.logical_id,
        "PhysicalResourceId": one.physical_id,
        "ResourceType": one.type,
        "Replacement": one.replacement,
        "PolicyAction": one.policy_action,
        "Scope": ["Properties"] if one.properties else [],
        "Details": [
            {"Target": {"Attribute": "Properties", "Name": name}, "Evaluation": "Static"} for name in one.properties
        ],
    }
    return {name: value for name, value in record.items() if value is not None}

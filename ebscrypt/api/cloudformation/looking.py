"""Actions that look at stacks. Looking at one whose operation has lost its process gives it another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebscrypt.api.cloudformation.asked import validation
from ebscrypt.catalog.stack_records import Stack, StackResource
from ebscrypt.control.stacks import requests
from ebscrypt.templates.parameters import shown
from ebscrypt.templates.template import read_template

if TYPE_CHECKING:
    from ebscrypt.api.call import Call


def describe_stacks(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """One stack by its name, or by its id also when it is deleted; or all that are there."""
    name = request.get("StackName")
    stacks = call.site.catalog.stacks.all() if name is None else [found(call, name)]
    return {"Stacks": [_stack(stack) for stack in stacks]}


def found(call: Call, name: str) -> Stack:
    """The stack of this name or id. Raises `StackNotFound`."""
    stack = call.site.catalog.stacks.get(name)
    requests.start_interrupted(call.site, stack)
    return stack


def list_stacks(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """All stacks, also deleted ones, or those in the states asked for; newest first."""
    wanted = request.get("StackStatusFilter")
    stacks = call.site.catalog.stacks.all(deleted=True)
    summaries = [
        _without_none(
            {
                "StackId": stack.stack_id,
                "StackName": stack.name,
                "TemplateDescription": stack.description,
                "CreationTime": stack.create_time,
                "LastUpdatedTime": stack.update_time,
                "DeletionTime": stack.delete_time,
                "StackStatus": stack.status.value,
                "StackStatusReason": stack.status_reason,
                "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
            }
        )
        for stack in reversed(stacks)
        if not wanted or stack.status.value in wanted
    ]
    return {"StackSummaries": summaries}


def describe_stack_events(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """What happened to a stack, newest first."""
    stack = found(call, request["StackName"])
    return {
        "StackEvents": [
            _without_none(
                {
                    "StackId": stack.stack_id,
                    "EventId": event.event_id,
                    "StackName": stack.name,
                    "LogicalResourceId": event.logical_id,
                    "PhysicalResourceId": event.physical_id or "",
                    "ResourceType": event.type,
                    "Timestamp": event.timestamp,
                    "ResourceStatus": event.status,
                    "ResourceStatusReason": event.reason,
                }
            )
            for event in call.site.catalog.stacks.events(stack.stack_id)
        ]
    }


def describe_stack_resources(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The resources of a stack, or of the stack that has one of this physical id; one of them if it is named."""
    if "StackName" not in request:
        physical = request.get("PhysicalResourceId", "")
        stack = next((one for one in call.site.catalog.stacks.all() if physical in _ids(one)), None)
        if stack is None:
            raise validation(f"Stack for {physical[:80]} does not exist")
    else:
        stack = found(call, request["StackName"])
    wanted = request.get("LogicalResourceId")
    return {
        "StackResources": [
            {"StackName": stack.name, "StackId": stack.stack_id, "Timestamp": one.timestamp} | _resource(one)
            for one in stack.resources.values()
            if wanted in (None, one.logical_id)
        ]
    }


def describe_stack_resource(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """One resource."""
    stack = found(call, request["StackName"])
    one = stack.resources.get(request["LogicalResourceId"])
    if one is None:
        raise validation(f"Resource {request['LogicalResourceId'][:80]} does not exist for stack {stack.name}")
    detail = {"StackName": stack.name, "StackId": stack.stack_id, "LastUpdatedTimestamp": one.timestamp}
    return {"StackResourceDetail": detail | _resource(one)}


def list_stack_resources(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The resources of a stack in short."""
    stack = found(call, request["StackName"])
    resources = stack.resources.values()
    return {"StackResourceSummaries": [{"LastUpdatedTimestamp": one.timestamp} | _resource(one) for one in resources]}


def list_exports(call: Call, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - there is one page
    """Every export of every stack."""
    exports = call.site.catalog.stacks.exports()
    return {
        "Exports": [
            {"ExportingStackId": stack_id, "Name": name, "Value": value} for name, (stack_id, value) in exports.items()
        ]
    }


def list_imports(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The stacks that import an export. Raises `ApiError` if none does, as CloudFormation does."""
    importers = call.site.catalog.stacks.importers(request["ExportName"])
    if not importers:
        raise validation(f"Export '{request['ExportName'][:255]}' is not imported by any stack.")
    return {"Imports": importers}


def _stack(stack: Stack) -> dict[str, Any]:
    known = stack.is_now or stack.wanted
    values = {} if known is None else shown(read_template(known.template), known.parameters)
    tags = {} if known is None else known.tags
    return _without_none(
        {
            "StackId": stack.stack_id,
            "StackName": stack.name,
            "Description": stack.description,
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
            "CreationTime": stack.create_time,
            "LastUpdatedTime": stack.update_time,
            "DeletionTime": stack.delete_time,
            "RollbackConfiguration": {},
            "StackStatus": stack.status.value,
            "StackStatusReason": stack.status_reason,
            "DisableRollback": False,
            "NotificationARNs": [],
            "Outputs": [
                _without_none(
                    {
                        "OutputKey": one.name,
                        "OutputValue": one.value,
                        "Description": one.description,
                        "ExportName": one.export,
                    }
                )
                for one in stack.outputs
            ],
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            "EnableTerminationProtection": False,
            "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
        }
    )


def _resource(one: StackResource) -> dict[str, Any]:
    return _without_none(
        {
            "LogicalResourceId": one.logical_id,
            "PhysicalResourceId": one.physical_id,
            "ResourceType": one.type,
            "ResourceStatus": one.status.value,
            "ResourceStatusReason": one.status_reason,
            "DriftInformation": {"StackResourceDriftStatus": "NOT_CHECKED"},
        }
    )


def _ids(stack: Stack) -> set[str | None]:
    return {one.physical_id for one in stack.resources.values()}


def _without_none(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if value is not None}

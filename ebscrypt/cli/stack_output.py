"""How stacks look on stdout: JSON with CloudFormation's field names, or text for people."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ebscrypt.catalog.stack_records import ResourceChange, Stack, StackEvent, StackResource
from ebscrypt.cli import arguments, output


def stack_record(stack: Stack) -> dict[str, Any]:
    """A stack as DescribeStacks would tell it, with its resources as DescribeStackResources would."""
    known = stack.is_now or stack.wanted
    return {
        "StackId": stack.stack_id,
        "StackName": stack.name,
        "StackStatus": stack.status.value,
        "StackStatusReason": stack.status_reason,
        "Description": stack.description,
        "CreationTime": output.timestamp(stack.create_time),
        "LastUpdatedTime": None if stack.update_time is None else output.timestamp(stack.update_time),
        "DeletionTime": None if stack.delete_time is None else output.timestamp(stack.delete_time),
        "Parameters": [
            {"ParameterKey": key, "ParameterValue": value} for key, value in shown_parameters(stack).items()
        ],
        "Tags": [{"Key": key, "Value": value} for key, value in ({} if known is None else known.tags).items()],
        "Outputs": [
            {
                "OutputKey": one.name,
                "OutputValue": one.value,
                "Description": one.description,
                "ExportName": one.export,
            }
            for one in stack.outputs
        ],
        "Resources": [_resource_record(one) for one in stack.resources.values()],
    }


def shown_parameters(stack: Stack) -> dict[str, str]:
    """The stack's parameters, those with NoEcho hidden."""
    known = stack.is_now or stack.wanted
    if known is None or not known.parameters:
        return {}
    from ebscrypt.templates.parameters import shown  # noqa: PLC0415 - most stacks have none, and PyYAML takes time
    from ebscrypt.templates.template import read_template  # noqa: PLC0415 - the same

    return shown(read_template(known.template), known.parameters)


def _resource_record(resource: StackResource) -> dict[str, Any]:
    return {
        "LogicalResourceId": resource.logical_id,
        "PhysicalResourceId": resource.physical_id,
        "ResourceType": resource.type,
        "ResourceStatus": resource.status.value,
        "ResourceStatusReason": resource.status_reason,
        "Timestamp": output.timestamp(resource.timestamp),
    }


def event_record(event: StackEvent) -> dict[str, Any]:
    """An event as DescribeStackEvents would tell it."""
    return {
        "EventId": event.event_id,
        "LogicalResourceId": event.logical_id,
        "PhysicalResourceId": event.physical_id,
        "ResourceType": event.type,
        "ResourceStatus": event.status,
        "ResourceStatusReason": event.reason,
        "Timestamp": output.timestamp(event.timestamp),
    }


def change_record(change: ResourceChange) -> dict[str, Any]:
    """A change as DescribeChangeSet would tell it."""
    return {
        "Type": "Resource",
        "ResourceChange": {
            "Action": change.action,
            "LogicalResourceId": change.logical_id,
            "PhysicalResourceId": change.physical_id,
            "ResourceType": change.type,
            "Replacement": change.replacement,
            "PolicyAction": change.policy_action,
            "Scope": ["Properties"] if change.properties else [],
            "Details": [{"Target": {"Attribute": "Properties", "Name": name}} for name in change.properties],
        },
    }


def stack_fields(stack: Stack) -> dict[str, str | None]:
    """What `show` prints first."""
    return {
        "stack": stack.name,
        "id": stack.stack_id,
        "status": stack.status.value,
        "why": stack.status_reason,
        "description": stack.description,
        "created": output.timestamp(stack.create_time),
        "updated": None if stack.update_time is None else output.timestamp(stack.update_time),
        "deleted": None if stack.delete_time is None else output.timestamp(stack.delete_time),
        "parameters": ", ".join(f"{key}={value}" for key, value in shown_parameters(stack).items()) or None,
    }


def resource_rows(stack: Stack) -> list[tuple[str, ...]]:
    return [(one.logical_id, one.type, one.status.value, one.physical_id or "-") for one in stack.resources.values()]


def event_rows(events: list[StackEvent]) -> list[tuple[str, ...]]:
    return [(output.timestamp(one.timestamp), one.logical_id, one.status, one.reason or "-") for one in events]


def print_changes(changes: list[ResourceChange]) -> None:
    """What an operation would do, a line a resource; nothing where it would do nothing."""
    if not changes:
        return
    rows = [
        (
            one.action,
            one.logical_id,
            one.type,
            one.physical_id or "-",
            one.replacement or one.policy_action or "-",
            ", ".join(one.properties) or "-",
        )
        for one in changes
    ]
    output.print_table(("ACTION", "RESOURCE", "TYPE", "ID", "REPLACEMENT", "PROPERTIES"), rows)


def teller(parsed: argparse.Namespace) -> Callable[[StackEvent], None]:
    """Says each event on stderr as it happens: a line, or with JSON output a JSON object."""

    def tell(event: StackEvent) -> None:
        reason = f": {event.reason}" if event.reason else ""
        arguments.say(f"{event.logical_id} {event.status}{reason}", parsed)

    return tell

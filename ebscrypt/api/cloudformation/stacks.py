"""Actions that change a stack: the answer comes when the operation has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebscrypt.api.cloudformation import asked
from ebscrypt.api.errors import ApiError
from ebscrypt.control.stacks import requests

if TYPE_CHECKING:
    from ebscrypt.api.call import Call


def create_stack(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """A new stack, ``CREATE_IN_PROGRESS``."""
    asked.refuse_options(request)
    name = request["StackName"]
    if call.site.catalog.stacks.find(name) is not None:
        raise ApiError("AlreadyExistsException", f"Stack [{name}] already exists")
    text = asked.template(request)
    values, tags = asked.parameters(request, None), asked.tags(request)
    stack = requests.create_stack(call.site, name, text or "", parameters=values, tags=tags)
    return {"StackId": stack.stack_id}


def update_stack(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The stack, ``UPDATE_IN_PROGRESS``."""
    asked.refuse_options(request)
    before = call.site.catalog.stacks.get(request["StackName"])
    stack = requests.update_stack(
        call.site,
        before.stack_id,
        asked.template(request),
        parameters=asked.parameters(request, before),
        tags=asked.tags(request),
    )
    return {"StackId": stack.stack_id}


def delete_stack(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The stack is ``DELETE_IN_PROGRESS``. One that is not there is no error, as in CloudFormation."""
    asked.refuse_options(request)
    requests.delete_stack(call.site, request["StackName"])
    return {}

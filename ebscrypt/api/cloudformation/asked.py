"""What requests about stacks have in common: template, parameters, tags, and options that are not here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ebscrypt.api.errors import ApiError
from ebscrypt.catalog.stack_records import Stack

LONGEST_BODY: Final = 51_200
"""Bytes of a template that a request carries: CloudFormation's own limit."""
_REFUSED: Final = {
    "DisableRollback": (False,),
    "OnFailure": ("ROLLBACK",),
    "OnStackFailure": ("ROLLBACK",),
    "RetainResources": ([],),
    "ResourcesToImport": ([],),
    "NotificationARNs": ([],),
    "EnableTerminationProtection": (False,),
    "ImportExistingResources": (False,),
    "IncludeNestedStacks": (False,),
    "DeletionMode": ("STANDARD",),
    "StackPolicyBody": (),
    "StackPolicyURL": (),
    "TemplateURL": (),
}
"""Options whose neglect a client would notice, with the values that ask for what is done anyway."""


def refuse_options(request: Mapping[str, Any]) -> None:
    """Raise `ApiError` for an option that is not here: none is passed over in silence."""
    for name, allowed in _REFUSED.items():
        if name in request and request[name] not in allowed:
            raise validation(f"{name} is not supported by this endpoint")


def validation(message: str) -> ApiError:
    return ApiError("ValidationError", message)


def template(request: Mapping[str, Any], *, required: bool = True) -> str | None:
    """The template's text; None where the previous one is to be used, or none is ``required`` and none is there."""
    body = request.get("TemplateBody")
    if body is not None:
        if request.get("UsePreviousTemplate"):
            raise validation("You cannot specify both usePreviousTemplate and Template Body/Template URL.")
        if len(body.encode()) > LONGEST_BODY:
            raise validation(f"the template has over {LONGEST_BODY} bytes, which a request may carry")
        return str(body)
    if required and not request.get("UsePreviousTemplate"):
        raise validation("Either Template URL or Template Body must be specified.")
    return None


def parameters(request: Mapping[str, Any], stack: Stack | None) -> dict[str, str]:
    """The values that are given, and those that are to be as the stack has them. Raises `ApiError`."""
    before = {} if stack is None or stack.is_now is None else stack.is_now.parameters
    found: dict[str, str] = {}
    for one in request.get("Parameters", ()):
        key = one.get("ParameterKey", "")
        if key in found:
            raise validation(f"Duplicate parameter key: {key[:80]}")
        if one.get("UsePreviousValue"):
            if key not in before:
                raise validation(f"Invalid input for parameter key {key[:80]}. Cannot specify usePreviousValue as true")
            found[key] = before[key]
        elif "ParameterValue" in one:
            found[key] = one["ParameterValue"]
        else:
            raise validation(f"Parameter {key[:80]} must have a value")
    return found


def tags(request: Mapping[str, Any]) -> dict[str, str] | None:
    """The stack's tags; None where nothing is said of them. Raises `ApiError` for a key given twice."""
    if "Tags" not in request:
        return None
    found = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    if len(found) != len(request["Tags"]):
        raise validation("Duplicate tag keys")
    return found

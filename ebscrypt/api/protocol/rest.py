"""Parameters and answers in paths, query strings, headers and bodies: the protocol rest-json, as EBS direct uses it.

The model says where each member goes; what is inside a JSON body is read and checked as KMS's is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import msgspec

from ebscrypt.api.errors import ApiError
from ebscrypt.api.protocol import scalars
from ebscrypt.api.protocol.http import HttpAnswer, HttpRequest
from ebscrypt.kms.embedded import wire
from ebscrypt.kms.embedded.faults import KmsFault

if TYPE_CHECKING:
    from botocore.model import OperationModel, ServiceModel, StructureShape


def find(model: ServiceModel, request: HttpRequest) -> tuple[OperationModel, dict[str, str]] | None:
    """The operation whose method and path these are, with what stands in the path; None if there is none."""
    for operation, pattern in _routes(model):
        matched = pattern.fullmatch(request.path)
        if operation.http["method"] == request.method and matched:
            return operation, {name: unquote(text) for name, text in matched.groupdict().items()}
    return None


@lru_cache(maxsize=8)
def _routes(model: ServiceModel) -> list[tuple[OperationModel, re.Pattern[str]]]:
    """The operations with their paths, those with most fixed text first: ``completion`` is no snapshot's id."""
    operations = [model.operation_model(name) for name in model.operation_names]
    operations.sort(key=lambda operation: -len(re.sub(r"\{\w+\}", "", operation.http["requestUri"])))
    return [
        (operation, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.http["requestUri"])))
        for operation in operations
    ]


def read(operation: OperationModel, request: HttpRequest, in_path: dict[str, str]) -> dict[str, Any]:
    """The operation's parameters. Raises `ApiError` ValidationException for all that the model does not allow."""
    shape = operation.input_shape
    if shape is None:
        return {}
    payload = shape.serialization.get("payload")
    found = {} if payload else _json_body(request.body)
    # A member that has a place of its own is not taken out of the body.
    found = {name: value for name, value in found.items() if not _place(shape, name)}
    found |= _outside_the_body(shape, request, in_path)
    try:
        # The payload's place is held: it is bytes already, and may be as long as the server lets a body be.
        values = wire.read(shape, found | {payload: ""} if payload else found)
    except KmsFault as fault:
        raise _invalid(fault.message) from None
    return values | {payload: request.body} if payload else values


def answer(operation: OperationModel, values: dict[str, Any]) -> HttpAnswer:
    """The operation's answer."""
    shape = operation.output_shape
    status = int(operation.http.get("responseCode", 200))
    if shape is None:
        return HttpAnswer(status=status)
    headers, inside = {}, {}
    for name, value in values.items():
        member = shape.members[name]
        if member.serialization.get("location") == "header":
            headers[str(member.serialization["name"])] = scalars.write(value)
        else:
            inside[name] = value
    if payload := shape.serialization.get("payload"):
        return HttpAnswer(
            status=status, headers=headers | {"Content-Type": "application/octet-stream"}, body=inside[payload]
        )
    body = msgspec.json.encode(wire.write(shape, inside))
    return HttpAnswer(status=status, headers=headers | {"Content-Type": "application/json"}, body=body)


def error(fault: ApiError) -> HttpAnswer:
    """An error: its code in a header, message and reason in the body (facts §6.7)."""
    body = {"Message": fault.message} | ({"Reason": fault.reason} if fault.reason else {}) | dict(fault.fields)
    return HttpAnswer(
        status=fault.status,
        headers={"Content-Type": "application/json", "x-amzn-ErrorType": fault.code},
        body=msgspec.json.encode(body),
    )


def _json_body(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _invalid("The request body is not JSON.") from None
    if not isinstance(found, dict):
        raise _invalid("The request body is not a JSON object.")
    return found


def _outside_the_body(shape: StructureShape, request: HttpRequest, in_path: dict[str, str]) -> dict[str, Any]:
    try:
        in_query = dict(parse_qsl(request.query, keep_blank_values=True, max_num_fields=100, errors="strict"))
    except (ValueError, UnicodeDecodeError):
        raise _invalid("The query string is not one in UTF-8.") from None
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        place, sent = member.serialization.get("location"), str(member.serialization.get("name", name))
        text = {"uri": in_path, "querystring": in_query, "header": request.headers}.get(str(place), {}).get(
            sent.lower() if place == "header" else sent
        )
        if text is None:
            continue
        try:
            found[name] = scalars.READERS[member.type_name](text)
        except ValueError:
            raise _invalid(f"{sent} is not of type {member.type_name}.") from None
    return found


def _place(shape: StructureShape, name: str) -> str | None:
    member = shape.members.get(name)
    return member.serialization.get("location") if member is not None else None


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message, reason="INVALID_PARAMETER_VALUE")

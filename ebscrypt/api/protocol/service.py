"""One service of the API: which operation a request is for, its parameters, and how answers and errors are written.

Everything a protocol has of its own is in one class; what is behind it is operations by their API names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from ebscrypt.api.errors import ApiError, missing_parameter
from ebscrypt.api.protocol import constraints, forms, rest, xml
from ebscrypt.api.protocol.http import HttpAnswer, HttpRequest

if TYPE_CHECKING:
    from botocore.model import OperationModel, ServiceModel, Shape

    from ebscrypt.api.call import Call, Operation

_XML: Final = {"Content-Type": "text/xml;charset=UTF-8"}
_MAX_BODY: Final = 2 << 20
"""Bytes of a form: a CloudFormation template of 1 MB, percent-encoded where it must be."""
_BLOCK_BODY: Final = 1 << 20
"""Bytes: EBS direct's block of 512 KiB, and room to tell a client that it is too long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that agrees with the model: ``action`` for the log, and ``perform`` to answer it with a `Call`."""

    action: str
    perform: Callable[[Call], HttpAnswer]


class Service(Protocol):
    """What the gateway asks of a service. ``name`` is what clients sign for."""

    @property
    def name(self) -> str: ...

    @property
    def largest_body(self) -> int:
        """Bytes of the longest request."""

    def may_be_unsigned(self, request: HttpRequest) -> bool:
        """Whether the signature need not cover the body of this request."""

    def read(self, request: HttpRequest) -> Asked:
        """What is asked, checked by the model. Raises `ApiError`."""

    def error(self, fault: ApiError, request_id: str) -> HttpAnswer:
        """An answer that is an error."""


@dataclass(frozen=True, slots=True)
class FormService:
    """A service of the protocol ec2 or query: a form in, XML out."""

    name: str
    model: ServiceModel
    operations: Mapping[str, Operation]

    @property
    def largest_body(self) -> int:
        return _MAX_BODY

    def may_be_unsigned(self, request: HttpRequest) -> bool:  # noqa: ARG002 - no request of a form may
        return False

    def read(self, request: HttpRequest) -> Asked:
        if request.path != "/" or request.method not in ("GET", "POST"):
            raise ApiError("InvalidAction", "Requests are POST or GET of /.", status=404)
        root = forms.parse(_form(request))
        action = _text(root, "Action")
        if not action:
            raise ApiError("MissingAction", "The request must contain the parameter Action")
        if action not in self.model.operation_names:
            raise ApiError("InvalidAction", f"The action {action[:80]} is not valid for this web service.")
        version = _text(root, "Version")
        if version != self.model.api_version:
            raise ApiError(
                "InvalidParameterValue" if version else "MissingParameter",
                f"The parameter Version is {self.model.api_version} here.",
            )
        operation = self.model.operation_model(action)
        if action not in self.operations:
            raise ApiError("UnsupportedOperation", f"{action} is not supported by this endpoint.")
        reader = forms.read_ec2 if self._is_ec2 else forms.read_query
        values = reader(operation.input_shape, root)
        self._check(operation, values)
        return Asked(action, partial(self._perform, operation, values))

    def error(self, fault: ApiError, request_id: str) -> HttpAnswer:
        if self._is_ec2:
            return _xml(fault.status, xml.ec2_error(fault, request_id), request_id)
        return _xml(fault.status, xml.query_error(fault, request_id, self.model.metadata["xmlNamespace"]), request_id)

    def _perform(self, operation: OperationModel, values: dict[str, Any], call: Call) -> HttpAnswer:
        answered = self.operations[operation.name](call, values)
        write = xml.ec2_answer if self._is_ec2 else xml.query_answer
        return _xml(200, write(operation, answered, call.request_id), call.request_id)

    @property
    def _is_ec2(self) -> bool:
        return bool(self.model.metadata["protocol"] == "ec2")

    def _check(self, operation: OperationModel, values: dict[str, Any]) -> None:
        found = constraints.broken(operation.input_shape, values, self._wire_name)
        if not found:
            return
        if self._is_ec2:
            raise _ec2_refusal(found[0])
        count = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected: "
        raise ApiError("ValidationError", count + "; ".join(broken.text for broken in found))

    def _wire_name(self, shape: Shape, member: str) -> str:
        return forms.wire_name(shape, member, ec2=self._is_ec2)


@dataclass(frozen=True, slots=True)
class RestService:
    """A service of the protocol rest-json."""

    name: str
    model: ServiceModel
    operations: Mapping[str, Operation]

    @property
    def largest_body(self) -> int:
        return _BLOCK_BODY

    def may_be_unsigned(self, request: HttpRequest) -> bool:
        found = rest.find(self.model, request)
        return found is not None and found[0].auth_type == "v4-unsigned-body"

    def read(self, request: HttpRequest) -> Asked:
        found = rest.find(self.model, request)
        if found is None:
            raise ApiError("UnknownOperationException", "There is no operation with this method and path.", status=404)
        operation, in_path = found
        if operation.name not in self.operations:
            raise ApiError("UnknownOperationException", f"{operation.name} is not supported here.", status=404)
        values = rest.read(operation, request, in_path)
        return Asked(operation.name, partial(self._perform, operation, values))

    def error(self, fault: ApiError, request_id: str) -> HttpAnswer:
        return _with_id(rest.error(_in_rest(fault)), request_id)

    def _perform(self, operation: OperationModel, values: dict[str, Any], call: Call) -> HttpAnswer:
        answered = self.operations[operation.name](call, values)
        return _with_id(rest.answer(operation, answered), call.request_id)


_IN_REST: Final = {
    "InternalError": ("InternalServerException", None),
    "ServiceUnavailable": ("InternalServerException", None),
    "RequestLimitExceeded": ("RequestThrottledException", "DEPENDENCY_REQUEST_THROTTLED"),
    "InvalidSnapshot.NotFound": ("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"),
    "CustomerKeyHasBeenRevoked": ("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"),
    "UnauthorizedOperation": ("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"),
    "IncorrectState": ("ValidationException", "INVALID_SNAPSHOT_ID"),
}
"""EC2's codes, which ebscrypt's errors carry, as EBS direct's code and reason (facts §6.7)."""
_STATUS_IN_REST: Final = {
    "ResourceNotFoundException": 404,
    "AccessDeniedException": 403,
    "RequestThrottledException": 400,
}


def _in_rest(fault: ApiError) -> ApiError:
    if fault.reason is not None or fault.code.endswith("Exception"):
        return fault
    code, reason = _IN_REST.get(fault.code, ("ValidationException", "INVALID_PARAMETER_VALUE"))
    status = _STATUS_IN_REST.get(code, 500 if code == "InternalServerException" else 400)
    return ApiError(code, fault.message, status=status, reason=reason, fields=fault.fields)


_CODE_OF_ENUM: Final = {"VolumeType": "UnknownVolumeType"}
"""EC2's own code for a value outside a set, by the set's name, where it is not InvalidParameterValue."""


def _ec2_refusal(broken: constraints.Broken) -> ApiError:
    if broken.missing:
        return missing_parameter(broken.path)
    if "enum" in broken.shape.metadata and broken.shape.name in _CODE_OF_ENUM:
        return ApiError(_CODE_OF_ENUM[broken.shape.name], f"Unsupported volume type '{str(broken.value)[:80]}'.")
    shown = "" if broken.shape.metadata.get("sensitive") else f" ({str(broken.value)[:80]})"
    rule = broken.text.partition("failed to satisfy constraint: ")[2]
    return ApiError("InvalidParameterValue", f"Value{shown} for parameter {broken.path[:80]} is invalid. {rule[:500]}.")


def _form(request: HttpRequest) -> str:
    """The form in the body or, where that is empty, in the query string, without what a signature adds to it."""
    if not request.body:
        pairs = (pair for pair in request.query.split("&") if not pair.lower().startswith("x-amz-"))
        return "&".join(pairs)
    if request.method == "GET":
        raise ApiError("MalformedQueryString", "A GET request has no body.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise ApiError("MalformedQueryString", "The content type is not application/x-www-form-urlencoded.")
    try:
        return request.body.decode()
    except UnicodeDecodeError:
        raise ApiError("MalformedQueryString", "The request is not a form in UTF-8.") from None


def _text(root: forms.Node, name: str) -> str:
    node = root.parts.get(name)
    return node.text or "" if node else ""


def _xml(status: int, document: str, request_id: str) -> HttpAnswer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{document}'.encode()
    return _with_id(HttpAnswer(status=status, headers=_XML, body=body), request_id)


def _with_id(answer: HttpAnswer, request_id: str) -> HttpAnswer:
    headers = answer.headers | {"x-amzn-RequestId": request_id}
    return HttpAnswer(status=answer.status, headers=headers, body=answer.body)

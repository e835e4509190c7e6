"""Answers as XML, as the protocols ec2 and query write them (facts §6.1).

Text is built, not a tree: an answer is nothing but elements and text, and the model has the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from ebscrypt.api.protocol import scalars

if TYPE_CHECKING:
    from botocore.model import OperationModel, Shape

    from ebscrypt.api.errors import ApiError


def ec2_answer(operation: OperationModel, values: dict[str, Any], request_id: str) -> str:
    """The answer to an EC2 action; one that has nothing to tell says ``<return>true</return>``."""
    shape = operation.output_shape
    inner = _members(shape, values) if shape is not None else "<return>true</return>"
    return _document(operation, _element("requestId", escape(request_id)) + inner)


def query_answer(operation: OperationModel, values: dict[str, Any], request_id: str) -> str:
    """The answer to an action of the protocol query."""
    shape = operation.output_shape
    inner = ""
    if shape is not None:
        inner = _element(str(shape.serialization["resultWrapper"]), _members(shape, values))
    return _document(operation, inner + _element("ResponseMetadata", _element("RequestId", escape(request_id))))


def ec2_error(error: ApiError, request_id: str) -> str:
    """An error as EC2 writes it (facts §6.1)."""
    inner = _element("Errors", _element("Error", _error_members(error)))
    return _element("Response", inner + _element("RequestID", escape(request_id)))


def query_error(error: ApiError, request_id: str, namespace: str) -> str:
    """An error of the protocol query."""
    kind = _element("Type", "Sender" if error.status < 500 else "Receiver")
    inner = _element("Error", kind + _error_members(error)) + _element("RequestId", escape(request_id))
    return f'<ErrorResponse xmlns="{escape(namespace)}">{inner}</ErrorResponse>'


def _error_members(error: ApiError) -> str:
    more = "".join(_element(name, _text(value)) for name, value in error.fields.items())
    return _element("Code", _text(error.code)) + _element("Message", _text(error.message)) + more


def _document(operation: OperationModel, inner: str) -> str:
    namespace = operation.service_model.metadata["xmlNamespace"].rstrip("/") + "/"
    return f'<{operation.name}Response xmlns="{escape(namespace)}">{inner}</{operation.name}Response>'


def _members(shape: Shape, values: dict[str, Any]) -> str:
    """KeyError for a member that the model does not have: that is a mistake of the operation's."""
    written = []
    for name, value in values.items():
        member = shape.members[name]  # type: ignore[attr-defined]  # a StructureShape
        if value is not None:
            written.append(_element(str(member.serialization.get("name", name)), _value(member, value)))
    return "".join(written)


def _value(shape: Shape, value: Any) -> str:
    if shape.type_name == "structure":
        return _members(shape, value)
    if shape.type_name == "list":
        member = shape.member  # type: ignore[attr-defined]  # a ListShape
        name = str(member.serialization.get("name", "member"))
        return "".join(_element(name, _value(member, item)) for item in value)
    if shape.type_name == "map":
        return "".join(_entry(shape, key, item) for key, item in value.items())
    return _text(value)


def _entry(shape: Shape, key: str, value: Any) -> str:
    inner = _value(shape.value, value)  # type: ignore[attr-defined]  # a MapShape
    return _element("entry", _element("key", _text(key)) + _element("value", inner))


def _element(name: str, inner: str) -> str:
    return f"<{name}>{inner}</{name}>" if inner else f"<{name}/>"


def _text(value: Any) -> str:
    # A parser turns a bare carriage return into a newline (XML 1.0 §2.11); a reference stays what it is.
    return escape(scalars.xml_text(scalars.write(value)), {"\r": "&#13;"})

"""Requests checked and answers written by botocore's model of KMS, the same that the clients have.

JSON as it came goes in, values of Python come out (blobs as bytes), and the other way round. A request that breaks the
model gets AWS's own wording: ``1 validation error detected: Value '5' at 'limit' failed to satisfy constraint: …``,
with the member's name in lower camel case. Times are seconds since 1970. Unknown members and nulls are
ignored, as AWS does. What the model marks as
sensitive, and every blob, is never quoted.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.kms.embedded.faults import KmsFault, validation

if TYPE_CHECKING:
    from botocore.model import ListShape, MapShape, Shape, StructureShape

_JSON_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "string": str,
    "timestamp": (int, float),
    "integer": int,
    "long": int,
    "boolean": bool,
    "blob": str,
    "structure": dict,
    "map": dict,
    "list": list,
}


def read(shape: StructureShape, request: Any) -> dict[str, Any]:
    """The request's members as values. Raises `KmsFault` for wrong types, then for all broken constraints together."""
    broken: list[str] = []
    values = _structure(shape, request, "", broken)
    if broken:
        count = f"{len(broken)} validation error{'s' if len(broken) > 1 else ''} detected: "
        raise validation(count + "; ".join(broken))
    return values


def write(shape: Shape, value: Any) -> Any:
    """``value`` as JSON of ``shape``: blobs in base64, times as seconds since 1970. KeyError for an unknown member."""
    if shape.type_name == "structure":
        members = shape.members  # type: ignore[attr-defined]  # a StructureShape
        return {name: write(members[name], member) for name, member in value.items()}
    if shape.type_name == "list":
        return [write(shape.member, item) for item in value]  # type: ignore[attr-defined]  # a ListShape
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    if shape.type_name == "timestamp":
        return round(value.timestamp() if isinstance(value, datetime) else value, 3)
    return value


def _read(shape: Shape, value: Any, path: str, broken: list[str]) -> Any:
    expected = _JSON_TYPES.get(shape.type_name)
    if expected is None or not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise KmsFault("SerializationException", f"The member {path} is not a JSON value for {shape.type_name}.")
    if shape.type_name == "structure":
        return _structure(shape, value, path, broken)  # type: ignore[arg-type]  # by its type name
    if shape.type_name == "map":
        return _map(shape, value, path, broken)  # type: ignore[arg-type]
    if shape.type_name == "blob":
        value = _bytes(str(value), path)
    broken.extend(broken_rules(shape, value, path))
    if shape.type_name == "list":
        return _list(shape, value, path, broken)  # type: ignore[arg-type]
    return value


def _structure(shape: StructureShape, value: Any, path: str, broken: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise KmsFault("SerializationException", "The request is not a JSON object.")
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        where = f"{path}.{_camel(name)}" if path else _camel(name)
        if value.get(name) is not None:
            found[name] = _read(member, value[name], where, broken)
        elif name in shape.required_members:
            broken.append(f"Value null at '{where}' failed to satisfy constraint: Member must not be null")
    return found


def _map(shape: MapShape, value: dict[str, Any], path: str, broken: list[str]) -> dict[str, Any]:
    return {
        _read(shape.key, name, f"{path}.key", broken): _read(shape.value, item, f"{path}.value", broken)
        for name, item in value.items()
    }


def _list(shape: ListShape, value: list[Any], path: str, broken: list[str]) -> list[Any]:
    return [_read(shape.member, item, f"{path}.{place}.member", broken) for place, item in enumerate(value, 1)]


def _bytes(value: str, path: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise KmsFault("SerializationException", f"The member {path} is not valid base64.") from None


def broken_rules(shape: Shape, value: Any, path: str) -> list[str]:
    """What ``value``, without what is inside of it, breaks of the shape's constraints, in AWS's words."""
    rules = shape.metadata
    numeric = isinstance(value, int) and not isinstance(value, bool)
    what, size = ("value", value) if numeric else ("length", len(value) if hasattr(value, "__len__") else None)
    problems = []
    if size is not None and size < rules.get("min", size):
        problems.append(f"Member must have {what} greater than or equal to {rules['min']}")
    if size is not None and size > rules.get("max", size):
        problems.append(f"Member must have {what} less than or equal to {rules['max']}")
    if isinstance(value, str):
        if "enum" in rules and value not in rules["enum"]:
            problems.append(f"Member must satisfy enum value set: [{', '.join(rules['enum'])}]")
        if "pattern" in rules and not _pattern(rules["pattern"]).fullmatch(value):
            problems.append(f"Member must satisfy regular expression pattern: {rules['pattern']}")
    shown = "Value" if rules.get("sensitive") or not isinstance(value, (str, int)) else f"Value '{value}'"
    return [f"{shown} at '{path}' failed to satisfy constraint: {problem}" for problem in problems]


@lru_cache(maxsize=64)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _camel(name: str) -> str:
    return name[0].lower() + name[1:]

"""What the service model demands of parameters that came in a form: members that must be there, lengths, ranges, sets.

The wording of a broken rule is the embedded KMS's, which is AWS's; see `ebscrypt.kms.embedded.wire`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebscrypt.kms.embedded import wire

if TYPE_CHECKING:
    from botocore.model import Shape, StructureShape

NameOf = Callable[["Shape", str], str]
"""How a member is called on the wire."""


@dataclass(frozen=True, slots=True)
class Broken:
    """One broken rule. ``path`` names the parameter as the wire does; ``missing`` says that there is none."""

    path: str
    shape: Shape
    value: Any
    text: str
    missing: bool = False


def broken(shape: StructureShape | None, values: dict[str, Any], name_of: NameOf) -> list[Broken]:
    """All rules that the parameters break, in the order of the model."""
    return list(_structure(shape, values, "", name_of)) if shape is not None else []


def _structure(shape: StructureShape, values: dict[str, Any], path: str, name_of: NameOf) -> Iterator[Broken]:
    for name, member in shape.members.items():
        wire_name = name_of(member, name)
        where = f"{path}.{wire_name}" if path else wire_name
        if name in values:
            yield from _value(member, values[name], where, name_of)
        elif name in shape.required_members:
            text = f"Value null at '{where}' failed to satisfy constraint: Member must not be null"
            yield Broken(where, member, None, text, missing=True)


def _value(shape: Shape, value: Any, path: str, name_of: NameOf) -> Iterator[Broken]:
    if shape.type_name == "structure":
        yield from _structure(shape, value, path, name_of)  # type: ignore[arg-type]  # by its type name
        return
    for text in wire.broken_rules(shape, value, path):
        yield Broken(path, shape, value, text)
    if shape.type_name == "list":
        for place, item in enumerate(value, 1):
            yield from _value(shape.member, item, f"{path}.{place}", name_of)  # type: ignore[attr-defined]
    elif shape.type_name == "map":
        for item in value.values():
            yield from _value(shape.value, item, path, name_of)  # type: ignore[attr-defined]

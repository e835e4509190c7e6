"""Parameters out of a form, as the protocols ec2 and query write them: ``TagSpecification.1.Tag.2.Key=Name``.

The two differ in how lists and names are written (facts §6.1; botocore's QuerySerializer and EC2Serializer are the
other side). Dotted names become a tree, and the service model says how to read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from ebscrypt.api.errors import ApiError
from ebscrypt.api.protocol import scalars

if TYPE_CHECKING:
    from botocore.model import ListShape, MapShape, Shape, StructureShape

MOST_PARAMETERS: Final = 20_000
"""Parameters of one request. The longest that AWS allows, 1000 resources and 50 tags, has some 1100."""
_MOST_STEPS: Final = 100_000
"""Parts of all names together: what a request may cost in memory."""
_DEEPEST: Final = 32
"""Dots in a name. The deepest name of EC2's model has 12."""
_PLACE: Final = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
NOT_MEMBERS: Final = frozenset({"Action", "Version"})


@dataclass(slots=True)
class Node:
    """What has one name: a text, or parts with names of their own."""

    text: str | None = None
    parts: dict[str, Node] = field(default_factory=dict)


def parse(form: str) -> Node:
    """The tree of a form. Raises `ApiError` for what is no form, for names given twice, and for far too many."""
    try:
        pairs = parse_qsl(form, keep_blank_values=True, max_num_fields=MOST_PARAMETERS, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise ApiError("MalformedQueryString", "The request is not a form in UTF-8.") from None
    if sum(name.count(".") for name, _ in pairs) + len(pairs) > _MOST_STEPS:
        raise ApiError("InvalidParameter", "The names of the parameters have too many parts.")
    root = Node()
    for name, text in pairs:
        node = root
        steps = name.split(".")
        if len(steps) > _DEEPEST:
            raise ApiError("InvalidParameter", "The name of a parameter has too many parts.")
        for step in steps:
            node = node.parts.setdefault(step, Node())
        if node.text is not None:
            raise ApiError("InvalidParameter", f"The parameter {name[:80]} is given more than once.")
        if not scalars.xml_can_carry(text):
            raise ApiError("InvalidParameterValue", f"The parameter {name[:80]} has a character that is not allowed.")
        node.text = text
    return root


def read_ec2(shape: StructureShape | None, root: Node) -> dict[str, Any]:
    """The members of ``shape`` in a form of the protocol ec2. Raises `ApiError` for unknown names and wrong types."""
    return _Reader(ec2=True).top(shape, root)


def read_query(shape: StructureShape | None, root: Node) -> dict[str, Any]:
    """The members of ``shape`` in a form of the protocol query. Unknown names are ignored, as those services do."""
    return _Reader(ec2=False).top(shape, root)


def wire_name(shape: Shape, member: str, *, ec2: bool) -> str:
    """How ``member`` is called in a request."""
    named = shape.serialization
    if not ec2:
        return str(named.get("name", member))
    if "queryName" in named:
        return str(named["queryName"])
    name = str(named.get("name", member))
    return name[0].upper() + name[1:]


@dataclass(frozen=True, slots=True)
class _Reader:
    ec2: bool

    def top(self, shape: StructureShape | None, root: Node) -> dict[str, Any]:
        known = Node(parts={name: node for name, node in root.parts.items() if name not in NOT_MEMBERS})
        return self._structure(shape, known, "")

    def _read(self, shape: Shape, node: Node, path: str) -> Any:
        if shape.type_name == "structure":
            return self._structure(shape, node, path)  # type: ignore[arg-type]  # by its type name
        if shape.type_name == "list":
            return self._list(shape, node, path)  # type: ignore[arg-type]
        if shape.type_name == "map":
            return self._map(shape, node, path)  # type: ignore[arg-type]
        if node.text is None or node.parts:
            raise ApiError("InvalidParameter", f"The parameter {path[:80]} has a single value.")
        try:
            return scalars.READERS[shape.type_name](node.text)
        except ValueError:
            shown = "" if shape.metadata.get("sensitive") else f" ({node.text[:80]})"
            message = f"Value{shown} for parameter {path[:80]} is invalid. It is not of type {shape.type_name}."
            raise ApiError("InvalidParameterValue", message) from None

    def _structure(self, shape: StructureShape | None, node: Node, path: str) -> dict[str, Any]:
        self._no_text(node, path)
        names = {wire_name(member, name, ec2=self.ec2): name for name, member in shape.members.items()} if shape else {}
        found: dict[str, Any] = {}
        for name, part in node.parts.items():
            where = f"{path}.{name}" if path else name
            if shape is not None and name in names:
                found[names[name]] = self._read(shape.members[names[name]], part, where)
            elif self.ec2:
                raise ApiError("UnknownParameter", f"The parameter {where[:80]} is not recognized")
        return found

    def _list(self, shape: ListShape, node: Node, path: str) -> list[Any]:
        if not self.ec2:
            self._no_text(node, path)
            name = str(shape.member.serialization.get("name", "member"))
            node, path = node.parts.get(name, Node()), f"{path}.{name}"
        self._no_text(node, path)
        return [self._read(shape.member, part, where) for where, part in _in_order(node, path)]

    def _map(self, shape: MapShape, node: Node, path: str) -> dict[str, Any]:
        self._no_text(node, path)
        found = {}
        for where, part in _in_order(node.parts.get("entry", Node()), f"{path}.entry"):
            if part.parts.keys() != {"key", "value"}:
                raise ApiError("InvalidParameter", f"The parameter {where[:80]} has a key and a value.")
            key = self._read(shape.key, part.parts["key"], f"{where}.key")
            found[key] = self._read(shape.value, part.parts["value"], f"{where}.value")
        return found

    @staticmethod
    def _no_text(node: Node, path: str) -> None:
        # A list without items is sent as its name without a text.
        if node.text:
            raise ApiError("InvalidParameter", f"The parameter {path[:80]} has no single value.")


def _in_order(node: Node, path: str) -> list[tuple[str, Node]]:
    """The items of a list by their numbers, which need not be without gaps."""
    for name in node.parts:
        if not _PLACE.fullmatch(name):
            raise ApiError("InvalidParameter", f"The parameter {path[:80]} is a list: {name[:20]!r} is not a number.")
    return [(f"{path}.{name}", node.parts[name]) for name in sorted(node.parts, key=int)]

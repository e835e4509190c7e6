"""Whether an event satisfies one branch.

A branch becomes a tree with the shape of the events it is for. Going down it, every list of objects in the event is a
choice of one element, which then has to satisfy all of the branch that lies below: so two conditions on one list meet
in the same element, and lists beside one another are decided apart, without trying their combinations. Only the tree
is walked by recursion, never the event, and the work grows as the size of the one times the size of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ebscrypt.events.patterns.grammar import Branch, Field

EventObject: TypeAlias = dict[str, object]
"""An object of an event."""


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the branch: what the values there must be, and what lies below."""

    field: Field | None
    children: dict[str, Node]
    paths: tuple[tuple[str, ...], ...]
    """All fields below in the order of AWS's engine; empty where none of them may be absent, for then none is asked."""


def tree_of(branch: Branch) -> Node:
    """The tree of a branch."""
    # The engine orders paths as Java orders strings: by UTF-16 code units.
    ordered = sorted(branch, key=lambda path: path.encode("utf-16-be", "surrogatepass"))
    return _node([(path.split("."), branch[path]) for path in ordered])


def _node(fields: list[tuple[list[str], Field]]) -> Node:
    below = [(names, field) for names, field in fields if names]
    by_name: dict[str, list[tuple[list[str], Field]]] = {}
    for (name, *rest), field in below:
        by_name.setdefault(name, []).append((rest, field))
    return Node(
        field=next((field for names, field in fields if not names), None),
        children={name: _node(inner) for name, inner in by_name.items()},
        paths=tuple(tuple(names) for names, _ in below) if any(field.may_be_absent for _, field in below) else (),
    )


class _Found(NamedTuple):
    """What the event has at one place: plain values, objects, and the objects that are elements of lists."""

    values: list[object]
    objects: list[EventObject]
    elements: list[EventObject]


def holds(node: Node, parts: Sequence[object]) -> bool:
    """Whether what the event has at this place is as wanted; a name with a dot may make it several parts."""
    found = _sorted_out(parts)
    if node.field is None:
        return _below_holds(node, found)
    if not node.children:
        return node.field.holds(found.values)
    if not found.values:
        return node.field.may_be_absent and _below_holds(node, found)
    return any(node.field.holds(values) and _below_holds(node, inner) for values, inner in _scopes(parts))


def _sorted_out(parts: Sequence[object]) -> _Found:
    """The parts by kind; a list in a list is as one list."""
    found = _Found([], [], [])
    pending: list[object] = []
    for part in parts:
        if isinstance(part, dict):
            found.objects.append(part)
        else:
            pending.append(part)
    for part in pending:  # grows while it is read, instead of recursing into the event
        if isinstance(part, dict):
            found.elements.append(part)
        elif isinstance(part, list):
            pending.extend(part)
        else:
            found.values.append(part)
    return found


def _scopes(parts: Sequence[object]) -> Iterator[tuple[list[object], _Found]]:
    """Plain values that stand beside one another, and where what lies below must then be looked for.

    Only a list can hold both. A value inside a list of that list settles that the rest, too, is in the inner list. This
    one case goes through lists in lists once for each level.
    """
    pending: list[Sequence[object]] = [parts]
    for scope in pending:
        values = [part for part in scope if not isinstance(part, dict | list)]
        if values:
            yield values, _sorted_out(parts if scope is parts else (scope,))
        pending.extend(part for part in scope if isinstance(part, list))


def _below_holds(node: Node, found: _Found) -> bool:
    elements = _candidates(node, found.elements) if node.paths else found.elements
    if not elements:
        return _children_hold(node, found.objects)
    return any(_children_hold(node, [*found.objects, element]) for element in elements)


def _children_hold(node: Node, objects: list[EventObject]) -> bool:
    parts = _parts_below(node.children, objects)
    return all(holds(child, parts[name]) for name, child in node.children.items())


def _parts_below(names: Iterable[str], objects: list[EventObject]) -> dict[str, list[object]]:
    """What the objects have under these names; ``{"a.b": 1}`` has ``{"b": 1}`` under ``a``."""
    found: dict[str, list[object]] = {name: [] for name in names}
    for part in objects:
        for key, value in part.items():
            name, dot, rest = key.partition(".")
            if name in found:
                found[name].append({rest: value} if dot else value)
    return found


def _candidates(node: Node, elements: list[EventObject]) -> list[EventObject]:
    """The elements of a list that may be chosen where some field may be absent.

    AWS's engine goes through the fields in order. Until a value has settled which element it is in, a field counts as
    absent only if no element has it. So the first field that any element has is the one that settles it.
    """
    first = next((path for path in node.paths if _reaches(path, elements)), None)
    return [] if first is None else [element for element in elements if _reaches(first, [element])]


def _reaches(path: tuple[str, ...], elements: list[EventObject]) -> bool:
    """Whether any of these objects, or what lies below them, has a value at this path."""
    parts: list[object] = [*elements]
    for name in path:
        found = _sorted_out(parts)
        parts = _parts_below((name,), found.objects + found.elements)[name]
    return bool(_sorted_out(parts).values)

"""Which resource refers to which, read off the template; and the order in which they can be made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from ebscrypt.errors import InvalidTemplate
from ebscrypt.templates.functions import VARIABLE
from ebscrypt.templates.template import Template

PSEUDO: Final = frozenset(
    {
        *("AWS::AccountId", "AWS::NoValue", "AWS::NotificationARNs", "AWS::Partition", "AWS::Region", "AWS::StackId"),
        *("AWS::StackName", "AWS::URLSuffix"),
    }
)


def references(node: Any) -> Iterator[str]:
    """Every name that ``node`` refers to by Ref, GetAtt or Sub: resources, parameters and pseudo parameters."""
    if isinstance(node, list):
        for child in node:
            yield from references(child)
    elif isinstance(node, dict):
        for key, child in node.items():
            if len(node) == 1 and key == "Ref" and isinstance(child, str):
                yield child
            elif len(node) == 1 and key == "Fn::GetAtt":
                yield from _resource_of(child)
            elif len(node) == 1 and key == "Fn::Sub":
                yield from _in_text(child)
            else:
                yield from references(child)


def _resource_of(arguments: Any) -> Iterator[str]:
    if isinstance(arguments, str):
        yield arguments.split(".", 1)[0]
    elif isinstance(arguments, list) and arguments and isinstance(arguments[0], str):
        yield arguments[0]
        yield from references(arguments[1:])


def _in_text(arguments: Any) -> Iterator[str]:
    text, own = arguments if isinstance(arguments, list) and len(arguments) == 2 else (arguments, {})
    if isinstance(own, dict):
        yield from references(list(own.values()))
    if isinstance(text, str):
        for literal, name in VARIABLE.findall(text):
            if not literal and not (isinstance(own, dict) and name.strip() in own):
                yield name.strip().split(".", 1)[0]


def check_references(template: Template) -> None:
    """Raise `InvalidTemplate` for a name that nothing has, in resources, outputs and conditions; and for a circle."""
    known = PSEUDO | set(template.parameters)
    for section, nodes in (
        ("Resources", {name: [resource.properties] for name, resource in template.resources.items()}),
        ("Outputs", {name: [output.value, output.export] for name, output in template.outputs.items()}),
    ):
        for name, node in nodes.items():
            _refuse_unknown(set(references(node)) - known - set(template.resources), f"{section}/{name}", section)
    for name, node in template.conditions.items():
        _refuse_unknown(set(references(node)) - known, f"Conditions/{name}", "Conditions")
    for name, resource in template.resources.items():
        _refuse_unknown(set(resource.depends_on) - set(template.resources), f"Resources/{name}", "Resources")
    ordered(edges(template, template.resources))


def _refuse_unknown(names: set[str], where: str, section: str) -> None:
    if names:
        listed = ", ".join(sorted(name[:80] for name in names))
        raise InvalidTemplate(
            f"Template format error: Unresolved resource dependencies [{listed}] in the {section} block of the "
            f"template (/{where})"
        )


def edges(template: Template, included: Collection[str]) -> dict[str, set[str]]:
    """Of each resource in ``included``, those others in it that must be there before."""
    return {
        name: (set(references(template.resources[name].properties)) | set(template.resources[name].depends_on))
        & set(included)
        for name in included
    }


def ordered(needs: Mapping[str, Collection[str]]) -> list[str]:
    """An order in which nothing comes before what it needs; by name where that leaves it open, so always the same one.

    Raises `InvalidTemplate` for a circle.
    """
    sorter = TopologicalSorter({name: sorted(needs[name]) for name in sorted(needs)})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = sorted(set(error.args[1]))
        raise InvalidTemplate(f"Circular dependency between resources: [{', '.join(circle)}]") from None
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order

"""The text of a template as plain values: dicts, lists, strings, numbers and booleans.

YAML as CloudFormation takes it: 1.1 without aliases, merges and the tags for times and binary data; so nothing in a
template can grow beyond its text. A short tag becomes the long form: ``!Ref x`` is ``{"Ref": "x"}``, ``!Sub x`` is
``{"Fn::Sub": "x"}``. A text that begins with ``{`` is JSON. Keys given twice and nulls are refused in both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import yaml
from yaml.events import AliasEvent, Event
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ebscrypt.errors import InvalidTemplate

LARGEST_TEMPLATE: Final = 1_000_000
"""Bytes of the largest template, CloudFormation's own limit for one in S3; 51,200 where a request carries it."""
DEEPEST: Final = 60
"""Levels of nesting. Real templates have a dozen."""
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_BARE: Final = frozenset({"Ref", "Condition"})
_TAGS: Final = (
    *("And", "Base64", "Cidr", "Condition", "Equals", "FindInMap", "GetAZs", "GetAtt", "If", "ImportValue", "Join"),
    *("Length", "Not", "Or", "Ref", "Select", "Split", "Sub", "ToJsonString", "Transform"),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with CloudFormation's tags and without what CloudFormation does not take."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, AliasEvent):
            raise yaml.MarkedYAMLError(problem="YAML aliases are not allowed in templates", problem_mark=_mark(event))
        return super().compose_node(parent, index)


# A date is text: `Version: 2012-10-17`. Neither is << a merge.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":merge"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _mark(event: Event) -> Any:
    return event.start_mark


def _mapping(loader: _Loader, node: Node) -> dict[str, Any]:
    assert isinstance(node, MappingNode)  # noqa: S101 - PyYAML calls it for nothing else
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        key = key_node.value if isinstance(key_node, ScalarNode) and isinstance(key, (int, float)) else key
        if not isinstance(key, str):
            raise yaml.MarkedYAMLError(problem="a key is not text", problem_mark=key_node.start_mark)
        if key in found:
            raise yaml.MarkedYAMLError(problem=f"the key {key[:80]!r} is there twice", problem_mark=key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def _function(loader: _Loader, suffix: str, node: Node) -> dict[str, Any]:
    """What a short tag stands for."""
    if suffix not in _TAGS:
        raise yaml.MarkedYAMLError(problem=f"there is no tag !{suffix[:40]}", problem_mark=node.start_mark)
    value: Any
    if isinstance(node, ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, SequenceNode):
        value = [loader.construct_object(child, deep=True) for child in node.value]
    else:
        value = _mapping(loader, node)
    return {suffix if suffix in _BARE else f"Fn::{suffix}": value}


def _not_taken(_loader: _Loader, node: Node) -> Any:
    raise yaml.MarkedYAMLError(problem=f"{node.tag} is not allowed in templates", problem_mark=node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_multi_constructor("!", _function)
for _kind in ("binary", "timestamp", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _not_taken)


def read_text(text: str) -> dict[str, Any]:
    """The template's values. Raises `InvalidTemplate`, which says at which line or path what is wrong."""
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_TEMPLATE:
        raise InvalidTemplate(f"the template has over {LARGEST_TEMPLATE} bytes")
    try:
        value = _json(text) if text.lstrip().startswith("{") else _yaml(text)
    except RecursionError:
        raise InvalidTemplate(f"the template is nested deeper than {DEEPEST} levels") from None
    if not isinstance(value, dict):
        raise InvalidTemplate("a template is a mapping with a section Resources")
    for path, found in _walk(value):
        if len(path) > DEEPEST:
            raise InvalidTemplate(f"the template is nested deeper than {DEEPEST} levels")
        if isinstance(found, (str, dict)) and not is_text([found] if isinstance(found, str) else found):
            where = ascii("/".join(path)[:200])[1:-1]
            raise InvalidTemplate(f"[/{where}] has a character that is not allowed in templates")
        if found is None:
            raise InvalidTemplate(f"[/{'/'.join(path)[:200]}] null values are not allowed in templates")
    return value


def is_text(value: Iterable[str]) -> bool:
    """Whether text, or every key of a mapping, can be stored and sent: no control characters, no half of a pair."""
    return not any(_NO_TEXT.search(one) for one in value)


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidTemplate(f"the template is no YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidTemplate(f"the template is no YAML: {str(error)[:200]}") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidTemplate(f"the template is no JSON: {where}: {error.msg}") from None
    except ValueError as error:
        raise InvalidTemplate(f"the template is no JSON: {str(error)[:200]}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} is there twice")
        found[key] = value
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _walk(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value with its path, without recursion: this is what finds that it is too deep."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, found = waiting.pop()
        yield path, found
        if len(path) > DEEPEST:
            return
        if isinstance(found, dict):
            waiting.extend(((*path, key), child) for key, child in found.items())
        elif isinstance(found, list):
            waiting.extend(((*path, str(number)), child) for number, child in enumerate(found))

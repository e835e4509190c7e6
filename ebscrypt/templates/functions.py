"""The intrinsic functions, evaluated: a template's values with everything put in.

`Scope` is what they are evaluated in: parameters, pseudo parameters, attributes of resources and other stacks' exports.
A function that CloudFormation does not have, or one with wrong arguments, is refused with the path to it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from ebscrypt.errors import InvalidTemplate
from ebscrypt.templates.parameters import text_of, typed
from ebscrypt.templates.template import Template

VARIABLE: Final = re.compile(r"\$\{(!?)([^${}]{1,512})\}")
"""``${Name}`` and ``${Name.Attribute}`` in a Sub; ``${!Text}`` stands for ``${Text}``."""
_MOST_CHARACTERS: Final = 1 << 16
"""Of one string that a function makes: a Join of a Join could double at every step."""


class _NoValue:
    """AWS::NoValue: the property is as if it had not been written."""


NO_VALUE: Final = _NoValue()


class Scope:
    """Where values come from while a template is evaluated.

    ``attribute(resource, name)`` gives what GetAtt does, and with None what Ref does. ``exported(name)`` gives another
    stack's export. Both raise for what is not there.
    """

    def __init__(
        self,
        template: Template,
        parameters: Mapping[str, str],
        pseudo: Mapping[str, Any],
        *,
        attribute: Callable[[str, str | None], Any],
        exported: Callable[[str], str],
    ) -> None:
        self._template = template
        self._parameters = parameters
        self._pseudo = pseudo
        self._attribute = attribute
        self._exported = exported
        self._conditions: dict[str, bool | None] = {}

    def is_made(self, condition: str | None) -> bool:
        """Whether something with this condition is made; without one it is."""
        return condition is None or self.condition(condition)

    def condition(self, name: str) -> bool:
        """A condition's value, worked out once. Raises `InvalidTemplate` for an unknown one, and for a circle."""
        if name not in self._template.conditions:
            raise InvalidTemplate(f"Template format error: Unresolved condition dependency {name[:80]!r}")
        if name not in self._conditions:
            self._conditions[name] = None
            self._conditions[name] = self._truth(self._template.conditions[name], f"Conditions/{name}")
        value = self._conditions[name]
        if value is None:
            raise InvalidTemplate(f"Template format error: Circular dependency of the condition {name}")
        return value

    def value(self, node: Any, where: str) -> Any:
        """``node`` with every function in it evaluated; ``where`` is its path, for errors."""
        if isinstance(node, dict):
            function = _function_of(node)
            if function is not None:
                return self._call(function, node[function], f"{where}/{function}")
            found = {key: self.value(child, f"{where}/{key}") for key, child in node.items()}
            return {key: child for key, child in found.items() if child is not NO_VALUE}
        if isinstance(node, list):
            items = [self.value(child, f"{where}/{number}") for number, child in enumerate(node)]
            return [child for child in items if child is not NO_VALUE]
        return node

    def text(self, node: Any, where: str) -> str:
        """The same, where text is wanted. Numbers and booleans become it."""
        value = self.value(node, where)
        if isinstance(value, (dict, list, _NoValue)):
            _refuse(where, "is not text")
        return text_of(value)

    def _call(self, function: str, arguments: Any, where: str) -> Any:
        if function in _EXTENSIONS and not self._template.extensions:
            raise InvalidTemplate(
                f"Template error: [/{where}] needs the language extensions",
                hint="add to the template: Transform: AWS::LanguageExtensions",
            )
        called = _FUNCTIONS.get(function)
        if called is None:
            raise InvalidTemplate(f"Template error: [/{where}] there is no function {function[:40]}")
        return called(self, arguments, where)

    def _truth(self, node: Any, where: str) -> bool:
        if isinstance(node, dict) and set(node) == {"Condition"}:
            return self.condition(str(node["Condition"]))
        value = self.value(node, where)
        if value in ("true", "false"):
            return bool(value == "true")
        if not isinstance(value, bool):
            _refuse(where, "is neither true nor false")
        return value

    def _ref(self, arguments: Any, where: str) -> Any:
        name = arguments if isinstance(arguments, str) else _refuse(where, "names a parameter or resource")
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._template.parameters:
            return typed(self._template.parameters[name], self._parameters[name])
        return self._attribute(name, None)

    def _get_att(self, arguments: Any, where: str) -> Any:
        parts = arguments.split(".", 1) if isinstance(arguments, str) else arguments
        if not isinstance(parts, list) or len(parts) != 2 or not isinstance(parts[0], str):
            _refuse(where, "names a resource and its attribute")
        return self._attribute(parts[0], self.text(parts[1], where))

    def _sub(self, arguments: Any, where: str) -> str:
        text, own = arguments if isinstance(arguments, list) and len(arguments) == 2 else (arguments, {})
        if not isinstance(text, str) or not isinstance(own, dict):
            _refuse(where, "is text, or a list of text and a mapping")
        put = {name: self.text(value, f"{where}/{name}") for name, value in own.items()}

        def filled(match: re.Match[str]) -> str:
            literal, name = match.groups()
            name = name if literal else name.strip()
            if literal:
                return "${" + name + "}"
            if name in put:
                return put[name]
            if name in self._pseudo or name in self._template.parameters or "." not in name:
                return self.text({"Ref": name}, where)
            return self.text({"Fn::GetAtt": name.split(".", 1)}, where)

        return _bounded(VARIABLE.sub(filled, text), where)

    def _join(self, arguments: Any, where: str) -> str:
        delimiter, parts = _pair(arguments, where, "a delimiter and a list")
        values = self.value(parts, where)
        if not isinstance(delimiter, str) or not isinstance(values, list):
            _refuse(where, "is a delimiter and a list")
        return _bounded(delimiter.join(self.text(one, where) for one in values), where)

    def _split(self, arguments: Any, where: str) -> list[str]:
        delimiter, source = _pair(arguments, where, "a delimiter and text")
        if not isinstance(delimiter, str) or not delimiter:
            _refuse(where, "is a delimiter and text")
        return self.text(source, where).split(delimiter)

    def _select(self, arguments: Any, where: str) -> Any:
        index, items = _pair(arguments, where, "an index and a list")
        number, values = self.text(index, where), self.value(items, where)
        if not number.isdecimal() or len(number) > 9 or not isinstance(values, list):
            _refuse(where, "is an index and a list")
        if int(number) >= len(values):
            _refuse(where, f"cannot select nonexistent value at index {number}")
        return values[int(number)]

    def _find_in_map(self, arguments: Any, where: str) -> Any:
        if not isinstance(arguments, list) or len(arguments) not in (3, 4):
            _refuse(where, "is a map's name and two keys")
        name, first, second = (self.text(one, where) for one in arguments[:3])
        found = self._template.mappings.get(name, {}).get(first, {})
        if second in found:
            return found[second]
        if len(arguments) == 4 and isinstance(arguments[3], dict) and self._template.extensions:
            return self.value(arguments[3].get("DefaultValue"), where)
        return _refuse(where, f"Unable to get mapping for {name}::{first}::{second}"[:300])

    def _if(self, arguments: Any, where: str) -> Any:
        if not isinstance(arguments, list) or len(arguments) != 3 or not isinstance(arguments[0], str):
            _refuse(where, "is a condition's name and two values")
        return self.value(arguments[1 if self.condition(arguments[0]) else 2], where)

    def _equals(self, arguments: Any, where: str) -> bool:
        first, second = (self.value(one, where) for one in _pair(arguments, where, "two values"))
        if isinstance(first, (list, dict)) or isinstance(second, (list, dict)):
            return bool(first == second)
        return text_of(first) == text_of(second)

    def _all(self, arguments: Any, where: str) -> list[bool]:
        if not isinstance(arguments, list) or not 2 <= len(arguments) <= 10:
            _refuse(where, "has two to ten conditions")
        return [self._truth(one, where) for one in arguments]

    def _not(self, arguments: Any, where: str) -> bool:
        if not isinstance(arguments, list) or len(arguments) != 1:
            _refuse(where, "has one condition")
        return not self._truth(arguments[0], where)

    def _base64(self, arguments: Any, where: str) -> str:
        return base64.b64encode(self.text(arguments, where).encode()).decode("ascii")

    def _import_value(self, arguments: Any, where: str) -> str:
        return self._exported(self.text(arguments, where))

    def _get_azs(self, arguments: Any, where: str) -> list[str]:
        region = self.text(arguments, where) or str(self._pseudo["AWS::Region"])
        if region != self._pseudo["AWS::Region"]:
            _refuse(where, f"there are no zones of {region[:40]} here, but of {self._pseudo['AWS::Region']}")
        return [f"{region}a"]

    def _length(self, arguments: Any, where: str) -> int:
        values = self.value(arguments, where)
        return len(values) if isinstance(values, list) else _refuse(where, "counts a list")

    def _to_json(self, arguments: Any, where: str) -> str:
        return _bounded(json.dumps(self.value(arguments, where), separators=(",", ":")), where)


_FUNCTIONS: Final[dict[str, Callable[[Scope, Any, str], Any]]] = {
    "Ref": Scope._ref,  # noqa: SLF001 - the table of this class's own methods
    "Fn::GetAtt": Scope._get_att,  # noqa: SLF001
    "Fn::Sub": Scope._sub,  # noqa: SLF001
    "Fn::Join": Scope._join,  # noqa: SLF001
    "Fn::Split": Scope._split,  # noqa: SLF001
    "Fn::Select": Scope._select,  # noqa: SLF001
    "Fn::FindInMap": Scope._find_in_map,  # noqa: SLF001
    "Fn::If": Scope._if,  # noqa: SLF001
    "Fn::Equals": Scope._equals,  # noqa: SLF001
    "Fn::And": lambda scope, arguments, where: all(scope._all(arguments, where)),  # noqa: SLF001
    "Fn::Or": lambda scope, arguments, where: any(scope._all(arguments, where)),  # noqa: SLF001
    "Fn::Not": Scope._not,  # noqa: SLF001
    "Fn::Base64": Scope._base64,  # noqa: SLF001
    "Fn::ImportValue": Scope._import_value,  # noqa: SLF001
    "Fn::GetAZs": Scope._get_azs,  # noqa: SLF001
    "Fn::Length": Scope._length,  # noqa: SLF001
    "Fn::ToJsonString": Scope._to_json,  # noqa: SLF001
}
_EXTENSIONS: Final = frozenset({"Fn::Length", "Fn::ToJsonString"})


def _function_of(node: Mapping[str, Any]) -> str | None:
    """The function that a mapping is a call of. A mapping of one ``Condition`` is data outside of conditions."""
    if len(node) != 1:
        return None
    name = next(iter(node))
    return name if name == "Ref" or name.startswith("Fn::") else None


def _pair(arguments: Any, where: str, wanted: str) -> tuple[Any, Any]:
    if not isinstance(arguments, list) or len(arguments) != 2:
        _refuse(where, f"is {wanted}")
    return arguments[0], arguments[1]


def _bounded(text: str, where: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else _refuse(where, f"makes over {_MOST_CHARACTERS} characters")


def _refuse(where: str, why: str) -> NoReturn:
    raise InvalidTemplate(f"Template error: [/{where}] {why}")

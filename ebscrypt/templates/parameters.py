"""Values for a template's parameters: what was given, the previous value, or the default; checked by type and rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ebscrypt.errors import InvalidParameter, InvalidTemplate
from ebscrypt.templates.reading import is_text
from ebscrypt.templates.template import Parameter, Template

LONGEST_VALUE: Final = 4096
HIDDEN: Final = "****"
"""What is shown of a parameter with NoEcho."""
_LISTS: Final = re.compile(r"(?:CommaDelimitedList|List<(?P<item>.+)>)")
_NUMBER: Final = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
_IDS: Final = {
    "AWS::EC2::Volume::Id": re.compile(r"vol-[0-9a-f]{8,17}"),
    "AWS::EC2::Instance::Id": re.compile(r"i-[0-9a-f]{8,17}"),
}
_OPAQUE: Final = frozenset({"String", "AWS::EC2::AvailabilityZone::Name"})


def parameter_values(
    template: Template, given: Mapping[str, str], previous: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A value for every parameter, as text: the one given, else the ``previous``, else the default.

    Raises `InvalidParameter` for a value that its rules forbid, or none at all, or one for a parameter that the
    template does not have. A value of a parameter with NoEcho is never named.
    """
    if unknown := sorted(set(given) - set(template.parameters)):
        raise InvalidParameter(f"Parameters: [{', '.join(name[:80] for name in unknown)}] do not exist in the template")
    kept = previous or {}
    values: dict[str, str] = {}
    missing = []
    for name, parameter in template.parameters.items():
        if name in given:
            values[name] = given[name]
        elif name in kept:
            values[name] = kept[name]
        elif parameter.default is not None:
            values[name] = text_of(parameter.default)
        else:
            missing.append(name)
            continue
        _check(name, parameter, values[name])
    if missing:
        raise InvalidParameter(
            f"Parameters: [{', '.join(missing)}] must have values", hint=f"give --parameter {missing[0]}=…"
        )
    return values


def typed(parameter: Parameter, value: str) -> Any:
    """A value as Ref gives it: a list for the list types, else text."""
    if _LISTS.fullmatch(parameter.type):
        return [one.strip() for one in value.split(",")] if value else []
    return value


def shown(template: Template, values: Mapping[str, str]) -> dict[str, str]:
    """The values that may be shown: ``****`` in place of those with NoEcho."""
    hidden = {name for name, parameter in template.parameters.items() if parameter.no_echo}
    return {name: HIDDEN if name in hidden else value for name, value in values.items()}


def text_of(value: Any) -> str:
    """A number or boolean as CloudFormation writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _check(name: str, parameter: Parameter, value: str) -> None:
    if len(value) > LONGEST_VALUE:
        raise InvalidParameter(f"Parameter {name} has {len(value)} characters, over {LONGEST_VALUE}")
    if not is_text([value]):
        raise InvalidParameter(f"Parameter {name} has a character that is not allowed")
    listed = _LISTS.fullmatch(parameter.type)
    kind = (listed["item"] or "String") if listed else parameter.type
    for one in typed(parameter, value) if listed else [value]:
        _check_type(name, kind, one)
        _check_rules(name, parameter, one)
    if kind == "String" and not listed:
        low, high = parameter.min_length or 0, parameter.max_length
        if len(value) < low or (high is not None and len(value) > high):
            raise _refused(name, parameter, f"must contain at least {low} and at most {high} characters")


def _check_type(name: str, kind: str, value: str) -> None:
    if kind == "Number":
        if not _NUMBER.fullmatch(value):
            raise InvalidParameter(f"Parameter {name} must be a number")
    elif kind in _IDS:
        if not _IDS[kind].fullmatch(value):
            raise InvalidParameter(f"Parameter {name} must be an id of {kind.removesuffix('::Id')}")
    elif kind not in _OPAQUE:
        raise InvalidTemplate(
            f"Template format error: Unrecognized parameter type: {kind[:80]}",
            hint="here a parameter is a String, a Number, a list of them, or an id of a volume or instance",
        )


def _check_rules(name: str, parameter: Parameter, value: str) -> None:
    allowed = [text_of(one) for one in parameter.allowed_values]
    if allowed and value not in allowed:
        raise _refused(name, parameter, f"must be one of {', '.join(allowed)}")
    if parameter.allowed_pattern is not None and not _matches(name, parameter.allowed_pattern, value):
        raise _refused(name, parameter, f"must match pattern {parameter.allowed_pattern}")
    if parameter.type in ("Number", "List<Number>"):
        number = float(value)
        if parameter.min_value is not None and number < parameter.min_value:
            raise _refused(name, parameter, f"must be a number not less than {text_of(parameter.min_value)}")
        if parameter.max_value is not None and number > parameter.max_value:
            raise _refused(name, parameter, f"must be a number not greater than {text_of(parameter.max_value)}")


def _matches(name: str, pattern: str, value: str) -> bool:
    """Whether the whole value matches. The pattern is from the template's author, who decides over his own stack."""
    try:
        return re.fullmatch(pattern, value) is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidTemplate(f"Template format error: AllowedPattern of {name} is no pattern: {error}") from None


def _refused(name: str, parameter: Parameter, rule: str) -> InvalidParameter:
    told = parameter.constraint or rule
    return InvalidParameter(f"Parameter {name} failed to satisfy constraint: {told}")

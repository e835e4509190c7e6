"""A template's sections as records, checked for all that can be known before there are values.

The texts of refusals are CloudFormation's where it has one, so that people find what others wrote about them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ebscrypt.errors import InvalidTemplate
from ebscrypt.templates.reading import read_text

FORMAT_VERSION: Final = "2010-09-09"
EXTENSIONS: Final = "AWS::LanguageExtensions"
MOST_RESOURCES: Final = 500
MOST_PARAMETERS: Final = 200
MOST_OUTPUTS: Final = 200
MOST_MAPPINGS: Final = 200
"""CloudFormation's own limits of a template."""
DELETION_POLICIES: Final = ("Delete", "Retain", "RetainExceptOnCreate", "Snapshot")
REPLACE_POLICIES: Final = ("Delete", "Retain", "Snapshot")

_SECTIONS: Final = frozenset(
    {
        *("AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Mappings", "Conditions", "Transform"),
        *("Resources", "Outputs"),
    }
)
_NAME: Final = re.compile(r"[A-Za-z0-9]{1,255}")
_RESOURCE_KEYS: Final = frozenset(
    {
        *("Type", "Properties", "DependsOn", "Condition", "DeletionPolicy", "UpdateReplacePolicy", "Metadata"),
    }
)
_PARAMETER_KEYS: Final = {
    "Type": "type",
    "Default": "default",
    "AllowedValues": "allowed_values",
    "AllowedPattern": "allowed_pattern",
    "ConstraintDescription": "constraint",
    "Description": "description",
    "MinLength": "min_length",
    "MaxLength": "max_length",
    "MinValue": "min_value",
    "MaxValue": "max_value",
    "NoEcho": "no_echo",
}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter's declaration, with CloudFormation's own names for what it may be."""

    type: str
    default: str | int | float | bool | None = None
    allowed_values: list[str | int | float | bool] = []
    allowed_pattern: str | None = None
    constraint: str | None = None
    description: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_value: float | None = None
    max_value: float | None = None
    no_echo: bool = False


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource's declaration. ``properties`` are not evaluated yet."""

    type: str
    properties: dict[str, Any] = {}
    depends_on: list[str] = []
    condition: str | None = None
    deletion_policy: str | None = None
    update_replace_policy: str | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """An output's declaration; ``value`` and ``export`` are not evaluated yet."""

    value: Any
    description: str | None = None
    condition: str | None = None
    export: Any = None


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A template as it was written. ``extensions``: it may use the functions of AWS::LanguageExtensions."""

    description: str | None
    parameters: dict[str, Parameter]
    mappings: dict[str, dict[str, dict[str, Any]]]
    conditions: dict[str, Any]
    resources: dict[str, Resource]
    outputs: dict[str, Output]
    extensions: bool = False


def read_template(text: str) -> Template:
    """The template in ``text``. Raises `InvalidTemplate`. Types of resources are not judged here."""
    raw = read_text(text)
    if unknown := sorted(set(raw) - _SECTIONS):
        raise InvalidTemplate(f"Invalid template property or properties {_listed(unknown)}")
    if str(raw.get("AWSTemplateFormatVersion", FORMAT_VERSION)) != FORMAT_VERSION:
        raise InvalidTemplate("Template format error: unsupported value for AWSTemplateFormatVersion.")
    description = raw.get("Description")
    if not isinstance(description, str | None) or len(description or "") > 1024:
        raise InvalidTemplate("Template format error: Description is text of at most 1024 characters")
    resources = _section(raw, "Resources", MOST_RESOURCES)
    if not resources:
        raise InvalidTemplate("Template format error: At least one Resources member must be defined.")
    return Template(
        description=description,
        parameters={name: _parameter(name, body) for name, body in _named(raw, "Parameters", MOST_PARAMETERS)},
        mappings=_mappings(raw),
        conditions=dict(_named(raw, "Conditions", MOST_MAPPINGS, mapping=True)),
        resources={name: _resource(name, body) for name, body in _named(raw, "Resources", MOST_RESOURCES)},
        outputs={name: _output(name, body) for name, body in _named(raw, "Outputs", MOST_OUTPUTS)},
        extensions=_extensions(raw.get("Transform", [])),
    )


def _listed(names: list[str]) -> str:
    return f"[{', '.join(name[:80] for name in names)}]"


def _section(raw: Mapping[str, Any], name: str, most: int) -> dict[str, Any]:
    section = raw.get(name, {})
    if not isinstance(section, dict):
        raise InvalidTemplate(f"Template format error: {name} is a mapping of names")
    if len(section) > most:
        raise InvalidTemplate(f"Template format error: Number of {name.lower()}, {len(section)}, is over {most}")
    return section


def _named(raw: Mapping[str, Any], name: str, most: int, *, mapping: bool = True) -> list[tuple[str, dict[str, Any]]]:
    section = _section(raw, name, most)
    for key, body in section.items():
        if not _NAME.fullmatch(key):
            raise InvalidTemplate(f"Template format error: {name} name {key[:80]!r} is non alphanumeric.")
        if mapping and not isinstance(body, dict):
            raise InvalidTemplate(f"Template format error: [/{name}/{key}] is a mapping")
    return list(section.items())


def _extensions(transform: Any) -> bool:
    wanted = transform if isinstance(transform, list) else [transform]
    if others := [str(one) for one in wanted if one != EXTENSIONS]:
        raise InvalidTemplate(
            f"the template needs the transform {_listed(others)}",
            hint="macros run in AWS only: process the template there (`aws cloudformation get-template "
            "--template-stage Processed`), or write it without",
        )
    return bool(wanted)


def _mappings(raw: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    found = dict(_named(raw, "Mappings", MOST_MAPPINGS))
    for name, body in found.items():
        for key, values in body.items():
            if not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values()):
                raise InvalidTemplate(
                    f"Template format error: [/Mappings/{name}/{key}] is a mapping of names to text or lists"
                )
    return found


def _parameter(name: str, body: dict[str, Any]) -> Parameter:
    where = f"[/Parameters/{name}]"
    if unknown := sorted(set(body) - set(_PARAMETER_KEYS)):
        raise InvalidTemplate(f"Template format error: {where} has no {_listed(unknown)}")
    try:
        return msgspec.convert({_PARAMETER_KEYS[key]: value for key, value in body.items()}, Parameter, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidTemplate(f"Template format error: {where}: {error}") from None


def _resource(name: str, body: dict[str, Any]) -> Resource:
    where = f"[/Resources/{name}]"
    if unknown := sorted(set(body) - _RESOURCE_KEYS):
        raise InvalidTemplate(f"Invalid template resource property {_listed(unknown)} in {where}")
    depends = body.get("DependsOn", [])
    properties = body.get("Properties", {})
    if not isinstance(body.get("Type"), str):
        raise InvalidTemplate(f"Template format error: {where} Every Resources object must contain a Type member.")
    if not isinstance(properties, dict):
        raise InvalidTemplate(f"Template format error: [/Resources/{name}/Properties] is a mapping")
    depends = [depends] if isinstance(depends, str) else depends
    if not isinstance(depends, list) or not all(isinstance(one, str) for one in depends):
        raise InvalidTemplate(f"Template format error: [/Resources/{name}/DependsOn] is a name or a list of names")
    return Resource(
        type=body["Type"],
        properties=properties,
        depends_on=list(dict.fromkeys(depends)),
        condition=_text(body, "Condition", where),
        deletion_policy=_policy(body, "DeletionPolicy", DELETION_POLICIES, where),
        update_replace_policy=_policy(body, "UpdateReplacePolicy", REPLACE_POLICIES, where),
    )


def _text(body: dict[str, Any], key: str, where: str) -> str | None:
    value = body.get(key)
    if not isinstance(value, str | None):
        raise InvalidTemplate(f"Template format error: {where} {key} is text")
    return value


def _policy(body: dict[str, Any], key: str, allowed: tuple[str, ...], where: str) -> str | None:
    value = _text(body, key, where)
    if value is not None and value not in allowed:
        raise InvalidTemplate(
            f"Template error: {where} {key} {value[:40]!r} is none of {', '.join(allowed)}",
        )
    return value


def _output(name: str, body: dict[str, Any]) -> Output:
    where = f"[/Outputs/{name}]"
    if "Value" not in body:
        raise InvalidTemplate(f"Template format error: {where} Every Outputs member must contain a Value object")
    if unknown := sorted(set(body) - {"Value", "Description", "Condition", "Export"}):
        raise InvalidTemplate(f"Template format error: {where} has no {_listed(unknown)}")
    export = body.get("Export", {})
    if not isinstance(export, dict) or set(export) - {"Name"} or ("Export" in body and "Name" not in export):
        raise InvalidTemplate(f"Template format error: {where} Export has a Name and nothing else")
    return Output(
        value=body["Value"],
        description=_text(body, "Description", where),
        condition=_text(body, "Condition", where),
        export=export.get("Name"),
    )

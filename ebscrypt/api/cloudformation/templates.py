"""Actions about templates: what one needs, whether it is one, and that of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebscrypt.api.cloudformation import asked
from ebscrypt.api.cloudformation.looking import found
from ebscrypt.control.stacks.values import checked_template
from ebscrypt.templates.parameters import HIDDEN, text_of
from ebscrypt.templates.template import EXTENSIONS, FORMAT_VERSION, Parameter, Template

if TYPE_CHECKING:
    from ebscrypt.api.call import Call


def validate_template(call: Call, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - it looks at nothing else
    """What the template declares, if it is one. Raises `InvalidTemplate`."""
    asked.refuse_options(request)
    template = checked_template(asked.template(request) or "")
    parameters = [
        {name: value for name, value in _parameter(key, one).items() if name in _OF_VALIDATION}
        for key, one in template.parameters.items()
    ]
    return _declared(template) | {"Parameters": parameters}


def get_template_summary(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """What a template declares: one that is given, or a stack's."""
    asked.refuse_options(request)
    text = asked.template(request, required=False)
    if text is None:
        if "StackName" not in request:
            raise asked.validation("Either Template URL, Template Body or Stack Name must be specified.")
        text = _text_of(call, request["StackName"])
    template = checked_template(text)
    return _declared(template) | {
        "Parameters": [_parameter(name, one) for name, one in template.parameters.items()],
        "ResourceTypes": sorted({one.type for one in template.resources.values()}),
        "Version": FORMAT_VERSION,
        "ResourceIdentifierSummaries": [],
    }


def get_template(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The text that a stack was made of."""
    return {"TemplateBody": _text_of(call, request["StackName"]), "StagesAvailable": ["Original", "Processed"]}


_OF_VALIDATION = frozenset({"ParameterKey", "DefaultValue", "NoEcho", "Description"})


def _text_of(call: Call, name: str) -> str:
    stack = found(call, name)
    known = stack.is_now or stack.wanted
    return "" if known is None else known.template


def _declared(template: Template) -> dict[str, Any]:
    declared: dict[str, Any] = {"Capabilities": [], "DeclaredTransforms": [EXTENSIONS] if template.extensions else []}
    return declared if template.description is None else declared | {"Description": template.description}


def _parameter(name: str, parameter: Parameter) -> dict[str, Any]:
    default = None if parameter.default is None else HIDDEN if parameter.no_echo else text_of(parameter.default)
    record: dict[str, Any] = {
        "ParameterKey": name,
        "DefaultValue": default,
        "ParameterType": parameter.type,
        "NoEcho": parameter.no_echo,
        "Description": parameter.description,
        "ParameterConstraints": {"AllowedValues": [text_of(one) for one in parameter.allowed_values]},
    }
    return {key: value for key, value in record.items() if value is not None}

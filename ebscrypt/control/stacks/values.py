"""`Evaluation`: a template's values for one stack, from what its resources are by now."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ebscrypt.catalog.stack_records import Stack, StackOutput, Wanted
from ebscrypt.control.site import Site
from ebscrypt.control.stacks.kinds import KINDS
from ebscrypt.errors import InvalidTemplate
from ebscrypt.templates.functions import Scope
from ebscrypt.templates.references import check_references
from ebscrypt.templates.template import Template, read_template

PENDING: Final = "\0"
"""Begins what stands for a value that is known only when its resource is made."""
LARGEST_PROPERTIES: Final = 131_072
"""Bytes of one resource's properties as JSON: a key's policy, description and tags need a third of it."""
_TAGGED: Final = frozenset({"AWS::EC2::Volume", "AWS::KMS::Key"})


class Evaluation:
    """A template evaluated for a stack. ``pending`` are resources whose values cannot be known yet."""

    def __init__(self, site: Site, stack: Stack, wanted: Wanted) -> None:
        self.template = checked_template(wanted.template)
        self.stack = stack
        self.pending: set[str] = set()
        self.imports: set[str] = set()
        self._site = site
        self._tags = wanted.tags
        self.scope = Scope(
            self.template,
            wanted.parameters,
            pseudo_parameters(site, stack),
            attribute=self._attribute,
            exported=self._exported,
        )

    @property
    def included(self) -> list[str]:
        """The resources whose conditions hold."""
        return [name for name, resource in self.template.resources.items() if self.scope.is_made(resource.condition)]

    def properties(self, name: str) -> dict[str, Any]:
        """A resource's properties. The stack's tags are among its own, which come first."""
        resource = self.template.resources[name]
        found: dict[str, Any] = self.scope.value(resource.properties, f"Resources/{name}/Properties")
        if len(msgspec.json.encode(found)) > LARGEST_PROPERTIES:
            raise InvalidTemplate(f"Template error: [/Resources/{name}] has over {LARGEST_PROPERTIES} bytes")
        if self._tags and resource.type in _TAGGED:
            own = found.get("Tags", [])
            keys = {tag.get("Key") for tag in own if isinstance(tag, dict)}
            more = [{"Key": key, "Value": value} for key, value in self._tags.items() if key not in keys]
            found["Tags"] = [*own, *more]
        return found

    def outputs(self) -> list[StackOutput]:
        """The outputs whose conditions hold."""
        return [
            StackOutput(
                name=name,
                value=self.scope.text(output.value, f"Outputs/{name}/Value"),
                description=output.description,
                export=None if output.export is None else self.scope.text(output.export, f"Outputs/{name}/Export"),
            )
            for name, output in self.template.outputs.items()
            if self.scope.is_made(output.condition)
        ]

    def _attribute(self, name: str, attribute: str | None) -> str:
        declared = self.template.resources.get(name)
        if declared is None or not self.scope.is_made(declared.condition):
            raise InvalidTemplate(f"Template format error: Unresolved resource dependencies [{name[:80]}]")
        if attribute is not None and attribute not in KINDS[declared.type].attributes:
            raise InvalidTemplate(
                f"Template error: resource {name} does not support attribute type {attribute[:80]} in Fn::GetAtt"
            )
        resource = self.stack.resources.get(name)
        if name in self.pending or resource is None or resource.physical_id is None:
            return f"{PENDING}{name}.{attribute}"
        return resource.physical_id if attribute is None else resource.attributes[attribute]

    def _exported(self, name: str) -> str:
        self.imports.add(name)
        stack_id, value = self._site.catalog.stacks.exports().get(name, ("", ""))
        if not stack_id or stack_id == self.stack.stack_id:
            raise InvalidTemplate(f"No export named {name[:80]} found.")
        return value


def checked_template(text: str) -> Template:
    """The template, with all that can be said against it without values. Raises `InvalidTemplate`."""
    template = read_template(text)
    types = {resource.type for resource in template.resources.values()}
    if unknown := sorted(types - set(KINDS)):
        raise InvalidTemplate(
            f"Template format error: Unrecognized resource types: [{', '.join(kind[:80] for kind in unknown)}]",
            hint=f"here there are {', '.join(KINDS)}",
        )
    for name, resource in template.resources.items():
        policies = (resource.deletion_policy, resource.update_replace_policy)
        if "Snapshot" in policies and not KINDS[resource.type].has_snapshot:
            raise InvalidTemplate(
                f"Template error: resource type {resource.type} does not support deletion policy Snapshot (/{name})"
            )
    check_references(template)
    return template


def pseudo_parameters(site: Site, stack: Stack) -> dict[str, Any]:
    """What CloudFormation's pseudo parameters are for a stack of this site."""
    region = site.settings.kms.region
    china, gov = region.startswith("cn-"), region.startswith("us-gov-")
    return {
        "AWS::AccountId": site.settings.kms.account,
        "AWS::NotificationARNs": [],
        "AWS::Partition": "aws-cn" if china else "aws-us-gov" if gov else "aws",
        "AWS::Region": region,
        "AWS::StackId": stack.stack_id,
        "AWS::StackName": stack.name,
        "AWS::URLSuffix": "amazonaws.com.cn" if china else "amazonaws.com",
    }


def is_pending(value: Any) -> bool:
    """Whether there is anything in it that is not known yet."""
    if isinstance(value, dict):
        return any(is_pending(child) for child in value.values())
    if isinstance(value, list):
        return any(is_pending(child) for child in value)
    return isinstance(value, str) and PENDING in value

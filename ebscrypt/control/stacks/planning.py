"""What an operation would change: a change set's content, found without touching anything."""

from __future__ import annotations

from typing import NamedTuple

from ebscrypt.catalog.stack_records import ResourceChange, Stack, StackResource, Wanted
from ebscrypt.control.site import Site
from ebscrypt.control.stacks.kinds import KINDS
from ebscrypt.control.stacks.kinds.kind import Update, changed
from ebscrypt.control.stacks.removal import backwards
from ebscrypt.control.stacks.values import Evaluation, is_pending
from ebscrypt.errors import InvalidTemplate, StackStateError
from ebscrypt.templates.references import edges, ordered


class Plan(NamedTuple):
    """``changes`` to resources, in the order in which they would be made; ``others``: outputs, tags or policies."""

    changes: list[ResourceChange]
    others: bool

    @property
    def is_empty(self) -> bool:
        """Nothing would change: CloudFormation calls that "No updates are to be performed"."""
        return not self.changes and not self.others


def plan_stack(site: Site, stack: Stack, wanted: Wanted) -> Plan:
    """What would change if ``stack`` became ``wanted``. A stack that is to be made has no resources yet.

    Raises `InvalidTemplate`, and for properties that can be judged already what their type says against them.
    """
    evaluation = Evaluation(site, stack, wanted)
    included = evaluation.included
    changes = []
    others = stack.is_now is not None and stack.is_now.tags != wanted.tags
    needs = edges(evaluation.template, included)
    for name in ordered(needs):
        now = stack.resources.get(name)
        declared = evaluation.template.resources[name]
        if now is not None and now.type != declared.type:
            raise InvalidTemplate(
                "Update of resource type is not permitted. The new template modifies resource type of the following "
                f"resources: [{name}]"
            )
        change = _change(site, evaluation, name, now)
        if change is not None:
            changes.append(change)
            if now is None or change.replacement in ("True", "Conditional"):
                evaluation.pending.add(name)
        elif now is not None:
            policies = (declared.deletion_policy or "Delete", declared.update_replace_policy or "Delete")
            others = others or policies != (now.deletion_policy, now.replace_policy)
    leaving = [one for one in backwards(stack.resources.values()) if one.logical_id not in included]
    changes += [_removal(one) for one in leaving]
    if not included:
        raise InvalidTemplate("Template format error: no resource's condition holds, and a stack needs one")
    others = others or evaluation.outputs() != stack.outputs
    others = others or evaluation.template.description != stack.description
    return Plan(changes, others)


def _change(site: Site, evaluation: Evaluation, name: str, now: StackResource | None) -> ResourceChange | None:
    """What would become of one resource; None where nothing would."""
    declared = evaluation.template.resources[name]
    kind = KINDS[declared.type]
    properties = evaluation.properties(name)
    if now is None:
        if not is_pending(properties):
            kind.check(site, properties)
        return ResourceChange(action="Add", logical_id=name, physical_id=None, type=declared.type)
    differing = sorted(changed(now.properties, properties))
    if not differing:
        return None
    try:
        replaces = kind.update_of(now.properties, properties) is Update.REPLACE
    except StackStateError:
        replaces = False  # it will fail, as CloudFormation's does: when it is carried out
    uncertain = any(is_pending(properties.get(one)) for one in differing)
    return ResourceChange(
        action="Modify",
        logical_id=name,
        physical_id=now.physical_id,
        type=declared.type,
        replacement="False" if not replaces else "Conditional" if uncertain else "True",
        properties=differing,
    )


def _removal(resource: StackResource) -> ResourceChange:
    kept = resource.deletion_policy.startswith("Retain")
    return ResourceChange(
        action="Remove",
        logical_id=resource.logical_id,
        physical_id=resource.physical_id,
        type=resource.type,
        policy_action="Retain" if kept else "Snapshot" if resource.deletion_policy == "Snapshot" else "Delete",
    )

"""Removing resources: of a stack that is deleted, and what an update leaves out.

Nothing is removed while something that needs it is still there. A resource whose policy is to be kept leaves the stack
and lives on; Snapshot keeps a volume's content.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ebscrypt.catalog.stack_records import ResourceStatus, StackResource, StackStatus, Touch
from ebscrypt.control import faultpoints
from ebscrypt.control.stacks.forward import settled
from ebscrypt.control.stacks.kinds import KINDS
from ebscrypt.control.stacks.ledger import Ledger
from ebscrypt.control.stacks.values import Evaluation
from ebscrypt.errors import EbscryptError, InvalidTemplate
from ebscrypt.model import utc_now
from ebscrypt.templates.references import ordered


def backwards(resources: Iterable[StackResource]) -> list[StackResource]:
    """Resources in an order in which each goes before those that it needs.

    Old needs and new ones together may be a circle, while an update is half done: then the latest goes first.
    """
    by_name = {one.logical_id: one for one in resources}
    try:
        order = ordered({name: set(one.needs) & set(by_name) for name, one in by_name.items()})
    except InvalidTemplate:
        order = sorted(by_name, key=lambda name: by_name[name].timestamp)
    return [by_name[name] for name in reversed(order)]


def delete(ledger: Ledger) -> None:
    """Remove all resources by their deletion policies; what cannot be removed leaves the stack ``DELETE_FAILED``."""
    try:
        ledger.withdraw()
    except EbscryptError as error:
        ledger.set_status(StackStatus.DELETE_FAILED, error.message)
        return
    failed = remove_all(ledger, [_with_policy(one) for one in ledger.stack.resources.values()])
    if failed:
        listed = ", ".join(failed)
        ledger.set_status(StackStatus.DELETE_FAILED, f"The following resource(s) failed to delete: [{listed}].")
        return
    ledger.set_status(StackStatus.DELETE_COMPLETE, delete_time=utc_now(), wanted=None, outputs=[])


def _with_policy(resource: StackResource) -> StackResource:
    # RetainExceptOnCreate keeps what a finished operation made; what one had just begun goes.
    began = resource.touch is Touch.MADE and resource.status is not ResourceStatus.CREATE_COMPLETE
    if began and resource.deletion_policy != "Retain":
        return msgspec.structs.replace(resource, deletion_policy="Delete")
    return resource


def remove_all(ledger: Ledger, resources: list[StackResource]) -> list[str]:
    """Remove resources, each by its ``deletion_policy``; the names of those that could not be, in that order.

    What a resource needs that could not be removed is left as well.
    """
    failed: list[str] = []
    kept: set[str] = set()
    for resource in backwards(resources):
        if resource.logical_id in kept:
            kept |= set(resource.needs)
            continue
        try:
            _remove(ledger, resource)
        except (EbscryptError, OSError) as error:
            now = ledger.stack.resources[resource.logical_id]
            ledger.put(msgspec.structs.replace(now, status=ResourceStatus.DELETE_FAILED, status_reason=str(error)))
            failed.append(resource.logical_id)
            kept |= set(resource.needs)
    return failed


def _remove(ledger: Ledger, resource: StackResource) -> None:
    """One resource, and what it replaced where an update had not come to that."""
    kind, site = KINDS[resource.type], ledger.site
    physical_id = found(ledger, resource)
    if physical_id is not None and resource.deletion_policy.startswith("Retain"):
        ledger.drop(resource, ResourceStatus.DELETE_SKIPPED)
        return
    now = ledger.stack.resources[resource.logical_id]
    if now.status is not ResourceStatus.DELETE_IN_PROGRESS:
        ledger.put(
            msgspec.structs.replace(
                now, status=ResourceStatus.DELETE_IN_PROGRESS, status_reason=None, physical_id=physical_id
            )
        )
    if physical_id is not None:
        if resource.deletion_policy == "Snapshot":
            kind.snapshot(site, physical_id, resource.properties)
        faultpoints.reach("stack.removing")
        kind.remove(site, physical_id, resource.properties)
        faultpoints.reach("stack.removed")
    if resource.touch is Touch.REPLACED and resource.past is not None:
        if resource.past.deletion_policy == "Snapshot":
            kind.snapshot(site, resource.past.physical_id, resource.past.properties)
        if not resource.past.deletion_policy.startswith("Retain"):
            kind.remove(site, resource.past.physical_id, resource.past.properties)
    ledger.drop(resource, ResourceStatus.DELETE_COMPLETE)
    faultpoints.reach("stack.dropped")


def found(ledger: Ledger, resource: StackResource) -> str | None:
    """The id of what there is of a resource, also where its creation was cut off; None for nothing."""
    if resource.physical_id is not None or resource.planned is None:
        return resource.physical_id
    made = KINDS[resource.type].find(ledger.site, resource.planned, resource.properties)
    return None if made is None else made.physical_id


def clean_up(ledger: Ledger) -> None:
    """After an update: remove what it leaves out. What cannot be removed is left, and told."""
    wanted = ledger.stack.wanted
    assert wanted is not None  # noqa: S101 - no operation without
    included = set(Evaluation(ledger.site, ledger.stack, wanted).included)
    for resource in backwards(ledger.stack.resources.values()):
        if resource.logical_id not in included and remove_all(ledger, [resource]):
            _leave(ledger, resource)
    ledger.set_status(
        StackStatus.UPDATE_COMPLETE, resources=settled(ledger.stack.resources), is_now=wanted, wanted=None
    )


def _leave(ledger: Ledger, resource: StackResource) -> None:
    told = f"{resource.type} {resource.physical_id} could not be removed: it belongs to no stack any more"
    ledger.site.notes.append(told)
    ledger.drop(resource, ResourceStatus.DELETE_SKIPPED)

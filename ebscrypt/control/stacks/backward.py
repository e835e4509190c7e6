"""Taking back an operation that failed: what it made goes, what it changed is as before."""

from __future__ import annotations

import msgspec

from ebscrypt.catalog.stack_records import Past, ResourceStatus, StackResource, StackStatus, Touch
from ebscrypt.control import faultpoints
from ebscrypt.control.stacks.forward import create, settled
from ebscrypt.control.stacks.kinds import KINDS
from ebscrypt.control.stacks.ledger import Ledger
from ebscrypt.control.stacks.removal import backwards, found, remove_all
from ebscrypt.errors import EbscryptError


def undo_creation(ledger: Ledger) -> None:
    """Remove all that a creation made. Only the policy Retain keeps something; Snapshot has nothing worth keeping."""
    failed = remove_all(ledger, [_unless_retained(one) for one in ledger.stack.resources.values()])
    reason = ledger.stack.status_reason
    if failed:
        listed = ", ".join(failed)
        reason = f"{reason} The following resource(s) failed to delete: [{listed}]."
        ledger.set_status(StackStatus.ROLLBACK_FAILED, reason)
        return
    ledger.set_status(StackStatus.ROLLBACK_COMPLETE, reason, is_now=ledger.stack.wanted, wanted=None)


def _unless_retained(resource: StackResource) -> StackResource:
    retained = resource.deletion_policy == "Retain" and resource.status is ResourceStatus.CREATE_COMPLETE
    return msgspec.structs.replace(resource, deletion_policy="Retain" if retained else "Delete")


def undo_update(ledger: Ledger) -> None:
    """Give every resource back what it was; the last that was touched comes first."""
    reason = ledger.stack.status_reason
    for resource in backwards(ledger.stack.resources.values()):
        try:
            _restore(ledger, resource)
        except (EbscryptError, OSError) as error:
            now = ledger.stack.resources[resource.logical_id]
            ledger.put(msgspec.structs.replace(now, status=ResourceStatus.UPDATE_FAILED, status_reason=str(error)))
            _give_up(ledger, resource.logical_id)
            return
        if _is_stuck(ledger, resource):
            _give_up(ledger, resource.logical_id)
            return
    resources = settled(ledger.stack.resources)
    ledger.set_status(StackStatus.UPDATE_ROLLBACK_COMPLETE, reason, resources=resources, wanted=None)


def _give_up(ledger: Ledger, name: str) -> None:
    reason = f"{ledger.stack.status_reason} The following resource(s) failed to update: [{name}]."
    ledger.set_status(StackStatus.UPDATE_ROLLBACK_FAILED, reason)


def _is_stuck(ledger: Ledger, resource: StackResource) -> bool:
    """Whether a resource that the update had made could not be removed."""
    now = ledger.stack.resources.get(resource.logical_id)
    return now is not None and now.status is ResourceStatus.DELETE_FAILED


def _restore(ledger: Ledger, resource: StackResource) -> None:
    match resource.touch:
        case Touch.MADE:
            remove_all(ledger, [_unless_retained(resource)])
        case Touch.NONE:
            if resource.status is ResourceStatus.UPDATE_FAILED:
                done = ResourceStatus.UPDATE_COMPLETE
                ledger.put(msgspec.structs.replace(resource, status=done, status_reason=None))
        case Touch.UPDATED:
            past = _past(resource)
            kind = KINDS[resource.type]
            kind.update(ledger.site, past.physical_id, resource.properties, past.properties, back=True)
            faultpoints.reach("stack.updated-back")
            _as_before(ledger, resource, past, past.physical_id)
        case Touch.REPLACED:
            _undo_replacement(ledger, resource, _past(resource))


def _past(resource: StackResource) -> Past:
    assert resource.past is not None  # noqa: S101 - what is touched has a past, unless it is new
    return resource.past


def _undo_replacement(ledger: Ledger, resource: StackResource, past: Past) -> None:
    """Remove the new one; where the old one is gone already, since it had to go first, make it again."""
    kind = KINDS[resource.type]
    if resource.properties != past.properties:
        new = found(ledger, resource)
        if new is not None:
            kind.remove(ledger.site, new, resource.properties)
            faultpoints.reach("stack.removed")
        # From here on the record is that of the old one: a crash finds it to be made, not to be removed.
        resource = ledger.put(
            msgspec.structs.replace(
                resource,
                status=ResourceStatus.UPDATE_IN_PROGRESS,
                status_reason=None,
                properties=past.properties,
                physical_id=None,
                planned=None,
            ),
            event=False,
        )
    physical_id = past.physical_id
    if kind.find(ledger.site, physical_id, past.properties) is None:
        resource = create(ledger, kind, resource, ResourceStatus.UPDATE_IN_PROGRESS)
        physical_id = resource.physical_id or physical_id
    _as_before(ledger, resource, past, physical_id)


def _as_before(ledger: Ledger, resource: StackResource, past: Past, physical_id: str) -> None:
    ledger.put(
        msgspec.structs.replace(
            resource,
            status=ResourceStatus.UPDATE_COMPLETE,
            status_reason=None,
            physical_id=physical_id,
            properties=past.properties,
            attributes=past.attributes,
            needs=past.needs,
            deletion_policy=past.deletion_policy,
            replace_policy=past.replace_policy,
            touch=Touch.NONE,
            past=None,
            planned=None,
        )
    )

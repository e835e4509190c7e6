"""What can be done with stacks: deploy, create, update, delete, go on after a crash.

An operation has two halves. The first, `begin_deploy` or `begin_delete`, judges what is asked for and writes it down:
from then on the stack is ``…_IN_PROGRESS``. The second, `carry_on`, does it, and is called again for a stack whose
process has ended meanwhile: it goes on where that one stopped. `deploy_stack` and `delete_stack` are both halves.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Final, NamedTuple

import msgspec

from ebscrypt.catalog.stack_records import UPDATABLE, Stack, StackStatus, Wanted
from ebscrypt.control import faultpoints, locks
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.stacks import backward, forward, removal
from ebscrypt.control.stacks.ledger import Ledger, Told, stack_event
from ebscrypt.control.stacks.planning import Plan, plan_stack
from ebscrypt.control.stacks.values import checked_template
from ebscrypt.control.tags import check_tags
from ebscrypt.errors import EbscryptError, InvalidParameter, StackFailed, StackStateError, StateError
from ebscrypt.model import utc_now
from ebscrypt.templates.parameters import parameter_values

NO_UPDATES: Final = "No updates are to be performed."
KEPT: Final = timedelta(days=90)
"""How long a deleted stack can be asked for by its id, as in CloudFormation."""
KEPT_EVENTS: Final = 2000
"""How many events of a stack are kept when another operation begins."""
_NAME: Final = re.compile(r"[a-zA-Z][-a-zA-Z0-9]{0,127}")
_WAIT: Final = 1.0
"""Seconds to wait for another command's work on the same stack: that may take minutes."""


class Deployed(NamedTuple):
    """A stack after `deploy_stack`; ``changed`` is False where there was nothing to do."""

    stack: Stack
    changed: bool


def check_stack_name(name: str) -> str:
    """Return ``name`` if a stack may have it, else raise `InvalidParameter`. It becomes a part of a path."""
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"{name[:128]!r} is no name for a stack", hint="a letter, then up to 127 letters, digits and hyphens"
        )
    return name


def new_stack(site: Site, name: str, status: StackStatus = StackStatus.CREATE_IN_PROGRESS) -> Stack:
    """A stack that is nowhere yet, with an id of its own."""
    kms = site.settings.kms
    stack_id = f"arn:aws:cloudformation:{kms.region}:{kms.account}:stack/{name}/{uuid.uuid4()}"
    return Stack(stack_id=stack_id, name=name, status=status, create_time=utc_now())


def wanted_of(
    stack: Stack | None,
    text: str,
    parameters: Mapping[str, str],
    tags: Mapping[str, str] | None,
    *,
    keep_values: bool = True,
) -> Wanted:
    """A template with values for all its parameters. What is not said is as it was, unless not ``keep_values``.

    Raises `InvalidTemplate`, `InvalidParameter`.
    """
    before = None if stack is None else stack.is_now
    template = checked_template(text)
    previous = before.parameters if before is not None and keep_values else {}
    values = parameter_values(template, parameters, previous)
    kept = before.tags if before is not None else {}
    return Wanted(template=text, parameters=values, tags=kept if tags is None else check_tags(tags))


def deploy_stack(
    site: Site,
    name: str,
    text: str,
    *,
    parameters: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
    told: Told | None = None,
) -> Deployed:
    """Make the stack what the template says: create it, or update it, or nothing where it is that already.

    Raises `InvalidTemplate`, `InvalidParameter`, `StackStateError` before anything has begun, and `StackFailed` when
    the operation failed; then it has been rolled back, and the stack's events say why.
    """
    with held(site, name, "stack deploy"):
        stack = _carried_on(site, site.catalog.stacks.find(check_stack_name(name)), told)
        begun = begin_deploy(site, name, stack, wanted_of(stack, text, parameters, tags))
        if begun is None:
            return Deployed(site.catalog.stacks.get(name), changed=False)
        done = carry_on(site, begun, told)
    _refuse_failed(site, done)
    return Deployed(done, changed=True)


def begin_deploy(site: Site, name: str, stack: Stack | None, wanted: Wanted, *, empty: bool = False) -> Stack | None:
    """Write down that ``stack`` (None: a new one) shall become ``wanted``; None where it is that already.

    ``empty`` goes ahead all the same. The caller holds the stack's lock, then calls `carry_on`.
    """
    if stack is None or stack.status is StackStatus.REVIEW_IN_PROGRESS:
        return _begin_create(site, stack or new_stack(site, name), wanted, is_new=stack is None)
    refuse_unless_updatable(stack)
    if plan_stack(site, stack, wanted).is_empty and not empty:
        return None
    site.catalog.stacks.forget_events(stack.stack_id, KEPT_EVENTS)
    site.catalog.stacks.remove_change_sets(stack.stack_id)
    ledger = Ledger(site, stack)
    ledger.set_status(StackStatus.UPDATE_IN_PROGRESS, "User Initiated", wanted=wanted, update_time=utc_now())
    faultpoints.reach("stack.begun")
    return ledger.stack


def _begin_create(site: Site, stack: Stack, wanted: Wanted, *, is_new: bool) -> Stack:
    plan_stack(site, stack, wanted)
    if is_new:
        begun = msgspec.structs.replace(stack, wanted=wanted, status_reason="User Initiated")
        site.catalog.stacks.add(begun, stack_event(begun, None, begun.status.value, begun.status_reason))
    else:
        site.catalog.stacks.remove_change_sets(stack.stack_id)
        ledger = Ledger(site, stack)
        ledger.set_status(StackStatus.CREATE_IN_PROGRESS, "User Initiated", wanted=wanted)
        begun = ledger.stack
    faultpoints.reach("stack.begun")
    return begun


def refuse_unless_updatable(stack: Stack) -> None:
    """Raise `StackStateError` for a stack that cannot be updated in its state."""
    if stack.status in UPDATABLE:
        return
    hint = f"delete it, then deploy again: `ebscrypt stack delete {stack.name}`"
    if stack.status.in_progress:
        hint = f"wait for it, or if it was interrupted deploy again: `ebscrypt stack show {stack.name}`"
    elif stack.status is StackStatus.UPDATE_ROLLBACK_FAILED:
        hint = f"repair what failed, then `ebscrypt stack continue-update-rollback {stack.name}`"
    raise StackStateError(f"Stack:{stack.stack_id} is in {stack.status} state and can not be updated.", hint=hint)


def preview(site: Site, name: str, stack: Stack | None, wanted: Wanted) -> Plan:
    """What `begin_deploy` would have done. Raises the same."""
    if stack is not None and stack.status is not StackStatus.REVIEW_IN_PROGRESS:
        refuse_unless_updatable(stack)
    return plan_stack(site, stack or new_stack(site, name), wanted)


def delete_stack(site: Site, name: str, *, told: Told | None = None) -> Stack:
    """Delete a stack with its resources, each by its DeletionPolicy.

    Raises `StackNotFound`, and `StackFailed` when something could not be removed: the stack is ``DELETE_FAILED`` then,
    and may be deleted again.
    """
    with held(site, site.catalog.stacks.get(name).name, "stack delete"):
        done = carry_on(site, begin_delete(site, site.catalog.stacks.get(name)), told)
    _refuse_failed(site, done)
    return done


def begin_delete(site: Site, stack: Stack) -> Stack:
    """Write down that a stack is to be deleted, in whichever state it is. The caller holds its lock."""
    if stack.status in (StackStatus.DELETE_IN_PROGRESS, StackStatus.DELETE_COMPLETE):
        return stack
    site.catalog.stacks.forget_deleted(utc_now() - KEPT)
    site.catalog.stacks.remove_change_sets(stack.stack_id)
    ledger = Ledger(site, stack)
    ledger.set_status(StackStatus.DELETE_IN_PROGRESS, "User Initiated")
    faultpoints.reach("stack.begun")
    return ledger.stack


def continue_update_rollback(site: Site, name: str, *, told: Told | None = None) -> Stack:
    """Try again to roll back an update whose rollback failed. Raises `StackStateError`, `StackFailed`."""
    with held(site, name, "stack continue-update-rollback"):
        ledger = Ledger(site, site.catalog.stacks.get(name))
        if ledger.stack.status is not StackStatus.UPDATE_ROLLBACK_FAILED:
            raise StackStateError(
                f"Stack:{ledger.stack.stack_id} is in {ledger.stack.status} state: nothing to go on with"
            )
        ledger.set_status(StackStatus.UPDATE_ROLLBACK_IN_PROGRESS, "User Initiated")
        done = carry_on(site, ledger.stack, told)
    if done.status is not StackStatus.UPDATE_ROLLBACK_COMPLETE:
        _refuse_failed(site, done)
    return done


def carry_on(site: Site, stack: Stack, told: Told | None = None) -> Stack:
    """Do what is under way with a stack until nothing is, and return it. The caller holds its lock."""
    ledger = Ledger(site, stack, told)
    while (step := _STEPS.get(ledger.stack.status)) is not None:
        step(ledger)
        faultpoints.reach("stack.step")
    return ledger.stack


def _carried_on(site: Site, stack: Stack | None, told: Told | None) -> Stack | None:
    """A stack with nothing under way: what a crash interrupted is gone on with first."""
    if stack is None or not stack.status.in_progress:
        return stack
    site.notes.append(f"an operation on stack {stack.name} was interrupted: it was gone on with")
    recover(site)
    done = carry_on(site, stack, told)
    return None if done.status is StackStatus.DELETE_COMPLETE else done


def lock_name(name: str) -> str:
    """What the lock of a stack's name is called; no volume and no snapshot is called so."""
    return f"stack-{name}"


@contextmanager
def held(site: Site, name: str, command: str) -> Iterator[None]:
    """Hold the lock of a stack's name. Raises `StackStateError` while another command has it."""
    key = lock_name(check_stack_name(name))
    with ExitStack() as lock:
        try:
            lock.enter_context(locks.held(site.settings, key, command, timeout=_WAIT))
        except StateError as error:
            raise StackStateError(
                f"another operation on stack {name} is in progress", hint=f"see `ebscrypt stack show {name}`"
            ) from error
        yield


def is_under_way(site: Site, stack: Stack) -> bool:
    """Whether a living process works on a stack; one that is ``…_IN_PROGRESS`` without was interrupted."""
    return locks.holder(site.settings, lock_name(stack.name)) is not None


def why_failed(site: Site, stack: Stack) -> str:
    """The reason of the first failure of a stack's last operation."""
    reason = stack.status_reason or ""
    for event in site.catalog.stacks.events(stack.stack_id):
        if event.status.endswith("_FAILED") and event.physical_id != stack.stack_id:
            reason = f"{event.logical_id}: {event.reason}"
        if event.reason == "User Initiated":
            break
    return reason


def _refuse_failed(site: Site, stack: Stack) -> None:
    if stack.status in (StackStatus.CREATE_COMPLETE, StackStatus.UPDATE_COMPLETE, StackStatus.DELETE_COMPLETE):
        return
    raise StackFailed(
        f"stack {stack.name} is {stack.status}: {why_failed(site, stack)}",
        hint=f"see `ebscrypt stack show {stack.name} --events`",
    )


def _create(ledger: Ledger) -> None:
    _forward(ledger, StackStatus.ROLLBACK_IN_PROGRESS)


def _update(ledger: Ledger) -> None:
    _forward(ledger, StackStatus.UPDATE_ROLLBACK_IN_PROGRESS)


def _forward(ledger: Ledger, rollback: StackStatus) -> None:
    try:
        forward.make(ledger)
    except (EbscryptError, OSError) as error:
        failed = [name for name, one in ledger.stack.resources.items() if one.status.endswith("_FAILED")]
        verb = "create" if rollback is StackStatus.ROLLBACK_IN_PROGRESS else "update"
        reason = f"The following resource(s) failed to {verb}: [{', '.join(failed)}]." if failed else str(error)
        ledger.set_status(rollback, reason)


_STEPS: Final[dict[StackStatus, Callable[[Ledger], None]]] = {
    StackStatus.CREATE_IN_PROGRESS: _create,
    StackStatus.ROLLBACK_IN_PROGRESS: backward.undo_creation,
    StackStatus.UPDATE_IN_PROGRESS: _update,
    StackStatus.UPDATE_CLEANUP: removal.clean_up,
    StackStatus.UPDATE_ROLLBACK_IN_PROGRESS: backward.undo_update,
    StackStatus.DELETE_IN_PROGRESS: removal.delete,
}

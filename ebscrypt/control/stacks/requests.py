"""What the API asks of stacks: judged and written down at once, done by a process of its own.

Whoever asks gets an answer when the stack is ``…_IN_PROGRESS``, and looks at it again until it is not. The process
survives the server that started it. If it ends before its work does, `start_interrupted`, which every look at a stack
calls, starts another, and that goes on where the first one stopped.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

import msgspec

from ebscrypt.catalog.stack_records import ChangeSet, Stack, StackStatus
from ebscrypt.control import locks, process, systemd
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.stacks import operations
from ebscrypt.control.stacks.operations import NO_UPDATES, held
from ebscrypt.control.stacks.planning import plan_stack
from ebscrypt.errors import InvalidChangeSet, StackNotFound, StackStateError, StateError
from ebscrypt.model import utc_now

COMMAND: Final = "stack settle"
NO_CHANGES: Final = (
    "The submitted information didn't contain changes. Submit different information to create a change set."
)
"""CloudFormation's reason of a change set that would do nothing; clients look for it."""


def create_stack(
    site: Site, name: str, text: str, *, parameters: Mapping[str, str], tags: Mapping[str, str] | None = None
) -> Stack:
    """Begin to make a stack. Raises `StackStateError` if there is one of that name, and as `deploy_stack` does."""
    with held(site, name, "stack create"):
        if site.catalog.stacks.find(name) is not None:
            raise StackStateError(f"Stack [{name}] already exists")
        begun = operations.begin_deploy(site, name, None, operations.wanted_of(None, text, parameters, tags))
    return _started(site, begun or site.catalog.stacks.get(name))


def update_stack(
    site: Site,
    name: str,
    text: str | None,
    *,
    parameters: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
) -> Stack:
    """Begin to update a stack, with the template that it has if ``text`` is None.

    Parameters that are not given are at their defaults. Raises `StackStateError` where nothing would change.
    """
    stack = site.catalog.stacks.get(name)
    with held(site, stack.name, "stack update"):
        stack = site.catalog.stacks.get(stack.stack_id)
        operations.refuse_unless_updatable(stack)
        wanted = operations.wanted_of(stack, text or _template_of(stack), parameters, tags, keep_values=False)
        begun = operations.begin_deploy(site, stack.name, stack, wanted)
    if begun is None:
        raise StackStateError(NO_UPDATES)
    return _started(site, begun)


def delete_stack(site: Site, name: str) -> None:
    """Begin to delete a stack. One that is not there is deleted."""
    stack = site.catalog.stacks.find(name)
    if stack is None or stack.status is StackStatus.DELETE_COMPLETE:
        return
    with held(site, stack.name, "stack delete"):
        begun = operations.begin_delete(site, site.catalog.stacks.get(stack.stack_id))
    _started(site, begun)


def create_change_set(
    site: Site,
    stack_name: str,
    name: str,
    text: str | None,
    *,
    kind: str = "UPDATE",
    parameters: Mapping[str, str],
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
) -> ChangeSet:
    """Work out what a template would change, and keep that to be executed.

    ``kind`` CREATE makes a stack in ``REVIEW_IN_PROGRESS``, which has nothing yet. A change set that changes nothing is
    kept as well, with its ``failure``. Raises `StackStateError`, `StackNotFound`, and as `deploy_stack` does.
    """
    there = site.catalog.stacks.find(stack_name)
    with held(site, stack_name if there is None else there.name, "stack create-change-set"):
        stack = site.catalog.stacks.find(stack_name)
        is_new = stack is None
        if kind == "CREATE":
            stack = _to_review(site, stack, stack_name, name)
        elif stack is None or stack.status is StackStatus.REVIEW_IN_PROGRESS:
            raise StackNotFound(f"Stack [{stack_name}] does not exist")
        else:
            operations.refuse_unless_updatable(stack)
        wanted = operations.wanted_of(stack, text or _template_of(stack), parameters, tags, keep_values=False)
        plan = plan_stack(site, stack, wanted)
        if is_new:
            site.catalog.stacks.add(stack)
        change_set = ChangeSet(
            change_set_id=_change_set_id(stack, name),
            name=name,
            stack_id=stack.stack_id,
            stack_name=stack.name,
            kind=kind,
            create_time=utc_now(),
            description=description,
            wanted=wanted,
            changes=plan.changes,
            failure=NO_CHANGES if plan.is_empty else None,
        )
        site.catalog.stacks.write_change_set(change_set)
        return change_set


def execute_change_set(site: Site, name: str, stack_name: str | None = None) -> Stack:
    """Begin to do what a change set says. Raises `ChangeSetNotFound`, `InvalidChangeSet`, `StackStateError`.

    All other change sets of the stack go: they were made for what the stack was.
    """
    change_set = find_change_set(site, name, stack_name)
    with held(site, change_set.stack_name, "stack execute-change-set"):
        change_set = site.catalog.stacks.change_set(change_set.change_set_id)
        if change_set.failure is not None or change_set.executed:
            state = "EXECUTE_COMPLETE" if change_set.executed else "FAILED"
            raise InvalidChangeSet(
                f"ChangeSet [{change_set.change_set_id}] cannot be executed in its current status of [{state}]"
            )
        stack = site.catalog.stacks.get(change_set.stack_id)
        begun = operations.begin_deploy(site, stack.name, stack, change_set.wanted, empty=True)
        site.catalog.stacks.write_change_set(msgspec.structs.replace(change_set, executed=True))
    return _started(site, begun or stack)


def find_change_set(site: Site, name: str, stack_name: str | None = None) -> ChangeSet:
    """A change set by its id, or by its name and its stack's. Raises `ChangeSetNotFound`, `StackNotFound`."""
    if stack_name is None:
        return site.catalog.stacks.change_set(name)
    return site.catalog.stacks.change_set(name, site.catalog.stacks.get(stack_name).stack_id)


def start_interrupted(site: Site, stack: Stack) -> None:
    """Go on with a stack's operation whose process has ended. Nothing where there is none, or its process lives."""
    if stack.status.in_progress and not operations.is_under_way(site, stack):
        start(site, stack)


def start(site: Site, stack: Stack) -> None:
    """Have a process of its own do what is under way with a stack. It ends at once if another is at it.

    Raises `StateError` when no process can be started.
    """
    command = [sys.executable, "-m", "ebscrypt.cli.main", *COMMAND.split(), stack.stack_id]
    if systemd.is_used(site.settings) and systemd.start_transient(f"Stack {stack.name}", *command):
        return
    try:
        subprocess.run(
            ["setsid", "--fork", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=process.environment(site.settings),
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StateError(f"nothing can be started that works on stack {stack.name}: {error}") from error


def settle_stack(site: Site, stack_id: str) -> None:
    """Do what is under way with a stack, to its end. Nothing where that is nothing, or another process does it."""
    name = site.catalog.stacks.get(stack_id).name
    with ExitStack() as lock:
        try:
            lock.enter_context(locks.held(site.settings, operations.lock_name(name), COMMAND, timeout=0))
        except StateError:
            return
        recover(site)
        operations.carry_on(site, site.catalog.stacks.get(stack_id))


def _started(site: Site, stack: Stack) -> Stack:
    start(site, stack)
    return stack


def _template_of(stack: Stack | None) -> str:
    if stack is None or stack.is_now is None:
        raise StackStateError("there is no previous template to use")
    return stack.is_now.template


def _to_review(site: Site, stack: Stack | None, name: str, change_set: str) -> Stack:
    if stack is None:
        return operations.new_stack(site, operations.check_stack_name(name), StackStatus.REVIEW_IN_PROGRESS)
    if stack.status is not StackStatus.REVIEW_IN_PROGRESS:
        raise StackStateError(
            f"Stack [{name}] already exists and cannot be created again with the changeSet [{change_set}]."
        )
    return stack


def _change_set_id(stack: Stack, name: str) -> str:
    scope = stack.stack_id.split(":stack/")[0]
    return f"{scope}:changeSet/{name}/{uuid.uuid4()}"

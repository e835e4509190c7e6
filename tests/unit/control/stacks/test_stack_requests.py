"""What the API asks of stacks: begun at once, done elsewhere; and change sets."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from ebscrypt.catalog.stack_records import ChangeSet, StackStatus
from ebscrypt.control import locks
from ebscrypt.control.stacks import operations, requests
from ebscrypt.errors import ChangeSetNotFound, InvalidChangeSet, StackNotFound, StackStateError
from ebscrypt.model import GIB
from tests.unit.control.stacks.deploying import NAME, Deployer, alias, key, volume


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stacks for which a process would have been started; `settle` is what it would do."""
    found: list[str] = []
    monkeypatch.setattr(requests, "start", lambda _, stack: found.append(stack.stack_id))
    return found


def settle(stacks: Deployer, begun: list[str]) -> None:
    while begun:
        requests.settle_stack(stacks.site, begun.pop())


def template(**resources: Any) -> str:
    return json.dumps({"Resources": resources})


def change_set(stacks: Deployer, name: str, kind: str, **resources: Any) -> ChangeSet:
    return requests.create_change_set(stacks.site, NAME, name, template(**resources), kind=kind, parameters={})


def test_an_operation_is_begun_and_done_elsewhere(stacks: Deployer, begun: list[str]) -> None:
    """Until then the stack is IN_PROGRESS, has nothing, and takes no other operation."""
    asked = requests.create_stack(stacks.site, NAME, template(Data=volume()), parameters={})
    assert (asked.status, asked.resources) == (StackStatus.CREATE_IN_PROGRESS, {})
    with pytest.raises(StackStateError, match=r"Stack \[mail\] already exists"):
        requests.create_stack(stacks.site, NAME, template(Data=volume()), parameters={})
    with pytest.raises(StackStateError, match="is in CREATE_IN_PROGRESS state and can not be updated"):
        requests.update_stack(stacks.site, NAME, None, parameters={})
    settle(stacks, begun)
    assert stacks.stack.status is StackStatus.CREATE_COMPLETE

    requests.update_stack(stacks.site, NAME, template(Data=volume(Size=2)), parameters={})
    settle(stacks, begun)
    assert stacks.site.catalog.volume(stacks.physical("Data")).size == 2 * GIB
    with pytest.raises(StackStateError, match=r"No updates are to be performed\."):
        requests.update_stack(stacks.site, NAME, None, parameters={})

    requests.delete_stack(stacks.site, NAME)
    assert stacks.stack.status.value == "DELETE_IN_PROGRESS"
    settle(stacks, begun)
    stacks.expect_nothing_left()
    requests.delete_stack(stacks.site, NAME)
    assert begun == []


def test_one_that_was_interrupted_is_started_again(stacks: Deployer, begun: list[str]) -> None:
    """By whoever looks at it; not while a process is at work, and not when nothing is under way."""
    stack = requests.create_stack(stacks.site, NAME, template(Data=volume()), parameters={})
    begun.clear()

    with locks.held(stacks.site.settings, operations.lock_name(NAME), requests.COMMAND):
        requests.start_interrupted(stacks.site, stack)
        requests.settle_stack(stacks.site, stack.stack_id)
    assert begun == []
    assert stacks.volumes() == []
    requests.start_interrupted(stacks.site, stack)
    assert begun == [stack.stack_id]
    settle(stacks, begun)
    requests.start_interrupted(stacks.site, stacks.stack)

    assert begun == []
    assert stacks.stack.status is StackStatus.CREATE_COMPLETE


def test_a_change_set_creates_a_stack(stacks: Deployer, begun: list[str]) -> None:
    """The stack waits for review with nothing in it; executed, it is as if it had been created so."""
    made = change_set(stacks, "first", "CREATE", Key=key(), Alias=alias("a"))
    assert (stacks.stack.status, stacks.keys()) == (StackStatus.REVIEW_IN_PROGRESS, {})
    assert [(one.action, one.logical_id) for one in made.changes] == [("Add", "Key"), ("Add", "Alias")]
    with pytest.raises(StackStateError, match="ChangeSet first already exists"):
        change_set(stacks, "first", "CREATE", Key=key())

    requests.execute_change_set(stacks.site, "first", NAME)
    settle(stacks, begun)

    assert stacks.stack.status is StackStatus.CREATE_COMPLETE
    assert set(stacks.aliases()) == {"alias/a"}
    with pytest.raises(StackStateError, match="already exists and cannot be created again with the changeSet"):
        change_set(stacks, "again", "CREATE", Key=key())
    with pytest.raises(InvalidChangeSet, match="EXECUTE_COMPLETE"):
        requests.execute_change_set(stacks.site, made.change_set_id)


def test_a_change_set_says_what_an_update_would_do(stacks: Deployer, begun: list[str]) -> None:
    """Action, replacement and properties of each; executing one does that, and forgets the others."""
    stacks.deploy({"Key": key(), "Alias": alias("a"), "Data": volume(), "Old": volume()})
    wanted = {"Key": key(Description="x"), "Alias": alias("b"), "Data": volume(), "New": key()}

    made = change_set(stacks, "one", "UPDATE", **wanted)
    change_set(stacks, "two", "UPDATE", Data=volume())

    assert [(one.action, one.logical_id, one.replacement, one.properties) for one in made.changes] == [
        ("Modify", "Key", "False", ["Description"]),
        ("Add", "New", None, []),
        ("Modify", "Alias", "True", ["AliasName"]),
        ("Remove", "Old", None, []),
    ]
    assert len(stacks.volumes()) == 2
    requests.execute_change_set(stacks.site, made.change_set_id)
    settle(stacks, begun)
    assert set(stacks.aliases()) == {"alias/b"}
    assert [(one.name, one.executed) for one in stacks.site.catalog.stacks.change_sets(stacks.stack.stack_id)] == [
        ("one", True)
    ]


def test_a_change_set_without_changes_fails(stacks: Deployer, begun: list[str]) -> None:
    """With the text that clients look for; it cannot be executed."""
    stacks.deploy({"Data": volume()})

    made = change_set(stacks, "none", "UPDATE", Data=volume())

    assert made.failure is not None
    assert made.failure.startswith("The submitted information didn't contain changes.")
    with pytest.raises(InvalidChangeSet, match="FAILED"):
        requests.execute_change_set(stacks.site, "none", NAME)
    assert begun == []


def test_what_is_not_there(stacks: Deployer) -> None:
    """A stack or change set that there is not is named."""
    with pytest.raises(StackNotFound, match=r"Stack \[mail\] does not exist"):
        change_set(stacks, "x", "UPDATE", Data=volume())
    with pytest.raises(StackNotFound):
        requests.execute_change_set(stacks.site, "x", NAME)
    stacks.deploy({"Data": volume()})
    with pytest.raises(ChangeSetNotFound, match=r"ChangeSet \[x\] does not exist"):
        requests.execute_change_set(stacks.site, "x", NAME)


def test_two_operations_at_once_are_one(stacks: Deployer) -> None:
    """Of two that race for one name, one makes the stack, the other is refused or finds nothing to do."""
    started, refused = threading.Barrier(2), []

    def deploy() -> None:
        started.wait()
        try:
            stacks.deploy({"Data": volume()})
        except StackStateError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=deploy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(stacks.volumes()) == 1
    assert stacks.stack.status is StackStatus.CREATE_COMPLETE
    assert all("in progress" in told for told in refused)

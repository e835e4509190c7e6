"""What the catalog keeps of a stack: its template and values, its resources, and the operation that is under way.

A stack is one document, written whole at each step together with the events of that step; so after a crash it says
exactly how far an operation had come. States and their names are CloudFormation's.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec


class StackStatus(StrEnum):
    """CloudFormation's states of a stack."""

    REVIEW_IN_PROGRESS = "REVIEW_IN_PROGRESS"
    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    CREATE_COMPLETE = "CREATE_COMPLETE"
    ROLLBACK_IN_PROGRESS = "ROLLBACK_IN_PROGRESS"
    ROLLBACK_COMPLETE = "ROLLBACK_COMPLETE"
    ROLLBACK_FAILED = "ROLLBACK_FAILED"
    UPDATE_IN_PROGRESS = "UPDATE_IN_PROGRESS"
    UPDATE_CLEANUP = "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
    UPDATE_COMPLETE = "UPDATE_COMPLETE"
    UPDATE_ROLLBACK_IN_PROGRESS = "UPDATE_ROLLBACK_IN_PROGRESS"
    UPDATE_ROLLBACK_COMPLETE = "UPDATE_ROLLBACK_COMPLETE"
    UPDATE_ROLLBACK_FAILED = "UPDATE_ROLLBACK_FAILED"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"
    DELETE_FAILED = "DELETE_FAILED"
    DELETE_COMPLETE = "DELETE_COMPLETE"

    @property
    def in_progress(self) -> bool:
        """Whether an operation is under way, or was when its process ended."""
        return self.value.endswith("_IN_PROGRESS") and self is not StackStatus.REVIEW_IN_PROGRESS


UPDATABLE: Final = frozenset(
    {StackStatus.CREATE_COMPLETE, StackStatus.UPDATE_COMPLETE, StackStatus.UPDATE_ROLLBACK_COMPLETE}
)
"""In these states a stack can be updated."""


class ResourceStatus(StrEnum):
    """CloudFormation's states of a resource."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    CREATE_COMPLETE = "CREATE_COMPLETE"
    CREATE_FAILED = "CREATE_FAILED"
    UPDATE_IN_PROGRESS = "UPDATE_IN_PROGRESS"
    UPDATE_COMPLETE = "UPDATE_COMPLETE"
    UPDATE_FAILED = "UPDATE_FAILED"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"
    DELETE_COMPLETE = "DELETE_COMPLETE"
    DELETE_FAILED = "DELETE_FAILED"
    DELETE_SKIPPED = "DELETE_SKIPPED"


class Touch(StrEnum):
    """What the operation under way has done, or begun to do, to a resource."""

    NONE = "none"
    MADE = "made"
    UPDATED = "updated"
    REPLACED = "replaced"


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What a resource was before the operation under way: what a rollback goes back to."""

    physical_id: str
    properties: dict[str, Any]
    attributes: dict[str, str]
    needs: list[str]
    deletion_policy: str
    replace_policy: str


class StackResource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource of a stack. ``properties`` are evaluated; ``needs`` are the resources that it was made after.

    ``planned`` is noted before anything is made: with it what an interrupted creation has made is found again.
    ``physical_id`` is None until it is made.
    """

    logical_id: str
    type: str
    status: ResourceStatus
    status_reason: str | None = None
    timestamp: datetime
    planned: str | None = None
    physical_id: str | None = None
    properties: dict[str, Any] = {}
    attributes: dict[str, str] = {}
    needs: list[str] = []
    deletion_policy: str = "Delete"
    replace_policy: str = "Delete"
    touch: Touch = Touch.NONE
    past: Past | None = None


class StackOutput(msgspec.Struct, frozen=True, kw_only=True):
    """An output with its value; ``export`` is the name under which other stacks import it."""

    name: str
    value: str
    description: str | None = None
    export: str | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a stack shall be: a template with values for all its parameters, and the stack's tags."""

    template: str
    parameters: dict[str, str] = {}
    tags: dict[str, str] = {}


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A stack. ``is_now`` is what it was made of, ``wanted`` what the operation under way makes of it."""

    stack_id: str
    name: str
    status: StackStatus
    status_reason: str | None = None
    create_time: datetime
    update_time: datetime | None = None
    delete_time: datetime | None = None
    description: str | None = None
    is_now: Wanted | None = None
    wanted: Wanted | None = None
    resources: dict[str, StackResource] = {}
    outputs: list[StackOutput] = []


class StackEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the state of a stack (then ``logical_id`` is its name) or of one of its resources."""

    event_id: str
    logical_id: str
    physical_id: str | None
    type: str
    status: str
    reason: str | None
    timestamp: datetime


class ResourceChange(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation would do to a resource. ``replacement`` is True, False or Conditional, as in a change set."""

    action: str
    logical_id: str
    physical_id: str | None
    type: str
    replacement: str | None = None
    properties: list[str] = []
    policy_action: str | None = None


class ChangeSet(msgspec.Struct, frozen=True, kw_only=True):
    """A change set: what is wanted, and what that would change. ``failure`` is why it cannot be executed."""

    change_set_id: str
    name: str
    stack_id: str
    stack_name: str
    kind: str
    create_time: datetime
    description: str | None = None
    wanted: Wanted
    changes: list[ResourceChange] = []
    failure: str | None = None
    executed: bool = False

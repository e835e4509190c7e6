"""`Ledger`: a stack while an operation runs on it. Each step is written down, with its event, before the next."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from ebscrypt.catalog.stack_records import ResourceStatus, Stack, StackEvent, StackResource, StackStatus
from ebscrypt.control.site import Site
from ebscrypt.model import utc_now

Told = Callable[[StackEvent], None]
"""Hears of every event as it is written."""
STACK_TYPE = "AWS::CloudFormation::Stack"


class Ledger:
    """``stack`` is always what the catalog has. Whoever holds a ledger holds the lock of the stack's name."""

    def __init__(self, site: Site, stack: Stack, told: Told | None = None) -> None:
        self.site = site
        self.stack = stack
        self._told = told

    def set_status(
        self,
        status: StackStatus,
        reason: str | None = None,
        *,
        exports: Mapping[str, str] | None = None,
        imports: Collection[str] | None = None,
        **values: Any,
    ) -> None:
        """Bring the stack into a state, with further fields of it. Raises as `StackRows.write` does."""
        stack = msgspec.structs.replace(self.stack, status=status, status_reason=reason, **values)
        event = stack_event(stack, None, status.value, reason)
        self.site.catalog.stacks.write(stack, event, exports=exports, imports=imports)
        self.stack = stack
        self._tell(event)

    def withdraw(self) -> None:
        """Give up the stack's exports and imports. Raises `StackStateError` while another stack imports from it."""
        self.site.catalog.stacks.write(self.stack, exports={}, imports=())

    def put(self, resource: StackResource, *, event: bool = True) -> StackResource:
        """Write a resource as it is now."""
        resource = msgspec.structs.replace(resource, timestamp=utc_now())
        told = self._resource_event(resource, resource.status, resource.status_reason) if event else None
        self._write({**self.stack.resources, resource.logical_id: resource}, told)
        return resource

    def drop(self, resource: StackResource, status: ResourceStatus) -> None:
        """Forget a resource, which ended in ``status``."""
        rest = {name: one for name, one in self.stack.resources.items() if name != resource.logical_id}
        self._write(rest, self._resource_event(resource, status, None))

    def _write(self, resources: dict[str, StackResource], event: StackEvent | None) -> None:
        stack = msgspec.structs.replace(self.stack, resources=resources)
        self.site.catalog.stacks.write(stack, *([] if event is None else [event]))
        self.stack = stack
        if event is not None:
            self._tell(event)

    def _resource_event(self, resource: StackResource, status: ResourceStatus, reason: str | None) -> StackEvent:
        return stack_event(self.stack, resource, status.value, reason)

    def _tell(self, event: StackEvent) -> None:
        if self._told is not None:
            self._told(event)


def stack_event(stack: Stack, resource: StackResource | None, status: str, reason: str | None) -> StackEvent:
    """The record of an event of this moment, about a resource of a stack or (None) the stack itself."""
    return StackEvent(
        event_id=str(uuid.uuid4()),
        logical_id=stack.name if resource is None else resource.logical_id,
        physical_id=stack.stack_id if resource is None else resource.physical_id,
        type=STACK_TYPE if resource is None else resource.type,
        status=status,
        reason=reason,
        timestamp=utc_now(),
    )

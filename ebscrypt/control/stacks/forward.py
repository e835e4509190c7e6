"""An operation on its way to what is wanted: resource by resource, each after those that it needs.

What was done before a crash is told by the resource's own record: ``touch`` says what has begun, ``planned`` under
which name, the state whether it is done. So `make` may be called again at any point, and goes on there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from ebscrypt.catalog.stack_records import Past, ResourceStatus, StackResource, StackStatus, Touch
from ebscrypt.control import faultpoints
from ebscrypt.control.stacks.kinds import KINDS
from ebscrypt.control.stacks.kinds.kind import Kind, Update
from ebscrypt.control.stacks.ledger import Ledger
from ebscrypt.control.stacks.values import Evaluation
from ebscrypt.errors import EbscryptError
from ebscrypt.model import utc_now
from ebscrypt.templates.references import edges, ordered

_REPLACING = "Requested update requires the creation of a new physical resource; hence creating one."
_DONE = frozenset({ResourceStatus.CREATE_COMPLETE, ResourceStatus.UPDATE_COMPLETE})


def make(ledger: Ledger) -> None:
    """Bring every resource to what is wanted, then work out the outputs.

    Raises what the first resource that fails raises; it is ``CREATE_FAILED`` or ``UPDATE_FAILED`` then.
    """
    wanted = ledger.stack.wanted
    assert wanted is not None  # noqa: S101 - no operation without
    evaluation = Evaluation(ledger.site, ledger.stack, wanted)
    needs = edges(evaluation.template, evaluation.included)
    for name in ordered(needs):
        evaluation.stack = ledger.stack
        try:
            _bring(ledger, evaluation, name, needs[name])
        except (EbscryptError, OSError) as error:
            _failed(ledger, evaluation, name, str(error))
            raise
    evaluation.stack = ledger.stack
    _finish(ledger, evaluation, needs)


def _failed(ledger: Ledger, evaluation: Evaluation, name: str, reason: str) -> None:
    now = ledger.stack.resources.get(name)
    if now is None:
        now = _new(evaluation, name, {}, ())
    status = ResourceStatus.CREATE_FAILED if now.touch is Touch.MADE else ResourceStatus.UPDATE_FAILED
    ledger.put(msgspec.structs.replace(now, status=status, status_reason=reason))


def _new(evaluation: Evaluation, name: str, properties: dict[str, Any], needs: Collection[str]) -> StackResource:
    declared = evaluation.template.resources[name]
    return StackResource(
        logical_id=name,
        type=declared.type,
        status=ResourceStatus.CREATE_IN_PROGRESS,
        timestamp=utc_now(),
        properties=properties,
        needs=sorted(needs),
        deletion_policy=declared.deletion_policy or "Delete",
        replace_policy=declared.update_replace_policy or "Delete",
        touch=Touch.MADE,
    )


def _bring(ledger: Ledger, evaluation: Evaluation, name: str, needs: Collection[str]) -> None:
    kind = KINDS[evaluation.template.resources[name].type]
    now = ledger.stack.resources.get(name)
    if now is None or now.touch is Touch.NONE:
        now = _begin(ledger, evaluation, kind, name, needs)
    if now is None or now.status in _DONE:
        return
    if now.touch is Touch.MADE:
        create(ledger, kind, now, ResourceStatus.CREATE_COMPLETE)
    elif now.touch is Touch.UPDATED:
        _update(ledger, kind, now)
    else:
        _replace(ledger, kind, now)


def _begin(
    ledger: Ledger, evaluation: Evaluation, kind: Kind, name: str, needs: Collection[str]
) -> StackResource | None:
    """Write down what will be done to a resource; None where nothing is to be done."""
    properties = evaluation.properties(name)
    now = ledger.stack.resources.get(name)
    if now is None:
        return ledger.put(_new(evaluation, name, properties, needs))
    if now.properties == properties:
        return None
    kind.check(ledger.site, properties)
    past = Past(
        physical_id=now.physical_id or "",
        properties=now.properties,
        attributes=now.attributes,
        needs=now.needs,
        deletion_policy=now.deletion_policy,
        replace_policy=now.replace_policy,
    )
    if kind.update_of(now.properties, properties) is Update.IN_PLACE:
        return ledger.put(
            msgspec.structs.replace(
                now,
                status=ResourceStatus.UPDATE_IN_PROGRESS,
                status_reason=None,
                properties=properties,
                needs=sorted(needs),
                touch=Touch.UPDATED,
                past=past,
            )
        )
    return ledger.put(
        msgspec.structs.replace(
            _new(evaluation, name, properties, needs),
            status=ResourceStatus.UPDATE_IN_PROGRESS,
            status_reason=_REPLACING,
            touch=Touch.REPLACED,
            past=past,
        )
    )


def create(ledger: Ledger, kind: Kind, now: StackResource, done: ResourceStatus) -> StackResource:
    """Make a resource: its plan is written down first, so that nothing it makes can be lost sight of."""
    kind.check(ledger.site, now.properties)
    planned = now.planned
    there = None if planned is None else kind.find(ledger.site, planned, now.properties)
    if planned is None:
        planned = kind.plan(ledger.site, now.properties)
        now = ledger.put(msgspec.structs.replace(now, planned=planned), event=False)
        faultpoints.reach("stack.planned")
    made = kind.create(ledger.site, planned, now.properties, there)
    faultpoints.reach("stack.made")
    return ledger.put(
        msgspec.structs.replace(
            now, status=done, status_reason=None, physical_id=made.physical_id, attributes=made.attributes
        )
    )


def _update(ledger: Ledger, kind: Kind, now: StackResource) -> None:
    assert now.past is not None  # noqa: S101 - `_begin` wrote it
    assert now.physical_id is not None  # noqa: S101 - it was there before
    attributes = kind.update(ledger.site, now.physical_id, now.past.properties, now.properties, back=False)
    faultpoints.reach("stack.updated")
    ledger.put(
        msgspec.structs.replace(now, status=ResourceStatus.UPDATE_COMPLETE, status_reason=None, attributes=attributes)
    )


def _replace(ledger: Ledger, kind: Kind, now: StackResource) -> None:
    assert now.past is not None  # noqa: S101 - `_begin` wrote it
    if now.planned is None and now.past.replace_policy != "Retain":
        kind.remove(ledger.site, now.past.physical_id, now.past.properties)
        faultpoints.reach("stack.removed")
    create(ledger, kind, now, ResourceStatus.UPDATE_COMPLETE)


def _finish(ledger: Ledger, evaluation: Evaluation, needs: dict[str, set[str]]) -> None:
    """All is made: outputs, exports, and what no resource has to do for."""
    outputs = evaluation.outputs()
    resources = dict(ledger.stack.resources)
    for name in evaluation.included:
        declared = evaluation.template.resources[name]
        resources[name] = msgspec.structs.replace(
            resources[name],
            needs=sorted(needs[name]),
            deletion_policy=declared.deletion_policy or "Delete",
            replace_policy=declared.update_replace_policy or "Delete",
        )
    exports = {one.export: one.value for one in outputs if one.export is not None}
    values: dict[str, Any] = {"outputs": outputs, "description": evaluation.template.description}
    if ledger.stack.status is StackStatus.CREATE_IN_PROGRESS:
        status = StackStatus.CREATE_COMPLETE
        values |= {"resources": settled(resources), "is_now": ledger.stack.wanted, "wanted": None}
    else:
        status = StackStatus.UPDATE_CLEANUP
        values |= {"resources": resources, "update_time": utc_now()}
    ledger.set_status(status, exports=exports, imports=evaluation.imports, **values)
    faultpoints.reach("stack.outputs")


def settled(resources: dict[str, StackResource]) -> dict[str, StackResource]:
    """Resources after an operation: nothing is under way with them."""
    return {
        name: msgspec.structs.replace(one, touch=Touch.NONE, past=None, planned=None) for name, one in resources.items()
    }

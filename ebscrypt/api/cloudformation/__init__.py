"""CloudFormation's stack actions over control. One file per kind of thing; each action is the function of its name.

OPERATIONS    what there is, by API action
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api.cloudformation import change_sets, looking, stacks, templates
from ebscrypt.api.errors import ApiError
from ebscrypt.errors import NotFound, StateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebscrypt.api.call import Call, Operation

_OWN_CODES: Final = {"ChangeSetNotFound": 404, "InvalidChangeSetStatus": 400}
"""Codes of CloudFormation's with their statuses, besides ValidationError."""


def _with_own_codes(operation: Operation) -> Operation:
    """The operation, its refusals with CloudFormation's codes and their texts as they are, which clients look for."""

    @wraps(operation)
    def answered(call: Call, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return operation(call, request)
        except (UsageError, NotFound, StateError) as error:
            code = error.api_code if error.api_code in _OWN_CODES else "ValidationError"
            raise ApiError(code, error.message, status=_OWN_CODES.get(code, 400)) from error

    return answered


_ACTIONS: Final[Mapping[str, Operation]] = {
    "CreateChangeSet": change_sets.create_change_set,
    "CreateStack": stacks.create_stack,
    "DeleteChangeSet": change_sets.delete_change_set,
    "DeleteStack": stacks.delete_stack,
    "DescribeChangeSet": change_sets.describe_change_set,
    "DescribeStackEvents": looking.describe_stack_events,
    "DescribeStackResource": looking.describe_stack_resource,
    "DescribeStackResources": looking.describe_stack_resources,
    "DescribeStacks": looking.describe_stacks,
    "ExecuteChangeSet": change_sets.execute_change_set,
    "GetTemplate": templates.get_template,
    "GetTemplateSummary": templates.get_template_summary,
    "ListChangeSets": change_sets.list_change_sets,
    "ListExports": looking.list_exports,
    "ListImports": looking.list_imports,
    "ListStackResources": looking.list_stack_resources,
    "ListStacks": looking.list_stacks,
    "UpdateStack": stacks.update_stack,
    "ValidateTemplate": templates.validate_template,
}
OPERATIONS: Final[Mapping[str, Operation]] = {name: _with_own_codes(action) for name, action in _ACTIONS.items()}
"""What there is, by API action."""

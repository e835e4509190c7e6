"""STS, as far as clients ask it on the way: who am I?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebscrypt.api.call import Call, Operation


def get_caller_identity(call: Call, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - it has no parameters
    """The user whose access key signed the request, in the account of the settings."""
    return {"UserId": call.principal.rpartition("/")[2], "Account": call.account, "Arn": call.principal}


OPERATIONS: Final[Mapping[str, Operation]] = {"GetCallerIdentity": get_caller_identity}

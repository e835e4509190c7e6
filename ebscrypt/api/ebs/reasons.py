"""EBS direct's errors have a code and a reason; what control raises knows both where the code alone does not say it."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from ebscrypt.api.errors import ApiError, from_ebscrypt
from ebscrypt.api.served_site import ServedSite
from ebscrypt.errors import ClientTokenReused, InvalidBlockRequest

if TYPE_CHECKING:
    from ebscrypt.api.call import Call, Operation
    from ebscrypt.control.direct import DirectAccess


def with_reason(operation: Operation) -> Operation:
    """The operation, whose errors have EBS's reasons and status (facts §6.7). The protocol knows those of others."""

    @wraps(operation)
    def perform(call: Call, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return operation(call, request)
        except InvalidBlockRequest as error:
            told = from_ebscrypt(error)
            raise ApiError(told.code, told.message, status=told.status, reason=error.reason) from error
        except ClientTokenReused as error:
            told = from_ebscrypt(error)
            raise ApiError(told.code, told.message, status=409) from error

    return perform


def access_of(call: Call) -> DirectAccess:
    """What the requests of this server share."""
    if not isinstance(call.site, ServedSite):
        raise TypeError("EBS direct is served by a server only: its site has what requests share")
    return call.site.direct


def invalid(message: str, reason: str = "INVALID_PARAMETER_VALUE") -> InvalidBlockRequest:
    return InvalidBlockRequest(message, reason=reason)

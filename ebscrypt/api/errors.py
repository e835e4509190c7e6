"""`ApiError`: an answer that is an error, with AWS's code; and how ebscrypt's own errors become one.

The code is what clients key on (facts §6.1), so it is AWS's where AWS has one. The message of an `EbscryptError` is
ours, with its hint: it names what failed on this machine, which no text of AWS's could.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ebscrypt.errors import ConfigError, EbscryptError

_SERVER_CODES: Final = {
    "InternalError": 500,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "InsufficientVolumeCapacity": 500,
    "RequestLimitExceeded": 503,
}
"""EC2's codes that are the server's doing, with the status that EC2 answers them with (facts §6.5); others are 400."""
INTERNAL_TEXT: Final = "An internal error has occurred; the log of the server says which."


class ApiError(Exception):
    """An answer that is an error.

    ``status`` is the HTTP status. ``reason`` is the second word of EBS direct's errors (facts §6.7). ``fields`` are
    more members that the error's shape in the service model has.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 400,
        reason: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.reason = reason
        self.fields: Mapping[str, Any] = fields or {}


def from_ebscrypt(error: EbscryptError) -> ApiError:
    """What EC2 would answer where ebscrypt raised ``error``: its ``api_code``, our message and hint in one text.

    What is nobody's fault but this machine's is told in the log only: it may hold paths that a client has no business
    with.
    """
    if error.api_code == "InternalError" or isinstance(error, ConfigError):
        return internal()
    text = error.message[:1].upper() + error.message[1:]
    message = f"{text}. {error.hint[:1].upper()}{error.hint[1:]}." if error.hint else f"{text}."
    return ApiError(error.api_code, message, status=_SERVER_CODES.get(error.api_code, 400))


def internal() -> ApiError:
    """The answer where nothing more can be said to a client."""
    return ApiError("InternalError", INTERNAL_TEXT, status=500)


def dry_run() -> ApiError:
    """DryRun's way of saying yes, by an error (facts §6.1)."""
    return ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", status=412)


def missing_parameter(name: str) -> ApiError:
    return ApiError("MissingParameter", f"The request must contain the parameter {name}")


def invalid_value(message: str) -> ApiError:
    return ApiError("InvalidParameterValue", message)


def invalid_combination(message: str) -> ApiError:
    return ApiError("InvalidParameterCombination", message)

"""Pages of a listing, with tokens that say nothing to a client: where the next page begins, and of which listing.

A token holds the last item's name, so a listing goes on at the right place whatever was added or removed meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ebscrypt.api.errors import ApiError

Item = TypeVar("Item")
_PAGING: Final = frozenset({"NextToken", "MaxResults", "DryRun"})


def page(
    action: str,
    request: dict[str, Any],
    items: Sequence[Item],
    name: Callable[[Item], str],
    *,
    smallest: int = 5,
    largest: int = 1000,
) -> tuple[list[Item], str | None]:
    """The items of the page that ``request`` asks for, in the order of their names, and the token of the next one.

    Without MaxResults all there is, as EC2 does; more than ``largest`` is ``largest``. Raises `ApiError` for a
    MaxResults under ``smallest`` and for a token that is none, or of another listing.
    """
    limit = request.get("MaxResults")
    if limit is not None and limit < smallest:
        raise ApiError(
            "InvalidParameterValue",
            f"Value ( {limit} ) for parameter maxResults is invalid. Expecting a value greater than {smallest - 1}.",
        )
    listing = _listing(action, request)
    after = _position(request["NextToken"], listing) if request.get("NextToken") else None
    rest = sorted((item for item in items if after is None or name(item) > after), key=name)
    if limit is None or len(rest) <= min(limit, largest):
        return rest, None
    shown = rest[: min(limit, largest)]
    return shown, _token(listing, name(shown[-1]))


def _listing(action: str, request: dict[str, Any]) -> str:
    """What tells this listing from others: a token of one is none of another."""
    asked = {key: value for key, value in request.items() if key not in _PAGING}
    return hashlib.sha256(msgspec.json.encode([action, asked], order="deterministic")).hexdigest()[:16]


def _token(listing: str, last: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([listing, last])).decode()


def _position(token: str, listing: str) -> str:
    try:
        of, last = msgspec.json.decode(base64.b64decode(token, altchars=b"-_", validate=True), type=tuple[str, str])
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise _invalid() from None
    if of != listing:
        raise _invalid()
    return last


def _invalid() -> ApiError:
    return ApiError("InvalidNextToken", "The token is not one that this listing gave.")

"""A URL as target: the event as the body of a POST."""

from __future__ import annotations

import email.utils
import http.client
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from ebscrypt.events.targets.kinds import WebhookTarget
from ebscrypt.events.targets.outcome import Undelivered

_AGAIN: Final = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""Statuses below 500 after which EventBridge tries its API destinations again, and 408, which asks for it."""
_LONGEST_PAUSE: Final = 86_400.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send the event to a place that nobody put in a rule."""

    def redirect_request(self, *_: Any) -> None:
        return None


def deliver(target: WebhookTarget, body: str) -> str:
    """POST the event; any status from 200 to 299 means delivered. Raises `Undelivered`."""
    request = urllib.request.Request(  # noqa: S310 - http and https only: a rule with another URL is refused
        target.url,
        data=body.encode(),
        headers={"Content-Type": "application/json", "User-Agent": "ebscrypt"},
        method="POST",
    )
    host = urlsplit(target.url).netloc
    try:
        with _opener().open(request, timeout=target.timeout) as answer:
            return f"{host} answered {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            again = error.code in _AGAIN or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
            pause = _retry_after(error.headers.get("Retry-After", ""))
        raise Undelivered(f"{host} answered {error.code}", final=not again, pause=pause) from None
    except urllib.error.URLError as error:
        raise Undelivered(f"{host} cannot be reached: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(f"{host} gave no answer: {str(error) or type(error).__name__}") from None


def _opener() -> urllib.request.OpenerDirector:
    """Only what an http(s) POST needs; the standard opener would also read files and ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _NoRedirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _retry_after(text: str) -> float:
    """Seconds that a ``Retry-After`` asks for (RFC 9110 §10.2.3); 0 without one that makes sense."""
    if text.isdecimal():
        return min(float(text), _LONGEST_PAUSE)
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(0.0, seconds), _LONGEST_PAUSE)

"""The embedded KMS over HTTP, for clients in other processes: `ebscrypt kms serve`.

JSON 1.1 as AWS speaks it: POST /, ``X-Amz-Target: TrentService.<Operation>``, errors with ``__type``. Signatures are
not verified: whoever can connect may use every key. The server therefore binds to addresses of this machine only, and
says so; every local user is trusted with it. Whoever shows an access key id of ``principals`` is taken for that
principal, who may do what a grant allows; every other is the account's root. That is for showing how grants work, and
keeps nobody out who would rather be the root. Two checks keep web pages out, which a browser on this machine would let
connect too: the Host header must name this machine (no DNS rebinding), and the content type must be AWS's (no simple
cross-site form post).
"""

from __future__ import annotations

import logging
import re
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from ebscrypt.errors import EbscryptError, InvalidParameter
from ebscrypt.kms import serving
from ebscrypt.kms.audit import Trail
from ebscrypt.kms.embedded import faults
from ebscrypt.kms.embedded.faults import KmsFault
from ebscrypt.kms.embedded.service import EmbeddedKms
from ebscrypt.kms.names import is_loopback

if TYPE_CHECKING:
    from starlette.requests import Request

    from ebscrypt.config import Settings

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
LARGEST_BODY: Final = 256 * 1024
"""Bytes. The longest sensible request is some 12 KiB: a blob of 6144 bytes in base64, with a context."""
BODY_TIMEOUT: Final = 10.0
"""Seconds for a client to send its request."""

_CREDENTIAL: Final = re.compile(r"\bCredential=([\w-]{1,128})/")

NOTICE: Final = "the embedded KMS checks no signatures: every user of this machine can use its keys through this server"

_log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    host: str,
    port: int,
    ready: Callable[[str], None] | None = None,
    *,
    principals: Mapping[str, str] | None = None,
) -> None:
    """Answer KMS requests at ``host``:``port`` until SIGINT or SIGTERM; port 0 takes a free one.

    ``ready`` is called once, with the URL, when clients can connect. ``principals`` gives the ARN of who has an access
    key id. Each request leaves a record in the audit trail of ``settings``. Raises `InvalidParameter` for an address
    that is not this machine's own, `NotPermitted` when it cannot be bound, and what the store raises when it cannot be
    opened.
    """
    kms = EmbeddedKms(settings)
    kms.open()
    try:
        listener = _listen(host, port)
        with listener:
            _log.warning(NOTICE)
            url = serving.url_of(listener)
            answering = application(kms, principals, Trail(settings))
            serving.Server(answering, lambda: ready(url) if ready else None).run(sockets=[listener])
    finally:
        kms.close()


def application(kms: EmbeddedKms, principals: Mapping[str, str] | None = None, trail: Trail | None = None) -> Starlette:
    """The ASGI application over an embedded KMS; ``principals`` as `serve` has them, ``trail`` gets the records."""
    known = principals or {}

    async def endpoint(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        target, sent = request.headers.get("x-amz-target", ""), b""
        principal = known.get(_access_key_id(request))
        try:
            _check_sender(request)
            sent = await _body(request)
            status, body = await run_in_threadpool(kms.answer, target, sent, principal=principal)
        except KmsFault as fault:
            status, body = fault.status, msgspec.json.encode(fault.body())
        except EbscryptError as error:
            _log.error("%s %s: %s", request_id, target[:80], error.message)
            status, body = 500, msgspec.json.encode(faults.internal().body())
        _log.info("%s %s %d", request_id, target[:80], status)
        if trail is not None:
            told: dict[str, Any] = {
                "request_id": request_id,
                "source": request.client.host if request.client else "-",
                "agent": request.headers.get("user-agent", ""),
                "principal": principal,
            }
            await run_in_threadpool(trail.record_served, target, sent, status, body, **told)
        return Response(body, status, {"x-amzn-RequestId": request_id}, CONTENT_TYPE)

    return Starlette(routes=[Route("/", endpoint, methods=["POST"])])


def _check_sender(request: Request) -> None:
    host = request.url.hostname or ""
    if not is_loopback(host):
        raise KmsFault("AccessDeniedException", "The Host header does not name this machine.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != CONTENT_TYPE:
        raise KmsFault("SerializationException", f"The content type is not {CONTENT_TYPE}.")


def _access_key_id(request: Request) -> str:
    """Who says to have signed the request; "" when nobody does."""
    found = _CREDENTIAL.search(request.headers.get("authorization", ""))
    return found[1] if found else ""


async def _body(request: Request) -> bytes:
    try:
        return await serving.read_body(request, LARGEST_BODY, BODY_TIMEOUT)
    except serving.BodyTooLarge:
        message = f"The request exceeds {LARGEST_BODY} bytes."
        raise KmsFault("RequestTooLargeException", message, status=413) from None
    except serving.BodyTooSlow:
        raise KmsFault("RequestTimeoutException", "The request did not arrive in time.", status=408) from None


def _listen(host: str, port: int) -> socket.socket:
    if not is_loopback(host):
        raise InvalidParameter(
            f"the embedded KMS does not serve on {host[:80]!r}: it checks no signatures, so all could use its keys",
            hint="serve on 127.0.0.1, ::1 or localhost, and let ssh forward the port to other machines",
        )
    return serving.listen(host, port)

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

import asyncio
import logging
import re
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from ebscrypt.errors import EbscryptError, InvalidParameter, NotPermitted
from ebscrypt.kms.audit import Trail
from ebscrypt.kms.embedded import faults
from ebscrypt.kms.embedded.faults import KmsFault
from ebscrypt.kms.embedded.service import EmbeddedKms
from ebscrypt.kms.names import is_loopback

if TYPE_CHECKING:
    from types import FrameType

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
            address = listener.getsockname()
            shown = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
            answering = application(kms, principals, Trail(settings))
            _Server(answering, lambda: ready(f"http://{shown}:{address[1]}") if ready else None).run(sockets=[listener])
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
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    raise KmsFault("RequestTooLargeException", f"The request exceeds {LARGEST_BODY} bytes.", status=413)
    except TimeoutError:
        raise KmsFault("RequestTimeoutException", "The request did not arrive in time.", status=408) from None
    return bytes(body)


def _listen(host: str, port: int) -> socket.socket:
    if not is_loopback(host):
        raise InvalidParameter(
            f"the embedded KMS does not serve on {host[:80]!r}: it checks no signatures, so all could use its keys",
            hint="serve on 127.0.0.1, ::1 or localhost, and let ssh forward the port to other machines",
        )
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except (OSError, OverflowError) as error:
        raise NotPermitted(
            f"cannot listen on {host} port {port}: {error.strerror if isinstance(error, OSError) else error}",
            hint="another program may have the port: --port 0 takes a free one",
        ) from error


class _Server(uvicorn.Server):
    """uvicorn, that tells when it is ready and ends like a function: by returning."""

    def __init__(self, answering: Starlette, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                answering,
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=10,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        # uvicorn's own would raise the signal again after an orderly end, and make a failure of it.
        self.force_exit = self.should_exit
        self.should_exit = True

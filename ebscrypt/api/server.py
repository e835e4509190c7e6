"""The API over HTTP: `ebscrypt api serve`.

Without TLS it binds to this machine's own addresses only: signatures keep strangers from asking, and nothing keeps them
from listening. ``/health`` and ``/metrics`` answer without a signature, and tell nothing but counts.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ebscrypt.api.access_keys import AccessKeys
from ebscrypt.api.errors import ApiError
from ebscrypt.api.gateway import Gateway
from ebscrypt.api.metrics import Metrics
from ebscrypt.api.protocol.http import HttpRequest
from ebscrypt.errors import ConfigError, InvalidParameter
from ebscrypt.kms import serving
from ebscrypt.kms.names import is_loopback

if TYPE_CHECKING:
    from starlette.requests import Request

    from ebscrypt.config import Settings

BODY_TIMEOUT: Final = 30.0
"""Seconds for a client to send its request: two megabytes, over the slowest line that one would do this with."""
MOST_CONNECTIONS: Final = 512
LARGEST_HEADERS: Final = 64 * 1024
"""Bytes of request line and headers together. A form in a query string is in the first."""

_log = logging.getLogger(__name__)


def serve(settings: Settings, host: str, port: int, ready: Callable[[str], None] | None = None) -> None:
    """Answer clients at ``host``:``port`` until SIGINT or SIGTERM; port 0 takes a free one.

    ``ready`` is called once, with the URL, when clients can connect. Requests under way are finished. Raises
    `InvalidParameter` for an address that needs TLS where none is configured, `ConfigError` for a certificate that does
    not work, `NotPermitted` when the address cannot be bound.
    """
    tls = _tls(settings)
    if not tls and not is_loopback(host):
        raise InvalidParameter(
            f"the API does not serve on {host[:80]!r} without TLS: plaintext blocks of snapshots would cross a network",
            hint="set api.certificate and api.certificate_key, or serve on 127.0.0.1",
        )
    AccessKeys(settings).all()  # a damaged file is told now, not with the first request
    metrics = Metrics()
    gateway = Gateway(settings, observe=metrics.observe)
    try:
        with serving.listen(host, port) as listener:
            url = serving.url_of(listener, "https" if tls else "http")
            server = serving.Server(
                application(gateway, metrics, settings.api.workers),
                lambda: ready(url) if ready else None,
                limit_concurrency=MOST_CONNECTIONS,
                h11_max_incomplete_event_size=LARGEST_HEADERS,
                timeout_keep_alive=15,
                **tls,
            )
            server.run(sockets=[listener])
    finally:
        gateway.close()


def application(gateway: Gateway, metrics: Metrics, workers: int = 16) -> Starlette:
    """The ASGI application over a gateway, which answers ``workers`` requests at once."""
    import anyio  # noqa: PLC0415 - starlette's own threads; only a server has them

    limiter = anyio.CapacityLimiter(workers)

    async def endpoint(request: Request) -> Response:
        asked = _request(request)
        try:
            if sum(len(name) + len(value) for name, value in request.scope["headers"]) > LARGEST_HEADERS:
                raise _too_much_head()
            body = await serving.read_body(request, gateway.largest_body(asked), BODY_TIMEOUT)
        except ApiError as error:
            answer = gateway.refusal(asked, error)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except serving.BodyTooLarge:
            answer = gateway.refusal(asked, ApiError("RequestEntityTooLarge", "The request is too long.", status=413))
        except serving.BodyTooSlow:
            answer = gateway.refusal(asked, ApiError("RequestTimeout", "The request did not arrive.", status=408))
        else:
            answer = await anyio.to_thread.run_sync(gateway.answer, _with_body(asked, body), limiter=limiter)
        return Response(answer.body, answer.status, answer.headers)

    async def health(request: Request) -> Response:  # noqa: ARG001 - it asks nothing
        return await _or_unwell(_look, gateway) or PlainTextResponse("ok\n")

    async def measured(request: Request) -> Response:  # noqa: ARG001 - the same
        pages: list[bytes] = []
        unwell = await _or_unwell(lambda: pages.append(metrics.page(gateway.shared)))
        return unwell or Response(pages[0], media_type=metrics.CONTENT_TYPE)

    methods = ["GET", "POST", "PUT"]
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", measured),
            Route("/{path:path}", endpoint, methods=methods),
        ]
    )


async def _or_unwell(work: Callable[..., None], *arguments: Any) -> Response | None:
    """Do the work; a 503 that says nothing of this machine if it fails. The log says why."""
    try:
        await run_in_threadpool(work, *arguments)
    except Exception:  # noqa: BLE001 - whatever it is, whoever asks must hear that this server is not well
        _log.exception("the catalog cannot be read")
        return PlainTextResponse("the catalog cannot be read\n", 503)
    return None


def _too_much_head() -> ApiError:
    return ApiError("RequestHeaderSectionTooLarge", "The headers of the request are too long.", status=431)


def _look(gateway: Gateway) -> None:
    """Read the catalog: whoever cannot is not well."""
    gateway.shared.site().catalog.volumes()


def _request(request: Request) -> HttpRequest:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return HttpRequest(
        method=request.method,
        path=request.scope["raw_path"].decode("latin-1").partition("?")[0],
        query=request.scope["query_string"].decode("latin-1"),
        headers=headers,
        source=request.client.host if request.client else "-",
    )


def _with_body(asked: HttpRequest, body: bytes) -> HttpRequest:
    return HttpRequest(
        method=asked.method,
        path=asked.path,
        query=asked.query,
        headers=asked.headers,
        body=body,
        source=asked.source,
    )


def _tls(settings: Settings) -> dict[str, Any]:
    """What uvicorn must know for TLS; empty without. Raises `ConfigError` for a pair that does not work."""
    certificate, key = settings.api.certificate, settings.api.certificate_key
    if not certificate and not key:
        return {}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(Path(certificate), Path(key or certificate))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use the certificate {certificate!r} with the key {key!r}: {error}",
            hint="api.certificate and api.certificate_key name PEM files",
        ) from None
    return {"ssl_certfile": certificate, "ssl_keyfile": key or certificate}

"""What every HTTP server of ebscrypt has: a listening socket, bodies that are bounded in size and time, a quiet end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from ebscrypt.errors import NotPermitted

if TYPE_CHECKING:
    from types import FrameType

    from starlette.applications import Starlette
    from starlette.requests import Request

GRACE: Final = 10
"""Seconds that requests under way have when the server is told to stop."""


class BodyTooLarge(Exception):
    """A request is longer than it may be."""


class BodyTooSlow(Exception):
    """A request did not arrive in time."""


async def read_body(request: Request, largest: int, timeout: float) -> bytes:  # noqa: ASYNC109 - a limit of the client's
    """The body of a request, of at most ``largest`` bytes, sent within ``timeout`` seconds.

    Raises `BodyTooLarge` as soon as that is known, from the length that the client says or from what came, and
    `BodyTooSlow`.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > largest:
        raise BodyTooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for part in request.stream():
                body += part
                if len(body) > largest:
                    raise BodyTooLarge
    except TimeoutError:
        raise BodyTooSlow from None
    return bytes(body)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host``:``port``; port 0 takes a free one. Raises `NotPermitted`."""
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except (OSError, OverflowError) as error:
        raise NotPermitted(
            f"cannot listen on {host} port {port}: {error.strerror if isinstance(error, OSError) else error}",
            hint="another program may have the port: --port 0 takes a free one",
        ) from error


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """The URL at which a listening socket is reached."""
    address = listener.getsockname()
    shown = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"{scheme}://{shown}:{address[1]}"


class Server(uvicorn.Server):
    """uvicorn, that tells when it is ready and ends like a function: by returning. ``more`` is for `uvicorn.Config`."""

    def __init__(self, answering: Starlette, ready: Callable[[], None], **more: Any) -> None:
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
                timeout_graceful_shutdown=GRACE,
                **more,
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

"""What every HTTP server of ebscrypt has: a listening socket, bodies that are bounded in size and time, a quiet end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from ebscrypt.errors import NotPermitted

if TYPE_CHECKING:
    from types import FrameType

    from starlette.applications import Starlette
    from starlette.requests import Request

LONGEST_WAIT: Final = 20.0
"""Seconds in which the head of a request has to be there, and in which a client has to go on taking its answer."""
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
    if told.isdecimal() and (len(told) > 18 or int(told) > largest):
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


class Connection(H11Protocol):
    """uvicorn's connection, that ends by itself when a client neither asks nor takes its answer: see `LONGEST_WAIT`.

    Otherwise whoever opens enough connections and says nothing on them keeps all others out.
    """

    _asking: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # asyncio does this for sockets that say their protocol, and those of `socket.create_server` do not. Without it
        # the body of an answer waits some 40 ms for the client's acknowledgement of the head.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._asking, self._taking):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(LONGEST_WAIT, self.transport.abort)

    def resume_writing(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
        super().resume_writing()

    def _watch(self) -> None:
        """A request that has begun stops the clock; what comes before one does not wind it up again."""
        if self._is_busy():
            if self._asking is not None:
                self._asking.cancel()
            self._asking = None
        elif self._asking is None:
            self._asking = self.loop.call_later(LONGEST_WAIT, self._end_unless_asked)

    def _end_unless_asked(self) -> None:
        self._asking = None
        if not self._is_busy():
            self.transport.abort()

    def _is_busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        return cycle is not None and not cycle.response_complete


class Server(uvicorn.Server):
    """uvicorn, that tells when it is ready and ends like a function: by returning. ``more`` is for `uvicorn.Config`."""

    def __init__(self, answering: Starlette, ready: Callable[[], None], **more: Any) -> None:
        super().__init__(
            uvicorn.Config(
                answering,
                http=Connection,
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

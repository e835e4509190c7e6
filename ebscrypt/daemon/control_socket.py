"""The daemon's control socket: who may speak, and how a line becomes a call. The words are in protocol.py.

The socket has mode 0600 in a directory of mode 0700, and each peer is asked for its uid besides (SO_PEERCRED): root,
or the user who started the daemon. A peer can hold one of a few places, and must send short lines.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import trio

from ebscrypt.daemon.protocol import MAX_REQUEST, Answer, Request
from ebscrypt.errors import DaemonError, EbscryptError, InvalidParameter, NotPermitted

Operation = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

MAX_PEERS: Final = 16
_PEER: Final = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""

_log = logging.getLogger(__name__)


async def serve_control(
    listener: socket.socket, operations: Mapping[str, Operation], *, owner: int, finished: Callable[[], bool]
) -> None:
    """Serve until ``finished`` says so after an answer went out. ``owner`` is the uid that may speak besides root."""
    listener.setblocking(False)
    sock = trio.socket.from_stdlib_socket(listener)
    places = trio.Semaphore(MAX_PEERS)
    async with trio.open_nursery() as nursery:

        async def serve_one(peer: trio.socket.SocketType) -> None:
            try:
                await _serve_peer(trio.SocketStream(peer), operations, owner, finished)
            finally:
                places.release()
                if finished():
                    nursery.cancel_scope.cancel()

        while True:
            await places.acquire()
            peer, _address = await sock.accept()
            nursery.start_soon(serve_one, peer)


async def _serve_peer(
    stream: trio.SocketStream, operations: Mapping[str, Operation], owner: int, finished: Callable[[], bool]
) -> None:
    try:
        async with stream:
            uid = _PEER.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
            if uid not in (0, owner):
                refusal = NotPermitted(f"user {uid} may not control this daemon", hint="run as root")
                await stream.send_all(_line(Answer(error=refusal.record())))
                return
            await _converse(stream, operations, finished)
    except trio.BrokenResourceError:
        _log.debug("a peer of the control socket went away")


async def _converse(
    stream: trio.SocketStream, operations: Mapping[str, Operation], finished: Callable[[], bool]
) -> None:
    """One request after the other; a line that is too long ends the conversation, any other mistake is answered."""
    buffer = b""
    while not finished():
        while b"\n" not in buffer:
            if len(buffer) > MAX_REQUEST:
                too_long = InvalidParameter(f"a request of over {MAX_REQUEST} bytes")
                await stream.send_all(_line(Answer(error=too_long.record())))
                return
            data = await stream.receive_some(MAX_REQUEST)
            if not data:
                return
            buffer += data
        line, _, buffer = buffer.partition(b"\n")
        await stream.send_all(_line(await _answer(line, operations)))


async def _answer(line: bytes, operations: Mapping[str, Operation]) -> Answer:
    try:
        request = msgspec.json.decode(line, type=Request)
        operation = operations.get(request.op, _no_such_operation)
        return Answer(result=await operation(request.parameters))
    except msgspec.DecodeError as error:
        return Answer(error=InvalidParameter(f"a request that cannot be understood: {error}").record())
    except EbscryptError as error:
        return Answer(error=error.record())
    except OSError as error:
        return Answer(error=DaemonError(os.strerror(error.errno) if error.errno else str(error)).record())
    except Exception as error:  # noqa: BLE001 - whatever it is, the daemon goes on and the peer is told
        _log.exception("an operation failed for no known reason")
        return Answer(error=DaemonError(f"internal error: {type(error).__name__}: {error}").record())


async def _no_such_operation(_parameters: dict[str, Any]) -> dict[str, Any]:
    raise InvalidParameter("there is no such operation", hint="both sides must be of the same version of ebscrypt")


def _line(answer: Answer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"

"""The daemon's control socket: who may speak, and how a line becomes a call. The words are in protocol.py.

The socket has mode 0600 in a directory of mode 0700, and each peer is asked for its uid besides (SO_PEERCRED): root,
or the user who started the daemon. A peer can hold one of a few places, and must send short lines. With a line may come
a descriptor (SCM_RIGHTS, unix(7)); one that its operation does not take is closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import trio

from ebscrypt.daemon.protocol import MAX_REQUEST, Answer, Request
from ebscrypt.errors import DaemonError, EbscryptError, InvalidParameter, NotPermitted

Operation = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
DescriptorOperation = Callable[[dict[str, Any], int | None], Awaitable[dict[str, Any]]]
"""One that takes over the descriptor that came with its request, if one did."""

MAX_PEERS: Final = 16
_DESCRIPTOR: Final = struct.Struct("=i")
_PEER: Final = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""

_log = logging.getLogger(__name__)


class _Table(NamedTuple):
    """What can be asked for."""

    operations: Mapping[str, Operation]
    taking: Mapping[str, DescriptorOperation]


async def serve_control(
    listener: socket.socket,
    operations: Mapping[str, Operation],
    *,
    owner: int,
    finished: Callable[[], bool],
    taking: Mapping[str, DescriptorOperation] | None = None,
) -> None:
    """Serve until ``finished`` says so after an answer went out. ``owner`` is the uid that may speak besides root.

    ``taking`` has the operations that get the descriptor which came with the request, and own it then.
    """
    table = _Table(operations, taking or {})
    listener.setblocking(False)
    sock = trio.socket.from_stdlib_socket(listener)
    places = trio.Semaphore(MAX_PEERS)
    async with trio.open_nursery() as nursery:

        async def serve_one(peer: trio.socket.SocketType) -> None:
            try:
                await _serve_peer(trio.SocketStream(peer), table, owner, finished)
            finally:
                places.release()
                if finished():
                    nursery.cancel_scope.cancel()

        while True:
            await places.acquire()
            peer, _address = await sock.accept()
            nursery.start_soon(serve_one, peer)


async def _serve_peer(stream: trio.SocketStream, table: _Table, owner: int, finished: Callable[[], bool]) -> None:
    try:
        async with stream:
            uid = _PEER.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
            if uid not in (0, owner):
                refusal = NotPermitted(f"user {uid} may not control this daemon", hint="run as root")
                await stream.send_all(_line(Answer(error=refusal.record())))
                return
            await _converse(stream, table, finished)
    except (trio.BrokenResourceError, ConnectionError):
        _log.debug("a peer of the control socket went away")


async def _converse(stream: trio.SocketStream, table: _Table, finished: Callable[[], bool]) -> None:
    """One request after the other; a line that is too long ends the conversation, any other mistake is answered."""
    buffer = b""
    with contextlib.ExitStack() as untaken:
        while not finished():
            descriptor: int | None = None
            while b"\n" not in buffer:
                if len(buffer) > MAX_REQUEST:
                    too_long = InvalidParameter(f"a request of over {MAX_REQUEST} bytes")
                    await stream.send_all(_line(Answer(error=too_long.record())))
                    return
                data, descriptors = await _receive(stream)
                for received in descriptors:
                    untaken.callback(os.close, received)
                    descriptor = received
                if not data:
                    return
                buffer += data
            line, _, buffer = buffer.partition(b"\n")
            answer = await _answer(line, table, descriptor)
            untaken.close()
            await stream.send_all(_line(answer))


async def _receive(stream: trio.SocketStream) -> tuple[bytes, list[int]]:
    """Some bytes, and the descriptors that came with them. What there is no room for the kernel closes itself."""
    data, ancillary, _flags, _address = await stream.socket.recvmsg(
        MAX_REQUEST, socket.CMSG_SPACE(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
    )
    return data, list(_descriptors(ancillary))


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> Iterable[int]:
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(content) - len(content) % _DESCRIPTOR.size
            yield from (number for (number,) in _DESCRIPTOR.iter_unpack(content[:whole]))


async def _answer(line: bytes, table: _Table, descriptor: int | None) -> Answer:
    try:
        request = msgspec.json.decode(line, type=Request)
        if (taking := table.taking.get(request.op)) is not None:
            # A duplicate is the operation's own; the one that came is closed by whoever received it.
            own = None if descriptor is None else os.dup(descriptor)
            return Answer(result=await taking(request.parameters, own))
        operation = table.operations.get(request.op, _no_such_operation)
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

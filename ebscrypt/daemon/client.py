"""Talking to a volume's daemon: one request, one answer, with a deadline; synchronous, for control and the tests.

    with DaemonClient(runtime.control_socket) as daemon:
        daemon.call("grow", size=20 * GIB)

protocol.py has the operations.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from ebscrypt.daemon.protocol import MAX_ANSWER, Answer, Request
from ebscrypt.errors import DaemonLost, NotPermitted, from_record

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds that a daemon may take for what moves no data; callers of flush and shutdown allow more."""


class DaemonClient:
    """A connection to the control socket at ``path``, opened at the first call and usable for many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket: socket.socket | None = None
        self._rest = b""

    def call(
        self, op: str, *, timeout: float = DEFAULT_TIMEOUT, descriptor: int | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """What the daemon answers to ``op``, within ``timeout`` seconds in all; it gets a duplicate of ``descriptor``.

        Raises the daemon's own error as it was raised there, `DaemonLost` when it is not there, dies or does not
        answer in time, `NotPermitted` when the socket is another user's.
        """
        deadline = time.monotonic() + timeout
        line = msgspec.json.encode(Request(op=op, parameters=parameters)) + b"\n"
        try:
            connection = self._connect(deadline)
            # A daemon that refuses us says so and hangs up, perhaps before we have said anything.
            with contextlib.suppress(BrokenPipeError):
                sent = 0 if descriptor is None else socket.send_fds(connection, [line], [descriptor])
                connection.sendall(line[sent:])
            answer = msgspec.json.decode(self._receive(connection, deadline), type=Answer)
        except TimeoutError:
            self.close()
            raise DaemonLost(
                f"the daemon behind {self.path} did not answer {op!r} within {timeout:g} s",
                hint="its backing may hang: see daemon.log beside the socket, or `journalctl -u 'ebscrypt@*'`",
            ) from None
        except PermissionError as error:
            self.close()
            raise NotPermitted(f"the control socket {self.path} is another user's", hint="run as root") from error
        except (OSError, msgspec.DecodeError) as error:
            self.close()
            raise DaemonLost(f"the daemon behind {self.path} is not there: {error}") from error
        if answer.error is not None:
            raise from_record(answer.error)
        return answer.result or {}

    def close(self) -> None:
        """Hang up. Idempotent; the next call connects anew."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, deadline: float) -> socket.socket:
        if self._socket is None:
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket = fresh
            fresh.settimeout(_left(deadline))
            fresh.connect(str(self.path))
        self._socket.settimeout(_left(deadline))
        return self._socket

    def _receive(self, connection: socket.socket, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > MAX_ANSWER:
                raise ConnectionError(f"an answer of over {MAX_ANSWER} bytes")
            connection.settimeout(_left(deadline))
            data = connection.recv(65_536)
            if not data:
                raise ConnectionResetError("it hung up")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _left(deadline: float) -> float:
    """Seconds until ``deadline``; a timeout of zero would mean non-blocking, so what is past raises here."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left

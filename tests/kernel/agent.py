"""QEMU's guest agent, from the host: runs commands in the guest over a virtio serial port, one JSON line each way.

The protocol is the agent's own (qemu-ga-ref(7)). `guest-sync-delimited` finds the beginning of an answer after whatever
an agent that went down with its guest has left on the line.
"""

from __future__ import annotations

import base64
import json
import socket
import time
from itertools import count
from pathlib import Path
from typing import Any, Final

_POLL: Final = 0.05
_PATIENCE: Final = 60.0
"""Seconds that an agent which has answered before may take for the next answer."""
_ENVIRONMENT: Final = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LC_ALL=C.UTF-8",
)


class AgentSilent(Exception):
    """No answer in time, or the line is closed: the guest is not up, or not any more."""


class Agent:
    """A connection to the agent of one guest. It outlives a reboot of the guest: `synchronise` again then."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._pending = b""
        self._numbers = count(1)

    def close(self) -> None:
        self._socket.close()

    def synchronise(self, timeout: float) -> None:
        """Return when an agent listens. Raises `AgentSilent` after ``timeout`` seconds."""
        number = next(self._numbers)
        self._send("guest-sync-delimited", {"id": number}, prefix=b"\xff")
        deadline = time.monotonic() + timeout
        while True:
            line = self._line(deadline).rpartition(b"\xff")[2]
            if line and json.loads(line).get("return") == number:
                return

    def start(self, command: str) -> int:
        """Begin a shell command in the guest; gives its process id there."""
        arguments = {
            "path": "/bin/sh",
            "arg": ["-c", command],
            "env": list(_ENVIRONMENT),
            "capture-output": True,
        }
        return int(self._ask("guest-exec", arguments)["pid"])

    def finish(self, pid: int, timeout: float) -> tuple[int, str, str] | None:
        """Wait for a command: its exit status (128 + n for signal n), stdout and stderr; None when it still runs."""
        deadline = time.monotonic() + timeout
        while True:
            status = self._ask("guest-exec-status", {"pid": pid})
            if status["exited"]:
                return (
                    status["exitcode"] if "exitcode" in status else 128 + int(status["signal"]),
                    base64.b64decode(status.get("out-data", "")).decode(errors="replace"),
                    base64.b64decode(status.get("err-data", "")).decode(errors="replace"),
                )
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL)

    def _ask(self, command: str, arguments: dict[str, Any]) -> Any:
        self._send(command, arguments)
        answer = json.loads(self._line(time.monotonic() + _PATIENCE))
        if "error" in answer:
            raise AgentSilent(f"the guest's agent refused {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def _send(self, command: str, arguments: dict[str, Any], *, prefix: bytes = b"") -> None:
        self._socket.settimeout(_PATIENCE)
        self._socket.sendall(prefix + json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AgentSilent("the guest's agent does not answer")
            self._socket.settimeout(left)
            try:
                received = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not received:
                raise AgentSilent("the virtual machine has ended")
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return line

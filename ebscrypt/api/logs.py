"""The server's log: one JSON object a line, on standard error, where systemd's journal takes it.

What a line may hold is what the code puts there: request ids, actions, codes, messages of our own errors. Parameters,
bodies, headers and secrets never are; so of an exception that nobody expected a line has the type and the places in the
code, and not its text, which may quote what a client sent.

A log that nobody reads must not stop the server, as a full pipe does to whoever writes to it. So a thread of its own
writes, from a queue of bounded length: what does not fit is dropped, and counted in the next line that does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

MOST_WAITING: Final = 1000
"""Lines that wait to be written: some 300 KB."""
_PATIENCE: Final = 1.0
"""Seconds at the end for what still waits."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON; the members of ``fields`` stand beside time, level and message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__qualname__
            frames = traceback.extract_tb(record.exc_info[2])
            line["places"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return msgspec.json.encode(line).decode()


class Unhindered(logging.Handler):
    """Writes lines to a file descriptor without ever keeping who logs waiting. ``dropped`` lines had no room."""

    def __init__(self, descriptor: int, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes | None] = queue.Queue(most_waiting)
        self._told = 0
        # A daemon: at the end nothing waits for a reader that may never come.
        self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if self.dropped > self._told:
                text = text.removesuffix("}") + f',"dropped_before":{self.dropped - self._told}}}'
            dropped = self.dropped
            self._waiting.put_nowait(f"{text}\n".encode("utf-8", "backslashreplace"))
            self._told = dropped
        except queue.Full:
            self.dropped += 1
        except Exception:  # noqa: BLE001 - logging's own rule: a line that cannot be made is nobody's failure
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for a second at most. Idempotent."""
        end = time.monotonic() + _PATIENCE
        if self._writer.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=_PATIENCE)
            self._writer.join(max(0.0, end - time.monotonic()))
        super().close()

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            rest = memoryview(line)
            # A reader that has gone away takes its lines with it.
            with contextlib.suppress(OSError):
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]


def to_standard_error() -> None:
    """Have this process log so, from INFO on; botocore and others only warnings."""
    handler = Unhindered(sys.stderr.fileno())
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ebscrypt").setLevel(logging.INFO)

"""The server's log: one JSON object a line, on standard error, where systemd's journal takes it.

What a line may hold is what the code puts there: request ids, actions, codes, messages of our own errors. Parameters,
bodies, headers and secrets never are.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec


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
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def to_standard_error() -> None:
    """Have this process log so, from INFO on; botocore and others only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ebscrypt").setLevel(logging.INFO)

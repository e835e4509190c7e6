"""Single values as text, both ways: numbers, booleans, times, blobs; and which text XML can carry."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_FLOAT: Final = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot carry, not even as a reference (XML 1.0 §2.2)."""


def xml_can_carry(text: str) -> bool:
    """Whether ``text`` can stand in an XML document."""
    return _NOT_XML.search(text) is None


def xml_text(text: str) -> str:
    """``text`` with U+FFFD for each character that XML cannot carry."""
    return _NOT_XML.sub("\ufffd", text)


def read_integer(text: str, *, bits: int = 32) -> int:
    """A whole number of at most ``bits`` bits. ValueError for anything else."""
    if not _INTEGER.fullmatch(text) or not -(1 << (bits - 1)) <= int(text) < 1 << (bits - 1):
        raise ValueError(text)
    return int(text)


def read_float(text: str) -> float:
    """A finite decimal number. ValueError for anything else."""
    if not _FLOAT.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def read_boolean(text: str) -> bool:
    """``true`` or ``false`` in any case. ValueError for anything else."""
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def read_time(text: str) -> datetime:
    """A time in ISO 8601, UTC where it names no zone. ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(text) from None


def read_unix_time(value: float) -> datetime:
    """A time in seconds since 1970. ValueError where the calendar ends."""
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError):
        raise ValueError(value) from None


def read_blob(text: str) -> bytes:
    """Bytes in base64. ValueError for anything else."""
    return base64.b64decode(text, validate=True)


READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "string": str,
    "character": str,
    "integer": read_integer,
    "long": lambda text: read_integer(text, bits=64),
    "float": read_float,
    "double": read_float,
    "boolean": read_boolean,
    "timestamp": read_time,
    "blob": read_blob,
}
"""By the type name of a shape. ValueError for text that is not of the type."""


def write_time(moment: datetime) -> str:
    """As EC2 prints it (facts §6.1): ``2024-01-02T03:04:05.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write(value: Any) -> str:
    """A value of any scalar type as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return write_time(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)

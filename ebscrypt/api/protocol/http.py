"""A request and an answer of HTTP as plain values, so that no protocol code knows of a socket."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as it came. ``path`` and ``query`` are as sent, percent-encoded; header names are in lower case.

    ``headers`` has several values of one name joined by commas, as HTTP allows and SigV4 signs them. ``source`` is the
    address that it came from.
    """

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    source: str = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """An answer as it goes out. ``code`` is the error's, for log and metrics; empty where it is none."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    code: str = ""

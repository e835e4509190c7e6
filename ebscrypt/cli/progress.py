"""A line on the terminal that says how far something is: bytes, rate, time left. In a pipe or a file there is none."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TextIO

from ebscrypt.model import format_size

_WINDOW: Final = 10.0
"""Seconds over which the rate is taken: long enough not to flicker, short enough to follow."""


class ProgressLine:
    """A context manager: `show` draws the line anew, leaving it takes it away. Does nothing unless on a terminal."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._shown = self._stream.isatty()
        self._past: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def show(self, done: int, total: int | None) -> None:
        """``done`` of ``total`` bytes; None where nobody knows how many there are."""
        if not self._shown:
            return
        now = self._clock()
        self._past = [(when, was) for when, was in self._past if now - when <= _WINDOW and was <= done]
        self._past.append((now, done))
        text = told(done, total, self._rate())
        columns = shutil.get_terminal_size().columns
        self._stream.write(f"\r{text[: columns - 1]}\x1b[K")
        self._stream.flush()

    def _rate(self) -> float | None:
        """Bytes a second lately; None while that cannot be said."""
        (first, was), (last, done) = self._past[0], self._past[-1]
        return (done - was) / (last - first) if last - first >= 1 else None


def told(done: int, total: int | None, rate: float | None) -> str:
    """``42 %  1.2 GiB of 2.9 GiB  180.0 MiB/s  10 s left``, as far as that is known."""
    parts = [format_size(done) if total is None else f"{format_size(done)} of {format_size(total)}"]
    if total:
        parts.insert(0, f"{done * 100 // total} %")
    if rate:
        parts.append(f"{format_size(int(rate))}/s")
        if total is not None:
            parts.append(f"{duration((total - done) / rate)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time as people say it: ``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

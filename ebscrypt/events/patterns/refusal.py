"""How a pattern is refused: one error, and the place in the pattern that it names."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TypeAlias

from ebscrypt.errors import InvalidEventPattern

Place: TypeAlias = tuple[str | int, ...]
"""Field names and, inside a list, positions from 0, from the outside in."""

_MOST_SHOWN = 120
"""Characters of a place or a value that a message shows: a pattern may hold thousands, a terminal line does not."""


def refusal(at: Place, why: str, *, hint: str | None = None) -> InvalidEventPattern:
    """The error for what stands at this place; the empty place is the whole pattern."""
    return InvalidEventPattern(f"event pattern, at {place(at)}: {why}" if at else f"event pattern: {why}", hint=hint)


def place(at: Place) -> str:
    """The place as a path, ``detail.state[0].prefix``."""
    path = ""
    for step in at:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += ("." if path else "") + (_legible(step)[1:-1] or '""')
    return path if len(path) <= _MOST_SHOWN else f"…{path[-_MOST_SHOWN:]}"


def shown(value: object) -> str:
    """A value of the pattern as JSON, short enough for a message."""
    text = str(value) if isinstance(value, Decimal) else _legible(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _legible(value: object) -> str:
    """JSON, with escapes where a terminal or a log could not take it: line ends, half a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)

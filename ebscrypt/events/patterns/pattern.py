"""The one public class: a pattern, read once and matched often."""

from __future__ import annotations

import json
from typing import Any, Final, final

from ebscrypt.events.patterns.grammar import branches_of
from ebscrypt.events.patterns.matching import Node, holds, tree_of
from ebscrypt.events.patterns.refusal import refusal


@final
class Pattern:
    """A pattern that has been read and found sound; it never changes and may be shared between threads."""

    __slots__ = ("_alternatives", "text")

    def __init__(self, text: str, alternatives: tuple[Node, ...]) -> None:
        self.text: Final = text
        """The JSON text it was compiled from, as given; of a dict, its shortest JSON text."""
        self._alternatives: Final = alternatives

    @classmethod
    def compile(cls, source: str | dict[str, Any]) -> Pattern:
        """The pattern that ``source`` writes down, as JSON text or as the value that such a text stands for.

        Raises `InvalidEventPattern`, which names the place in the pattern, and nothing else.
        """
        text = source if isinstance(source, str) else _text_of(source)
        return cls(text, tuple(tree_of(branch) for branch in branches_of(text)))

    def matches(self, event: dict[str, Any]) -> bool:
        """Whether a rule with this pattern wants ``event``, a JSON object; fields not in the pattern play no part."""
        return any(holds(alternative, (event,)) for alternative in self._alternatives)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern.compile({self.text!r})"


def _text_of(source: dict[str, Any]) -> str:
    try:
        return json.dumps(source, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as problem:
        raise refusal((), f"cannot be written as JSON ({problem})", hint="give it as JSON text") from problem

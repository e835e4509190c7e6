"""How a delivery fails."""

from __future__ import annotations


class Undelivered(Exception):
    """One attempt has failed. ``final``: another could not end otherwise. ``pause``: seconds the target asked for."""

    def __init__(self, reason: str, *, final: bool = False, pause: float = 0.0, output: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final
        self.pause = pause
        self.output = output

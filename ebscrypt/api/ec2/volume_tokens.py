"""ClientToken: a request that comes twice is done once, also if the server was killed in between (facts §6.3).

A small file for a token, ``<state>/api/tokens/<SHA-256 of the token>.json``, written before the volume is made. A
token is known for a week.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ebscrypt import durable
from ebscrypt.api.errors import ApiError, invalid_value
from ebscrypt.control import locks

if TYPE_CHECKING:
    from pathlib import Path

    from ebscrypt.config import Settings

LONGEST: Final = 64
_KEPT: Final = 7 * 24 * 3600.0
"""Seconds; EC2 does not say how long it is."""
_SWEEPING: Final = "00"
"""How the names of one token in 256 begin: with those, old ones are looked for."""
_NOT_PARAMETERS: Final = frozenset({"ClientToken", "DryRun"})


class Entry(msgspec.Struct, frozen=True):
    """What a token was used for. Not ``done`` is a creation under way, or one whose server was killed."""

    parameters: str
    volume_id: str
    done: bool


class Token:
    """One token, held by one request at a time."""

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self._path = path
        asked = {name: value for name, value in request.items() if name not in _NOT_PARAMETERS}
        self._parameters = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()

    def entry(self) -> Entry | None:
        """What the token was used for. Raises `ApiError` if that was another request."""
        try:
            entry = msgspec.json.decode(self._path.read_bytes(), type=Entry)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        if entry.parameters != self._parameters:
            raise ApiError(
                "IdempotentParameterMismatch",
                "The client token you have provided was used before, with other request parameters.",
            )
        return entry

    def write(self, volume_id: str, *, done: bool) -> None:
        durable.make_directory(self._path.parent)
        durable.write_file(self._path, msgspec.json.encode(Entry(self._parameters, volume_id, done)))

    def forget(self) -> None:
        """As if the request had not come: it failed, and may come again."""
        durable.remove_file(self._path)


@contextmanager
def held(settings: Settings, token: str, request: dict[str, Any]) -> Iterator[Token]:
    """The token, for as long as the block lasts nobody else's. Raises `ApiError` for what is no token."""
    if not token.isascii() or not 1 <= len(token) <= LONGEST:
        raise invalid_value(f"The client token has 1 to {LONGEST} ASCII characters.")
    name = hashlib.sha256(token.encode()).hexdigest()
    directory = settings.api_dir / "tokens"
    lock = f"token-{name}"
    with locks.held(settings, lock, "api serve"):
        try:
            yield Token(directory / f"{name}.json", request)
        finally:
            locks.forget(settings, lock)
    if name.startswith(_SWEEPING):
        sweep(directory)


def sweep(directory: Path) -> None:
    """Forget the tokens that are too old."""
    oldest = time.time() - _KEPT
    for path in directory.glob("*.json"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:
            continue

"""What `ebscrypt kms` is made of: an operation of KMS and its arguments, as records; kms_table.py lists them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from ebscrypt.errors import InvalidParameter

LARGEST_FILE: Final = 1024 * 1024
"""Bytes that are read of a policy, a token or key material: all of KMS's are smaller."""

Answer = dict[str, Any]


class KeyArgument(Enum):
    """Whether an operation names a key, and whether KMS itself takes an alias for it."""

    NONE = auto()
    ANY = auto()
    BY_ID = auto()
    OPTIONAL = auto()


@dataclass(frozen=True, slots=True)
class Argument:
    """An option of a command, and the member of the request that it becomes.

    ``read`` makes the member's value of what was said, and gets the option's name for its errors. ``longest`` is KMS's
    own bound, in characters for each word: KMS quotes what is too long before it says which member that was.
    """

    flag: str
    member: str
    text: str
    metavar: str | None = None
    required: bool = False
    choices: tuple[str, ...] | None = None
    many: bool = False
    switch: bool = False
    kind: Callable[[str], Any] = str
    read: Callable[[Any, str], Any] | None = None
    default: Any = None
    longest: int = 8192

    def value(self, given: Any) -> Any:
        """The member's value. Raises `InvalidParameter` naming the option."""
        for word in given if isinstance(given, list) else [given]:
            if isinstance(word, str) and len(word) > self.longest and self.read is not document:
                raise InvalidParameter(f"{self.flag} {shortened(word)} is longer than {self.longest}")
        return self.read(given, self.flag) if self.read else given


@dataclass(frozen=True, slots=True)
class Operation:
    """A command: ``name`` is AWS's own, ``show`` prints what people want to see of the answer.

    ``listing`` names the member that a listing gives page by page; the command gives all of it.
    """

    name: str
    text: str
    key: KeyArgument = KeyArgument.BY_ID
    arguments: tuple[Argument, ...] = ()
    show: Callable[[Answer], None] | None = None
    listing: str | None = None
    aliases: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def operation(self) -> str:
        """The API's name: create-key is CreateKey."""
        return "".join(word.capitalize() for word in self.name.split("-"))


def pairs(words: list[str], flag: str) -> dict[str, str]:
    """``key=value`` words. Raises `InvalidParameter` for one without ``=`` or given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(f"{flag} {shortened(word)} has no =", hint="write key=value")
        if name in found:
            raise InvalidParameter(f"{flag} has {shortened(name)} twice")
        found[name] = value
    return found


def tags(words: list[str], flag: str) -> list[dict[str, str]]:
    """Tags as KMS has them."""
    return [{"TagKey": name, "TagValue": value} for name, value in pairs(words, flag).items()]


def subset(words: list[str], flag: str) -> dict[str, dict[str, str]]:
    """A grant's constraint: at least this encryption context."""
    return {"EncryptionContextSubset": pairs(words, flag)}


def equal(words: list[str], flag: str) -> dict[str, dict[str, str]]:
    """A grant's constraint: exactly this encryption context."""
    return {"EncryptionContextEquals": pairs(words, flag)}


def moment(word: str, flag: str) -> datetime:
    """A time in ISO 8601; without an offset it is UTC."""
    try:
        time = datetime.fromisoformat(word)
    except ValueError:
        raise InvalidParameter(f"{flag} {shortened(word)} is no time", hint="write 2027-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def document(given: str, flag: str) -> str:
    """A policy: JSON as it is, file://PATH as AWS's command line has it, the name of a file, or - for stdin."""
    text = given if given.lstrip().startswith("{") else content(given, flag).decode(errors="replace")
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{flag} is not JSON: {error}") from None
    return text


def content(given: str, flag: str, largest: int = LARGEST_FILE) -> bytes:
    """The bytes of a file, also by file:// or fileb://, or of stdin for -.

    Raises `InvalidParameter` naming ``flag`` when it cannot be read or has more than ``largest`` bytes.
    """
    try:
        if given == "-":
            found = sys.stdin.buffer.read(largest + 1)
        else:
            with Path(given.removeprefix("fileb://").removeprefix("file://")).open("rb") as file:
                found = file.read(largest + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no path"
        raise InvalidParameter(f"{flag}: cannot read {shortened(given)}: {why}") from None
    if len(found) > largest:
        raise InvalidParameter(f"{flag}: {shortened(given)} has more than {largest} bytes")
    return found


def shortened(word: str) -> str:
    """A value as errors quote it."""
    return repr(word) if len(word) <= 80 else f"{word[:80]!r}… ({len(word)} characters)"

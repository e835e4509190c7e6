"""A data key on its way: wrapped by an embedded KMS, unwrapped by the real process into real secret memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from ebscrypt.core import SecretMemory
from ebscrypt.kms import unwrap
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import encryption_context

CONTEXT = encryption_context("vol-0123456789abcdef0")
SALT, ROUNDS = b"salt" * 8, 1000


def digest(plaintext: bytes) -> bytes:
    """What LUKS2 keeps of a key."""
    return hashlib.pbkdf2_hmac("sha256", plaintext, SALT, ROUNDS, 32)


def children() -> set[int]:
    """The processes whose parent is this one, running or not waited for."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[1]) == os.getpid():
                    found.add(int(entry.name))
    return found


@dataclass
class Wrapped:
    """A data key of an embedded KMS, with a client to look at it from outside."""

    kms: KmsClient
    key_arn: str
    blob: bytes
    plaintext: bytes = field(repr=False)
    others: set[int] = field(default_factory=children)

    def into(self, memory: SecretMemory, *, seconds: float = 60, context: dict[str, str] | None = None) -> list[str]:
        """Unwrap as the daemon does."""
        return unwrap.unwrap_key(
            self.blob,
            CONTEXT if context is None else context,
            self.key_arn,
            memory,
            deadline=time.monotonic() + seconds,
        )

    def left_behind(self) -> set[int]:
        """Processes that were not there before, such as an unwrap process that was not ended."""
        return children() - self.others


def holds(memory: SecretMemory, content: bytes) -> bool:
    """Whether the memory holds exactly this."""
    return memory.matches(SALT, ROUNDS, "sha256", digest(content))

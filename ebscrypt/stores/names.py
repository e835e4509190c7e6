"""What lies where in a store. The same paths in a directory and in a bucket, so that one can be copied to the other.

store.json                                what this is
blocks/ab/ab12…                           a block, by the 64 hexadecimal digits of its SHA-256
manifests/snap-….manifest                 a completed snapshot
pins/snap-….0123456789abcdef/…            names that someone relies on while no manifest lists them
sweeps/0123456789abcdef0123456789abcdef   a sweep is under way
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final, TypeAlias

from ebscrypt.model import KIB, check_snapshot_id

BLOCK_SIZE: Final = 512 * KIB
"""Bytes of a block, as in EBS direct (facts §7). The last block of a volume has what is left of it."""

Content: TypeAlias = bytes | bytearray | memoryview
"""Bytes of an object, in whatever form they are at hand: they are not copied."""

BlockName: TypeAlias = bytes
"""The 32 bytes of a block's SHA-256; in paths and messages their hexadecimal digits."""

ABOUT: Final = "store.json"
BLOCKS: Final = "blocks/"
MANIFESTS: Final = "manifests/"
PINS: Final = "pins/"
SWEEPS: Final = "sweeps/"
RELEASED: Final = "released"

_BLOCK_PATH = re.compile(r"blocks/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_MANIFEST_PATH = re.compile(r"manifests/(snap-[0-9a-f]{17})\.manifest")
_PIN_PATH = re.compile(r"pins/((?:snap|vol)-[0-9a-f]{17})\.([0-9a-f]{16})/([0-9a-f]{8}|released)")
_OWNER = re.compile(r"(?:snap|vol)-[0-9a-f]{17}")


def block_name(content: Content) -> BlockName:
    """The name of a block: the SHA-256 of its bytes."""
    return hashlib.sha256(content).digest()


def block_path(name: BlockName) -> str:
    """Where a block lies. 256 folders, so that none grows beyond what file systems are quick with."""
    if len(name) != 32:
        raise ValueError(f"a block's name has 32 bytes, not {len(name)}")
    digits = name.hex()
    return f"{BLOCKS}{digits[:2]}/{digits}"


def block_at(path: str) -> BlockName | None:
    """The name of the block at ``path``; None when no block belongs there."""
    match = _BLOCK_PATH.fullmatch(path)
    return bytes.fromhex(match[2]) if match else None


def manifest_path(snapshot_id: str) -> str:
    """Where a snapshot's manifest lies."""
    return f"{MANIFESTS}{check_snapshot_id(snapshot_id)}.manifest"


def manifest_at(path: str) -> str | None:
    """The snapshot whose manifest lies at ``path``; None when none belongs there."""
    match = _MANIFEST_PATH.fullmatch(path)
    return match[1] if match else None


def new_pin(owner: str) -> str:
    """The folder of a new pin. Never used twice: a sweep that removes an old one cannot hit a new one."""
    if not _OWNER.fullmatch(owner):
        raise ValueError(f"{owner[:40]!r} cannot own a pin")
    return f"{PINS}{owner}.{secrets.token_hex(8)}/"


def pin_at(path: str) -> tuple[str, str, str] | None:
    """Folder, owner and part of the pin's object at ``path``; None when none belongs there."""
    match = _PIN_PATH.fullmatch(path)
    return (f"{PINS}{match[1]}.{match[2]}/", match[1], match[3]) if match else None


def new_sweep() -> str:
    """The path of a new sweep's marker."""
    return f"{SWEEPS}{secrets.token_hex(16)}"

"""The journal of a re-encryption, in the keyslots area of the volume: begun, looked at, and cleared.

The core keeps it in between (core/crates/device/src/turn/journal.rs draws it). Here is what is needed before there is a
device and after: a first progress, without which the core refuses to begin, and how far a volume is that nobody serves.

    offset  bytes
         0      8  magic: "EBSTURN1"
         8     16  id of the re-encryption
        24      8  sequence number; of the two progresses the higher one counts
        32      8  boundary: bytes of the volume that have the new data key
        40     32  SHA-256 of the 40 bytes before

Numbers are little-endian. The second progress lies 4096 bytes behind the first.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Final

from ebscrypt.errors import HeaderUnsupported
from ebscrypt.luks2.direct import reader, write
from ebscrypt.model import KIB, MIB, format_size

PAGE: Final = 4096
SMALLEST: Final = 3 * PAGE + 64 * KIB
"""Bytes of a journal with the smallest zone."""
LARGEST: Final = 3 * PAGE + 4 * MIB
"""Bytes of a journal that are used at most: two progresses, the head of a record, and the largest zone."""

_MAGIC: Final = b"EBSTURN1"
_FIELDS: Final = struct.Struct("<8s16sQQ")


def begin(fd: int, area: tuple[int, int], reencryption_id: bytes) -> None:
    """Make a journal for a re-encryption that has turned nothing yet; durable. What was in the area is lost.

    The space is written once, so that none can be missing later. Raises `HeaderUnsupported` for an area without room.
    """
    offset, length = area
    if length < SMALLEST:
        raise HeaderUnsupported(
            f"the volume's header leaves {format_size(length)} for a journal, and {format_size(SMALLEST)} are needed",
            hint="make a new volume, and copy the data",
        )
    clear(fd, area)
    page = _FIELDS.pack(_MAGIC, reencryption_id, 1, 0)
    # The core writes number 2 to the first place, and so on by turns.
    write(fd, (page + hashlib.sha256(page).digest()).ljust(PAGE, b"\0"), offset + PAGE)
    os.fsync(fd)


def boundary(fd: int, area: tuple[int, int], reencryption_id: bytes) -> int | None:
    """How many bytes of the volume have the new data key at least; None where there is no journal of this id."""
    offset, _ = area
    found = []
    for place in (offset, offset + PAGE):
        page = reader(fd)(place, PAGE)[: _FIELDS.size + hashlib.sha256().digest_size]
        if len(page) < _FIELDS.size or hashlib.sha256(page[: _FIELDS.size]).digest() != page[_FIELDS.size :]:
            continue
        magic, known, sequence, reached = _FIELDS.unpack(page[: _FIELDS.size])
        if (magic, known) == (_MAGIC, reencryption_id):
            found.append((sequence, reached))
    return int(max(found)[1]) if found else None


def clear(fd: int, area: tuple[int, int]) -> None:
    """Overwrite a journal with zeros; durable."""
    offset, length = area
    end = offset + min(length, LARGEST)
    for place in range(offset, end, MIB):
        write(fd, bytes(min(MIB, end - place)), place)
    os.fsync(fd)

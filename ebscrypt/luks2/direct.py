"""Reading and writing a backing at an offset, whether it was opened with O_DIRECT or not: from page-aligned memory.

Offsets and lengths are multiples of 4096 bytes, but for the length of what is read.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from ebscrypt.luks2.reading import Read

_DIRECT_UNIT: Final = 512
"""Of O_DIRECT. A shorter read is the end of a file, where asking for the rest would be refused as unaligned."""


def reader(fd: int) -> Read:
    """Reads of ``fd``, fewer bytes than asked for at its end."""

    def read(offset: int, length: int) -> bytes:
        padded = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        with mmap.mmap(-1, padded) as buffer:
            done = 0
            while done < length:
                with memoryview(buffer) as whole, whole[done:] as rest:
                    count = os.preadv(fd, [rest], offset + done)
                done += count
                if count == 0 or count % _DIRECT_UNIT:
                    break
            return buffer[: min(done, length)]

    return read


def write(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        done = 0
        while done < len(data):
            with memoryview(buffer) as whole, whole[done:] as rest:
                done += os.pwrite(fd, rest, offset + done)

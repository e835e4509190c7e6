"""What is done with the core's view of a snapshot, and with the memory that blocks are read into: without event loop.

Errors of the view are told as a user understands them: `OutOfSpace` for the spool's, `StateError` once it has ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import Final

from ebscrypt.core import SnapshotView
from ebscrypt.errors import DaemonError, InvalidParameter, OutOfSpace, StateError
from ebscrypt.model import KIB

BLOCK_SIZE: Final = 512 * KIB
"""Bytes of a block, and of its place in the memory: `stores.names.BLOCK_SIZE`, which this floor does not see."""
MOST_RANGES: Final = 256
"""Ranges of blocks in one answer."""
MOST_LISTED: Final = 1 << 16
"""Blocks in one answer: some ten milliseconds."""
LARGEST_MEMORY: Final = 256 * BLOCK_SIZE


def mapped(descriptor: int) -> mmap.mmap:
    """The memory. What could be cut off under us would end this process, and with it the volume."""
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:
        sealed = 0
    size = os.fstat(descriptor).st_size
    if not sealed or not BLOCK_SIZE <= size <= LARGEST_MEMORY:
        raise InvalidParameter(f"a memfd of {size} bytes is too short or too long, or not sealed against shrinking")
    return mmap.mmap(descriptor, size)


@contextlib.contextmanager
def _told(snapshot: str = "the snapshot") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _meaning(error, snapshot) from error


def _meaning(error: OSError, snapshot: str) -> DaemonError | OutOfSpace | StateError:
    """An error of the core's view as a user understands it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(
            f"{snapshot} has failed: there is no room for what is overwritten while it is made",
            hint="the state directory's file system needs as much room as is written meanwhile",
        )
    if error.errno == errno.ESHUTDOWN:
        return StateError(f"{snapshot} has ended: it was given up, or the volume is being detached")
    return DaemonError(f"{snapshot} has failed: {error.strerror}")


def listed(view: SnapshotView, index: int) -> tuple[list[tuple[int, int]], int | None]:
    """Ranges as first block and number of blocks, and where to go on, None at the end."""
    # Of one that builds on another the holes must be known, too: they may have been data before.
    following = view.next_block if view.base else view.next_data
    ranges: list[tuple[int, int]] = []
    with _told():
        found, count = following(index), 0
        while found is not None and count < MOST_LISTED and len(ranges) < MOST_RANGES:
            if ranges and sum(ranges[-1]) == found:
                ranges[-1] = ranges[-1][0], ranges[-1][1] + 1
            else:
                ranges.append((found, 1))
            found, count = following(found + 1), count + 1
    return ranges, found


def filled(view: SnapshotView, memory: mmap.mmap, first: int, indexes: list[int]) -> list[str | None]:
    """Put blocks into the memory from place ``first`` on; their SHA-256 in hexadecimal, None for zeros."""
    digests: list[str | None] = []
    with _told(), memoryview(memory) as whole:
        for slot, index in enumerate(indexes, first):
            with whole[slot * BLOCK_SIZE : (slot + 1) * BLOCK_SIZE] as place:
                digest = view.read_block_into(place, index)
            digests.append(None if digest is None else digest.hex())
    return digests


def let_go(view: SnapshotView, indexes: list[int]) -> int:
    """Blocks that need not be kept any more; how many of them were to be kept until now."""
    count = 0
    for index in indexes:
        try:
            view.done(index)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise _meaning(error, "the snapshot") from error
        else:
            count += 1
    return count


def committed(view: SnapshotView, snapshot_id: str) -> None:
    """Everything that had data is stored under this name, which becomes the base."""
    with _told(f"snapshot {snapshot_id}"):
        view.done_rest()
        view.commit(snapshot_id)

"""A snapshot of the volume that is served: the core keeps the instant, the control socket gives the blocks away.

Blocks do not go through the socket: whoever stores them passes a memfd, and has blocks put into it, at places of
512 KiB. One snapshot at a time. It outlives the connection of who stores it, who may be started again and go on; it
ends when it is committed or aborted, with the daemon, and when nobody has asked for anything for an hour.

None of this needs a key, so all of it works while the volume is suspended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, TypeVar

import msgspec
import trio

from ebscrypt.core import SnapshotView
from ebscrypt.daemon.volume import OpenVolume
from ebscrypt.errors import DaemonError, InvalidParameter, OutOfSpace, SnapshotLimit, StateError
from ebscrypt.model import KIB, check_snapshot_id

BLOCK_SIZE: Final = 512 * KIB
"""Bytes of a block, and of its place in the memory: `stores.names.BLOCK_SIZE`, which this floor does not see."""
MOST_RANGES: Final = 256
"""Ranges of blocks in one answer."""
MOST_LISTED: Final = 1 << 16
"""Blocks in one answer: some ten milliseconds."""
LARGEST_MEMORY: Final = 256 * BLOCK_SIZE
PATIENCE: Final = 3600.0
"""Seconds without a request after which nobody is taken to be at the snapshot any more: longer than a store that does
not answer keeps a storing process waiting."""
_LOOK: Final = 30.0
"""Seconds between two looks at whether that time is over."""

_Index = Annotated[int, msgspec.Meta(ge=0, lt=1 << 27)]
_P = TypeVar("_P")
_log = logging.getLogger(__name__)


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    snapshot_id: str


class _Begin(_Named, frozen=True, forbid_unknown_fields=True):
    since: str = ""


class _List(_Named, frozen=True, forbid_unknown_fields=True):
    index: _Index = 0


class _Read(_Named, frozen=True, forbid_unknown_fields=True):
    slot: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    indexes: Annotated[list[_Index], msgspec.Meta(max_length=64)]


class _Done(_Named, frozen=True, forbid_unknown_fields=True):
    indexes: Annotated[list[_Index], msgspec.Meta(max_length=256)]


class _Running:
    """The snapshot under way."""

    def __init__(self, snapshot_id: str, view: SnapshotView) -> None:
        self.snapshot_id = snapshot_id
        self.view = view
        self.memory: mmap.mmap | None = None
        self.done = 0
        self.asked = time.monotonic()


class Snapshotting:
    """The operations of protocol.py that are about snapshots."""

    def __init__(self, volume: OpenVolume, refuse_when_stopping: Callable[[], None]) -> None:
        self._volume = volume
        self._refuse_when_stopping = refuse_when_stopping
        self._beginning = trio.Lock()
        self._running: _Running | None = None

    @property
    def operations(self) -> dict[str, Any]:
        return {
            "tracking": self.tracking,
            "snapshot_status": self.status,
            "snapshot_blocks": self.blocks,
            "snapshot_read": self.read,
            "snapshot_done": self.done,
            "snapshot_commit": self.commit,
            "snapshot_abort": self.abort,
        }

    @property
    def taking(self) -> dict[str, Any]:
        """The operations that take over a descriptor."""
        return {"snapshot_begin": self.begin, "snapshot_memory": self.memory}

    async def tracking(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """What is known of changes, and which snapshot is under way."""
        _taken(parameters, _Nothing)
        self._refuse_when_stopping()
        known = await trio.to_thread.run_sync(lambda: self._volume.device.tracking)
        running = self._running
        return {
            "base": None if known is None else known.base,
            "changed": None if known is None else known.changed,
            "snapshot_id": None if running is None else running.snapshot_id,
        }

    async def begin(self, parameters: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        """Fix the instant; ``descriptor`` is the spool, an empty file for what is overwritten meanwhile."""
        if descriptor is None:
            raise InvalidParameter("the spool's descriptor must come with this request")
        try:
            wanted = _taken(parameters, _Begin)
            check_snapshot_id(wanted.snapshot_id)
            async with self._beginning:
                self._refuse_when_stopping()
                if self._running is not None:
                    raise SnapshotLimit(
                        f"volume {self._volume.spec.volume_id} has a snapshot under way: {self._running.snapshot_id}"
                    )
                view = await trio.to_thread.run_sync(self._begun, descriptor, wanted.since)
                self._running = _Running(wanted.snapshot_id, view)
        finally:
            os.close(descriptor)
        _log.info("snapshot %s of %d bytes has begun", wanted.snapshot_id, view.size)
        return {"size": view.size, "base": view.base}

    def _begun(self, spool: int, since: str) -> SnapshotView:
        try:
            return self._volume.device.begin_snapshot(spool, since=since)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise StateError(
                f"changes of volume {self._volume.spec.volume_id} are not noted, so no snapshot can be made of it now",
                hint="detach it, and make a snapshot then, or after it was attached again",
            ) from error

    async def status(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """How far the snapshot is."""
        running = self._of(_taken(parameters, _Named))
        view = running.view
        return {"size": view.size, "base": view.base, "done": running.done, "copies": view.copies}

    async def memory(self, parameters: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        """From now on blocks are put into the memory behind ``descriptor``, a memfd that cannot shrink."""
        if descriptor is None:
            raise InvalidParameter("a memfd's descriptor must come with this request")
        try:
            running = self._of(_taken(parameters, _Named))
            running.memory = _mapped(descriptor)
        finally:
            os.close(descriptor)
        return {"slots": len(running.memory) // BLOCK_SIZE}

    async def blocks(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The blocks to be stored, as ranges, from ``index`` on; of a whole snapshot without the known holes."""
        wanted = _taken(parameters, _List)
        running = self._of(wanted)
        ranges, following = await trio.to_thread.run_sync(_listed, running.view, wanted.index)
        return {"ranges": ranges, "next": following}

    async def read(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Put blocks into the memory from ``slot`` on; their SHA-256, null for one of zeros."""
        wanted = _taken(parameters, _Read)
        running = self._of(wanted)
        memory = running.memory
        if memory is None or (wanted.slot + len(wanted.indexes)) * BLOCK_SIZE > len(memory):
            raise InvalidParameter(f"there is no memory for {len(wanted.indexes)} blocks at {wanted.slot}")
        digests = await trio.to_thread.run_sync(_filled, running.view, memory, wanted)
        return {"digests": digests}

    async def done(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """These blocks are stored; once more is fine."""
        wanted = _taken(parameters, _Done)
        running = self._of(wanted)
        running.done += await trio.to_thread.run_sync(_let_go, running.view, wanted.indexes)
        return {"done": running.done}

    async def commit(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The snapshot is stored: from now on changes since it count. What is left of it was holes."""
        running = self._of(_taken(parameters, _Named))
        try:
            await trio.to_thread.run_sync(_committed, running.view, running.snapshot_id)
        finally:
            self._forget(running)
        _log.info("snapshot %s is complete; %d blocks were copied", running.snapshot_id, running.view.copies)
        return {}

    async def abort(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Give the snapshot up. Nothing where another one, or none, is under way."""
        wanted = _taken(parameters, _Named)
        running = self._running
        if running is not None and running.snapshot_id == wanted.snapshot_id:
            await trio.to_thread.run_sync(running.view.abort)
            self._forget(running)
            _log.info("snapshot %s was given up", running.snapshot_id)
        return {}

    def end(self) -> None:
        """Give up whatever is under way: the volume is about to be closed."""
        if (running := self._running) is not None:
            running.view.abort()
            self._forget(running)
            _log.warning("snapshot %s ends with the attachment", running.snapshot_id)

    async def expire(self) -> None:
        """Give up a snapshot that nobody asks for any more, since it makes writes slower and its spool grow."""
        while True:
            await trio.sleep(_LOOK)
            running = self._running
            if running is not None and time.monotonic() - running.asked > PATIENCE:
                _log.warning("snapshot %s was given up: nobody stores it", running.snapshot_id)
                await trio.to_thread.run_sync(running.view.abort)
                self._forget(running)

    def _of(self, wanted: _Named) -> _Running:
        self._refuse_when_stopping()
        running = self._running
        if running is None or running.snapshot_id != wanted.snapshot_id:
            raise StateError(
                f"the daemon of volume {self._volume.spec.volume_id} does not know of snapshot "
                f"{wanted.snapshot_id[:40]}: it ended, or the daemon was started anew"
            )
        running.asked = time.monotonic()
        return running

    def _forget(self, running: _Running) -> None:
        if self._running is running:
            self._running = None


def _taken(parameters: dict[str, Any], kind: type[_P]) -> _P:
    try:
        return msgspec.convert(parameters, kind)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"the parameters make no sense: {error}") from None


def _mapped(descriptor: int) -> mmap.mmap:
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


def _listed(view: SnapshotView, index: int) -> tuple[list[tuple[int, int]], int | None]:
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


def _filled(view: SnapshotView, memory: mmap.mmap, wanted: _Read) -> list[str | None]:
    digests: list[str | None] = []
    with _told(), memoryview(memory) as whole:
        for slot, index in enumerate(wanted.indexes, wanted.slot):
            with whole[slot * BLOCK_SIZE : (slot + 1) * BLOCK_SIZE] as place:
                digest = view.read_block_into(place, index)
            digests.append(None if digest is None else digest.hex())
    return digests


def _let_go(view: SnapshotView, indexes: list[int]) -> int:
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


def _committed(view: SnapshotView, snapshot_id: str) -> None:
    with _told(f"snapshot {snapshot_id}"):
        view.done_rest()
        view.commit(snapshot_id)

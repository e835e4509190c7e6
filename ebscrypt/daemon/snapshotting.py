"""A snapshot of the volume that is served: the core keeps the instant, the control socket gives the blocks away.

Blocks do not go through the socket: whoever stores them passes a memfd, and has blocks put into it, at places of
512 KiB. One snapshot at a time. It outlives the connection of who stores it, who may be started again and go on; it
ends when it is committed or aborted, with the daemon, and when nobody has asked for anything for an hour.

None of this needs a key, so all of it works while the volume is suspended.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final, TypeVar

import msgspec
import trio

from ebscrypt.core import SnapshotView
from ebscrypt.daemon import snapshot_view
from ebscrypt.daemon.volume import OpenVolume
from ebscrypt.errors import InvalidParameter, SnapshotLimit, StateError
from ebscrypt.model import check_snapshot_id

PATIENCE: Final = 3600.0
"""Seconds without a request after which nobody is taken to be at the snapshot any more: longer than a store that does
not answer keeps a storing process waiting."""
MOST_READERS: Final = 8
"""Threads that read blocks at once."""
_NICE: Final = 10
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
        # Hashing takes a core: the threads that serve the volume come first.
        self._readers = ThreadPoolExecutor(MOST_READERS, "snapshot", _step_back)

    async def read(self, work: Callable[..., _P], *arguments: Any) -> _P:
        """Do work that takes long, in a thread of low priority."""
        try:
            future = self._readers.submit(work, *arguments)
        except RuntimeError as error:
            raise StateError(f"snapshot {self.snapshot_id} has ended just now") from error
        return await trio.to_thread.run_sync(future.result)

    def end(self) -> None:
        """Let the threads end when they have done what they are at."""
        self._readers.shutdown(wait=False)


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
            running.memory = snapshot_view.mapped(descriptor)
        finally:
            os.close(descriptor)
        return {"slots": len(running.memory) // snapshot_view.BLOCK_SIZE}

    async def blocks(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The blocks to be stored, as ranges, from ``index`` on; of a whole snapshot without the known holes."""
        wanted = _taken(parameters, _List)
        running = self._of(wanted)
        ranges, following = await running.read(snapshot_view.listed, running.view, wanted.index)
        return {"ranges": ranges, "next": following}

    async def read(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Put blocks into the memory from ``slot`` on; their SHA-256, null for one of zeros."""
        wanted = _taken(parameters, _Read)
        running = self._of(wanted)
        memory = running.memory
        if memory is None or (wanted.slot + len(wanted.indexes)) * snapshot_view.BLOCK_SIZE > len(memory):
            raise InvalidParameter(f"there is no memory for {len(wanted.indexes)} blocks at {wanted.slot}")
        digests = await running.read(snapshot_view.filled, running.view, memory, wanted.slot, wanted.indexes)
        return {"digests": digests}

    async def done(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """These blocks are stored; once more is fine."""
        wanted = _taken(parameters, _Done)
        running = self._of(wanted)
        running.done += await trio.to_thread.run_sync(snapshot_view.let_go, running.view, wanted.indexes)
        return {"done": running.done}

    async def commit(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The snapshot is stored: from now on changes since it count. What is left of it was holes."""
        running = self._of(_taken(parameters, _Named))
        try:
            await trio.to_thread.run_sync(snapshot_view.committed, running.view, running.snapshot_id)
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
        running.end()


def _step_back() -> None:
    """Give this thread a low priority, as far as the system lets us (setpriority(2): 0 is the calling thread)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)


def _taken(parameters: dict[str, Any], kind: type[_P]) -> _P:
    try:
        return msgspec.convert(parameters, kind)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"the parameters make no sense: {error}") from None

"""The blocks of an attached volume, which its daemon keeps as they were at the instant while the volume is written to.

    begin           the instant is fixed, within the volume's lock; the daemon has a spool for what is overwritten
    AttachedSource  the storing process reads blocks through shared memory, and lets go of those that are stored

The daemon keeps the instant for as long as it lives, whatever becomes of the storing process; another one goes on. What
is stored and was let go cannot be read again, so its names are written down first, in a file that the snapshot's end
takes away. A daemon that died has no instant any more: then the snapshot has failed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import queue
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.control import runtime
from ebscrypt.control.block_source import Job, NamedBlock
from ebscrypt.control.site import Site
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.errors import DaemonError, EbscryptError, InvalidParameter, StateError
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.names import BLOCK_SIZE, BlockName

GROUP: Final = 4
"""Blocks in one request to the daemon."""
MOST_LANES: Final = 8
"""Requests under way at once, at most: a daemon talks to sixteen peers."""
TIMEOUT: Final = 120.0
"""Seconds for the daemon to read a few blocks: its backing may be slow."""
_LET_GO: Final = 256
_RECORD: Final = struct.Struct("<I32s")
_ZEROS: Final = bytes(32)
"""Written down for a block of zeros, which has no name."""


class Begun(NamedTuple):
    """A snapshot whose instant is fixed: bytes of the volume then, and the snapshot that it builds on."""

    size: int
    base: str | None


def begin(site: Site, volume_id: str, snapshot_id: str, *, since: str | None) -> Begun:
    """Fix the instant now. What another command left that died at this point is given up first.

    The spool has no name, so that it goes with the daemon, whatever happens. The caller holds the volume's lock, and
    knows that the catalog has no snapshot of this volume under way. Raises `StateError`, `DaemonError`, OSError.
    """
    directory = _spool_directory(site.settings)
    durable.make_directory(directory)
    with _client(site.settings, volume_id) as daemon, tempfile.TemporaryFile(dir=directory) as spool:
        if (left := daemon.call("tracking")["snapshot_id"]) is not None:
            daemon.call("snapshot_abort", snapshot_id=left)
        told = daemon.call(
            "snapshot_begin", timeout=TIMEOUT, descriptor=spool.fileno(), snapshot_id=snapshot_id, since=since or ""
        )
    return Begun(told["size"], told["base"] or None)


def is_of_attachment(site: Site, snapshot: Snapshot) -> bool:
    """Whether a pending snapshot is one of an attached volume, whose daemon keeps the instant."""
    if snapshot.state is not SnapshotState.PENDING or snapshot.copied_from is not None:
        return False
    raw = site.catalog.snapshots.job(snapshot.snapshot_id)
    return raw is not None and msgspec.json.decode(raw, type=Job).stamp is None


def under_way(settings: Settings, volume_id: str) -> str | None:
    """The snapshot for which the volume's daemon keeps an instant; None also where there is no daemon."""
    try:
        with _client(settings, volume_id) as daemon:
            snapshot_id: str | None = daemon.call("tracking")["snapshot_id"]
    except (DaemonError, StateError, InvalidParameter):
        return None
    return snapshot_id


def give_up(settings: Settings, volume_id: str, snapshot_id: str) -> None:
    """Let the daemon, if there is one, keep nothing for this snapshot any more, and forget what is stored of it."""
    _end(settings, volume_id, snapshot_id, "snapshot_abort")


def complete(settings: Settings, volume_id: str, snapshot_id: str) -> None:
    """The snapshot is in its store: the daemon, if it still keeps the instant, notes changes since then.

    What it cannot note makes the next snapshot a whole one; this one is complete all the same.
    """
    _end(settings, volume_id, snapshot_id, "snapshot_commit")


def _end(settings: Settings, volume_id: str, snapshot_id: str, op: str) -> None:
    _names_path(settings, snapshot_id).unlink(missing_ok=True)
    with contextlib.suppress(EbscryptError), _client(settings, volume_id) as daemon:
        daemon.call(op, timeout=TIMEOUT, snapshot_id=snapshot_id)


class AttachedSource:
    """One snapshot of an attached volume. Safe for use from several threads."""

    group = GROUP

    def __init__(self, settings: Settings, snapshot: Snapshot, *, workers: int) -> None:
        """Take the work up, be it for the first time or after another process. Raises `StateError`, `DaemonError`."""
        self._settings, self._snapshot = settings, snapshot
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        with contextlib.ExitStack() as undo:
            self._daemon = undo.enter_context(self._new_client())
            status = self._call("snapshot_status")
            self.size = int(status["size"])
            self.base: str | None = status["base"] or None
            self._names = _Names(_names_path(settings, snapshot.snapshot_id))
            undo.callback(self._names.close)
            if len(self.stored) < int(status["done"]):
                raise StateError(
                    f"snapshot {snapshot.snapshot_id} was interrupted, and the names of its blocks are lost"
                )
            self._memory = self._share(min(workers, MOST_LANES))
            undo.pop_all()

    @property
    def stored(self) -> Mapping[int, BlockName | None]:
        """What an earlier process has stored: index and name, None for zeros."""
        return self._names.found

    def indexes(self) -> Iterator[int]:
        at: int | None = 0
        while at is not None:
            told = self._call("snapshot_blocks", index=at)
            for first, count in told["ranges"]:
                yield from range(first, first + count)
            at = told["next"]

    @contextlib.contextmanager
    def reading(self, indexes: Sequence[int]) -> Iterator[list[NamedBlock]]:
        lane = self._lanes.get()
        try:
            told = lane.daemon.call(
                "snapshot_read",
                timeout=TIMEOUT,
                snapshot_id=self._snapshot.snapshot_id,
                slot=lane.slot,
                indexes=list(indexes),
            )
            with contextlib.ExitStack() as views:
                yield [
                    NamedBlock(
                        index,
                        None if digest is None else bytes.fromhex(digest),
                        views.enter_context(self._place(lane.slot + number, index)),
                    )
                    for number, (index, digest) in enumerate(zip(indexes, told["digests"], strict=True))
                ]
        finally:
            self._lanes.put(lane)

    def done(self, blocks: Mapping[int, BlockName | None]) -> None:
        self._names.write(blocks)
        indexes = list(blocks)
        for at in range(0, len(indexes), _LET_GO):
            self._call("snapshot_done", indexes=indexes[at : at + _LET_GO])

    def commit(self, snapshot_id: str) -> None:
        complete(self._settings, self._snapshot.volume_id, snapshot_id)

    def check(self) -> None:
        """Nothing that was read can be of another instant: the daemon would not have given it."""

    def close(self) -> None:
        """Hang up. The daemon keeps the instant."""
        self._daemon.close()
        while not self._lanes.empty():
            self._lanes.get().daemon.close()
        self._memory.close()
        self._names.close()

    def _new_client(self) -> DaemonClient:
        return _client(self._settings, self._snapshot.volume_id)

    def _call(self, op: str, *, timeout: float = TIMEOUT, **parameters: Any) -> dict[str, Any]:
        return self._daemon.call(op, timeout=timeout, snapshot_id=self._snapshot.snapshot_id, **parameters)

    def _share(self, lanes: int) -> mmap.mmap:
        """Memory that the daemon reads blocks into, with places for ``GROUP`` blocks a lane."""
        size = lanes * GROUP * BLOCK_SIZE
        descriptor = os.memfd_create("ebscrypt-blocks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._daemon.call(
                "snapshot_memory", timeout=TIMEOUT, descriptor=descriptor, snapshot_id=self._snapshot.snapshot_id
            )
            memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        for number in range(lanes):
            self._lanes.put(_Lane(self._new_client(), number * GROUP))
        return memory

    def _place(self, slot: int, index: int) -> memoryview:
        length = min(BLOCK_SIZE, self.size - index * BLOCK_SIZE)
        return memoryview(self._memory)[slot * BLOCK_SIZE : slot * BLOCK_SIZE + length]


class _Lane(NamedTuple):
    """One request at a time, and the first of the places that are its own."""

    daemon: DaemonClient
    slot: int


class _Names:
    """The names of stored blocks, as records of index and name in a file that only a dead process's successor reads.

    A record that was half written belongs to blocks that were not let go. Never synced: after a power cut there is no
    daemon that keeps the instant.
    """

    def __init__(self, path: Path) -> None:
        durable.make_directory(path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        raw = self._file.read()
        whole = len(raw) - len(raw) % _RECORD.size
        self.found: dict[int, BlockName | None] = {
            index: None if name == _ZEROS else name for index, name in _RECORD.iter_unpack(raw[:whole])
        }
        self._file.seek(whole)

    def write(self, blocks: Mapping[int, BlockName | None]) -> None:
        packed = b"".join(_RECORD.pack(index, name or _ZEROS) for index, name in blocks.items())
        while packed:
            packed = packed[self._file.write(packed) :]

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def opened_attached(site: Site, snapshot: Snapshot) -> Iterator[AttachedSource]:
    """The source of a snapshot of an attached volume; its names are forgotten with its success."""
    with contextlib.closing(AttachedSource(site.settings, snapshot, workers=site.settings.stores.workers)) as source:
        yield source


def _spool_directory(settings: Settings) -> Path:
    return Path(settings.paths.state) / "spool"


def _names_path(settings: Settings, snapshot_id: str) -> Path:
    return _spool_directory(settings) / f"{snapshot_id}.names"


def _client(settings: Settings, volume_id: str) -> DaemonClient:
    return DaemonClient(runtime.directory(settings, volume_id).control_socket)

"""Where a snapshot's blocks are read from: the stored bytes of a volume at one instant, behind one seam.

    BackingSource    a detached volume: its backing, which nobody else can claim while it is read
    AttachedSource   an attached one, whose daemon keeps the instant: see `attached_source`

Stored bytes are ciphertext where the volume is encrypted: no source has a key, or asks KMS for one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple, Protocol

import msgspec

from ebscrypt.control import backing
from ebscrypt.control.site import Site
from ebscrypt.daemon.backing import claim
from ebscrypt.errors import BackingError
from ebscrypt.model import BackingKind, Snapshot, Volume, VolumeState
from ebscrypt.stores.manifest import Wrapping
from ebscrypt.stores.names import BLOCK_SIZE, BlockName, Content, block_name

_NO_HOLES_TOLD: Final = (errno.EINVAL, errno.EOPNOTSUPP)
_ZEROS: Final = bytes(BLOCK_SIZE)


class Stamp(msgspec.Struct, frozen=True):
    """By which a file shows whether it was written to: inode, size, and time of the last change of its content.

    Of a block device only the number is known: nothing tells when it was written to.
    """

    device: int
    inode: int
    size: int
    modified: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed at the instant of a snapshot, besides what the catalog's row says.

    ``store_url`` is where its store lay then. ``encryption`` is the wrapped data key, None for a plain volume.
    ``offset`` is where the volume's data begins in its backing, ``stamp`` what that was at the instant, None where the
    blocks come from a daemon.
    """

    store_url: str
    region: str
    encryption: Wrapping | None = None
    offset: int = 0
    stamp: Stamp | None = None


class NamedBlock(NamedTuple):
    """A block as it was read, and where it is in the volume; one of zeros has no name."""

    place: int
    name: BlockName | None
    content: Content


class BlockSource(Protocol):
    """A volume at one instant, in blocks of 512 KiB; the last one has what is left. Safe for use from several threads.

    Every method may raise OSError, or `EbscryptError` where it knows more; then the snapshot has failed.
    """

    @property
    def size(self) -> int:
        """Bytes of the volume."""

    @property
    def base(self) -> str | None:
        """The snapshot since which `indexes` has all changes; None where it has every block that is not a hole."""

    @property
    def group(self) -> int:
        """How many blocks `reading` gives best at once, and at most."""

    @property
    def stored(self) -> Mapping[int, BlockName | None]:
        """What an earlier process has stored and let go: it is not among the `indexes` any more. None for zeros."""

    def indexes(self) -> Iterator[int]:
        """The blocks to be stored, in order. Without a base, what is not among them is a hole."""

    def reading(self, indexes: Sequence[int]) -> AbstractContextManager[list[NamedBlock]]:
        """Some of these blocks, in that order; their content is there until the end of the context."""

    def done(self, blocks: Mapping[int, BlockName | None]) -> None:
        """These blocks are in the store to stay, so nobody has to keep their old content any more."""

    def commit(self, snapshot_id: str) -> None:
        """The snapshot is complete, and the next one can have it as its base."""

    def check(self) -> None:
        """Raise `BackingError` if what was read may not be of one instant. Called before the manifest is made."""


class BackingSource:
    """A detached volume's blocks. What the file system knows to be a hole is not read."""

    base: str | None = None
    group = 1
    stored: Final[Mapping[int, BlockName | None]] = {}

    def __init__(self, descriptor: int, path: str, *, size: int, offset: int, stamp: Stamp | None = None) -> None:
        """``size`` bytes from ``offset`` on. ``stamp`` is what the backing was at the instant; None: what it is now."""
        self._descriptor, self._path, self._size, self._offset = descriptor, path, size, offset
        self.stamp = stamp or stamp_of(descriptor)

    @property
    def size(self) -> int:
        return self._size

    def indexes(self) -> Iterator[int]:
        following = 0
        for begin, end in self._data():
            for index in range(max(following, begin // BLOCK_SIZE), -(-end // BLOCK_SIZE)):
                yield index
                following = index + 1

    @contextmanager
    def reading(self, indexes: Sequence[int]) -> Iterator[list[NamedBlock]]:
        yield [self._named(index) for index in indexes]

    def _named(self, index: int) -> NamedBlock:
        content = self.read_block(index)
        zeros = content == _ZEROS[: len(content)]
        return NamedBlock(index, None if zeros else block_name(content), content)

    def read_block(self, index: int) -> bytes:
        """One block's bytes."""
        length = min(BLOCK_SIZE, self._size - index * BLOCK_SIZE)
        with backing.translated(self._path, "read"):
            content = os.pread(self._descriptor, length, self._offset + index * BLOCK_SIZE)
            while len(content) < length:
                at = self._offset + index * BLOCK_SIZE + len(content)
                if not (more := os.pread(self._descriptor, length - len(content), at)):
                    raise BackingError(f"{self._path} ends at byte {at}: it is shorter than its volume")
                content += more
        return content

    def done(self, blocks: Mapping[int, BlockName | None]) -> None:
        """Nothing changes under a detached volume: nothing has been kept."""

    def commit(self, snapshot_id: str) -> None:
        """Nothing notes the changes of a detached volume; its next snapshot reads all of it."""

    def check(self) -> None:
        now = stamp_of(self._descriptor)
        if now != self.stamp:
            raise BackingError(
                f"{self._path} was written to while its snapshot was made",
                hint="end what writes there besides ebscrypt, then make another snapshot",
            )

    def _data(self) -> Iterator[tuple[int, int]]:
        """The ranges of the volume that are no holes, as far as the file system tells."""
        at, end = self._offset, self._offset + self._size
        while at < end:
            begin, hole = self._next_data(at, end)
            if begin >= end:
                return
            yield begin - self._offset, min(hole, end) - self._offset
            at = hole

    def _next_data(self, at: int, end: int) -> tuple[int, int]:
        """Where data begins from ``at`` on, and where the next hole does; all of it where nothing tells of holes."""
        with backing.translated(self._path, "find the holes of"):
            try:
                begin = os.lseek(self._descriptor, at, os.SEEK_DATA)
                return begin, os.lseek(self._descriptor, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return end, end
                if error.errno in _NO_HOLES_TOLD:
                    return at, end
                raise


def stamp_of(descriptor: int) -> Stamp:
    """The stamp of an open backing, now."""
    status = os.fstat(descriptor)
    if status.st_rdev:
        return Stamp(status.st_rdev, 0, os.lseek(descriptor, 0, os.SEEK_END), 0)
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@contextmanager
def claimed_for_reading(volume: Volume) -> Iterator[int]:
    """A descriptor for the backing of a volume that nobody writes to, nor can attach to write while it is open.

    Others may read it, too. Raises `BackingInUse` naming who has it, `BackingMissing`, `NotPermitted`.
    """
    # The kernel lets one have a block device exclusively: the daemon of a volume that is attached read-only.
    detached = volume.state is VolumeState.AVAILABLE
    exclusive = os.O_EXCL if volume.backing_kind is BackingKind.BLOCK and detached else 0
    with backing.translated(volume.backing, "open"):
        descriptor = os.open(volume.backing, os.O_RDONLY | os.O_CLOEXEC | exclusive)
    try:
        with backing.translated(volume.backing, "lock"):
            claim(descriptor, read_only=True)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_source(site: Site, snapshot: Snapshot, job: Job) -> Iterator[BlockSource]:
    """The volume as it was at the snapshot's instant."""
    if job.stamp is None:
        from ebscrypt.control.attached_source import opened_attached  # noqa: PLC0415 - it imports us

        with opened_attached(site, snapshot) as attached:
            yield attached
        return
    volume = site.catalog.volume(snapshot.volume_id)
    with claimed_for_reading(volume) as descriptor:
        yield BackingSource(descriptor, volume.backing, size=snapshot.volume_size, offset=job.offset, stamp=job.stamp)

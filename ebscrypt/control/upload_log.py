r"""What a client of the EBS direct APIs has put into a pending snapshot: a log, appended to before each answer.

    head     "EBSUPLD\n" │ u32 version │ snapshot id, 22 bytes │ zeros                     80 bytes
    record   u32 kind │ u32 index │ name of the stored block │ SHA-256 of the plaintext │ check, 8 bytes

docs/formats/upload-log.md says more. A record is durable when `append` returns, so neither the client's nor the
server's end loses what was acknowledged. Of several records of one block the last one counts. The seal is the last
record: CompleteSnapshot was answered. Who appends holds the snapshot's lock.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Self

from ebscrypt import durable
from ebscrypt.errors import StateError
from ebscrypt.stores.names import BlockName

VERSION: Final = 1
RECORD_SIZE: Final = 80
_MAGIC: Final = b"EBSUPLD\n"
_HEAD: Final = struct.Struct("<8sI22s46x")
_RECORD: Final = struct.Struct("<II32s32s8s")
_CHECKED: Final = RECORD_SIZE - 8
_NOTHING: Final = bytes(32)


class Kind(IntEnum):
    """A block with data, a block of zeros, and the end."""

    DATA = 1
    HOLE = 2
    SEAL = 3


class Record(NamedTuple):
    """The block of that index was put. ``name`` is None for zeros; ``digest`` is the SHA-256 of the plaintext."""

    block: int
    name: BlockName | None
    digest: bytes


class UploadLog:
    """The log of one upload at ``path``. Raises `StateError` for one that is damaged, OSError."""

    def __init__(self, path: Path, snapshot_id: str) -> None:
        self._path, self._id = path, snapshot_id.encode("ascii")

    def create(self) -> None:
        """Begin the log, unless it was begun."""
        durable.make_directory(self._path.parent)
        durable.create_file(self._path, _HEAD.pack(_MAGIC, VERSION, self._id))

    def exists(self) -> bool:
        """Whether it was begun."""
        return self._path.exists()

    def modified(self) -> float:
        """When a record was appended last, in seconds since 1970."""
        return self._path.stat().st_mtime

    def records(self) -> int:
        """How many records there are; a block that was put twice has two."""
        return max(0, self._path.stat().st_size // RECORD_SIZE - 1)

    def append(self, records: Iterable[Record]) -> None:
        """Add records, durably. Raises `StateError` once the log is sealed."""
        self._append(b"".join(self._packed_block(record) for record in records))

    def seal(self) -> None:
        """No record comes after this one. Raises `StateError` if there is a seal already."""
        self._append(self._packed(Kind.SEAL, 0, _NOTHING, _NOTHING))

    def is_sealed(self) -> bool:
        with self._path.open("rb") as file:
            return self._last(file.fileno(), os.fstat(file.fileno()).st_size) is Kind.SEAL

    def read(self) -> Uploaded:
        """All that was put; to be closed."""
        with self._path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            end = self._sound_end(content)
            return Uploaded(content, end)
        except BaseException:
            content.close()
            raise

    def _append(self, packed: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            end = os.fstat(descriptor).st_size
            last = self._last(descriptor, end)
            if last is Kind.SEAL:
                raise StateError(f"the upload of {self._id.decode()} is complete: nothing can be added")
            if last is None:
                with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
                    end = self._sound_end(content)
                os.ftruncate(descriptor, end)
            while packed:
                written = os.pwrite(descriptor, packed, end)
                packed, end = packed[written:], end + written
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _last(self, descriptor: int, size: int) -> Kind | None:
        """The kind of the last record, DATA where there is none yet; None where a crash left a part of one."""
        if size == RECORD_SIZE:
            return Kind.DATA
        if size < RECORD_SIZE or size % RECORD_SIZE:
            return None
        packed = os.pread(descriptor, RECORD_SIZE, size - RECORD_SIZE)
        return Kind(_RECORD.unpack(packed)[0]) if self._is_sound(packed) else None

    def _sound_end(self, content: mmap.mmap) -> int:
        """Where the records end. What comes behind was never acknowledged: the machine stopped while it was written."""
        if content[:RECORD_SIZE] != _HEAD.pack(_MAGIC, VERSION, self._id):
            raise self._damaged("its head")
        places = range(RECORD_SIZE, len(content) - RECORD_SIZE + 1, RECORD_SIZE)
        end = next((at for at in places if not self._is_sound(content[at : at + RECORD_SIZE])), None)
        if end is None:
            return places[-1] + RECORD_SIZE if places else RECORD_SIZE
        if any(self._is_sound(content[at : at + RECORD_SIZE]) for at in places if at > end):
            raise self._damaged(f"record {end // RECORD_SIZE}")
        return end

    def _damaged(self, what: str) -> StateError:
        return StateError(
            f"the log of what was uploaded to {self._id.decode()} is corrupted or tampered with: {what}",
            hint="delete the snapshot and upload it again",
        )

    def _packed_block(self, record: Record) -> bytes:
        if record.name is None:
            return self._packed(Kind.HOLE, record.block, _NOTHING, record.digest)
        return self._packed(Kind.DATA, record.block, record.name, record.digest)

    def _packed(self, kind: Kind, index: int, name: bytes, digest: bytes) -> bytes:
        packed = _RECORD.pack(kind, index, name, digest, b"")
        return packed[:_CHECKED] + self._check(packed)

    def _is_sound(self, packed: bytes) -> bool:
        return packed[_CHECKED:] == self._check(packed)

    def _check(self, packed: bytes) -> bytes:
        return hashlib.sha256(self._id + packed[:_CHECKED]).digest()[: RECORD_SIZE - _CHECKED]


class Uploaded:
    """The blocks of an upload, each once, in order of their indexes. A context manager, of `UploadLog.read`."""

    def __init__(self, content: mmap.mmap, end: int) -> None:
        self._content = content
        self.sealed = False
        # By block, the number of its last record: four bytes for each up to the highest, whatever order they came in.
        self._last = array("I")
        self.count = 0
        for number in range(1, end // RECORD_SIZE):
            kind, index, *_ = self._record(number)
            if kind == Kind.SEAL:
                self.sealed = True
                continue
            if index >= len(self._last):
                self._last.frombytes(bytes((index + 1 - len(self._last)) * self._last.itemsize))
            self.count += not self._last[index]
            self._last[index] = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._content.close()

    def __iter__(self) -> Iterator[Record]:
        for index, number in enumerate(self._last):
            if number:
                kind, _, name, digest, _ = self._record(number)
                yield Record(index, name if kind == Kind.DATA else None, digest)

    def linear_checksum(self) -> bytes:
        """EBS's LINEAR aggregate: the SHA-256 of all blocks' raw digests, one after another (facts §6.7)."""
        aggregate = hashlib.sha256()
        for record in self:
            aggregate.update(record.digest)
        return aggregate.digest()

    def _record(self, number: int) -> tuple[int, int, bytes, bytes, bytes]:
        return _RECORD.unpack_from(self._content, number * RECORD_SIZE)

"""The file of audit records: one JSON object a line, appended by many processes, turned over by size.

    <state>/audit/kms.jsonl       being written
    <state>/audit/kms.jsonl.1     older, and so on; the highest number is the oldest
    <state>/audit/.lock           held while files are renamed

A record is one write to a descriptor opened with O_APPEND, so records never mix. Who has the file open while another
process renames it writes into the renamed one: nothing is lost. Nothing is synced: a power cut may take the records of
the last seconds, since making each one durable would cost more than the request that it tells of.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, Self

import msgspec

from ebscrypt.durable import make_directory

NAME: Final = "kms.jsonl"
_LOCK: Final = ".lock"
_NUMBERED: Final = re.compile(rf"{re.escape(NAME)}\.([1-9][0-9]{{0,5}})")
_MODE: Final = 0o600


def append(directory: Path, record: dict[str, Any], *, largest: int, files: int) -> None:
    """Write one record; start a new file where this one would exceed ``largest`` bytes, and keep ``files`` of them.

    Raises OSError where it cannot be written whole.
    """
    line = msgspec.json.encode(record) + b"\n"
    descriptor = _open(directory)
    try:
        size = os.fstat(descriptor).st_size
        if size and size + len(line) > largest:
            _turn_over(directory, largest - len(line), files)
            os.close(descriptor)
            descriptor = -1
            descriptor = _open(directory)
            size = os.fstat(descriptor).st_size
        # What a full disk cut off must not spoil this record too.
        broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = b"\n" + line if broken else line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open(directory: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(directory / NAME, flags, _MODE)
    except FileNotFoundError:
        make_directory(directory)
        return os.open(directory / NAME, flags, _MODE)


def _turn_over(directory: Path, room_from: int, files: int) -> None:
    """Rename each file to the next number, unless another process does or has done so."""
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        # Never waits: a record may as well go into a file that is a little too large.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (directory / NAME).stat().st_size <= room_from:
            return
        present = _numbers(directory)
        for number in [number for number in present if number >= files]:
            (directory / f"{NAME}.{number}").unlink()  # there were more files once
        # A gap is what a crash between two renames left; the files above it may stay.
        free = next((number for number in range(1, files) if number not in present), files - 1)
        for number in range(free, 0, -1):
            before = NAME if number == 1 else f"{NAME}.{number - 1}"
            (directory / before).replace(directory / f"{NAME}.{number}")
    except (BlockingIOError, FileNotFoundError):
        return
    finally:
        os.close(lock)


def _numbers(directory: Path) -> list[int]:
    matches = (_NUMBERED.fullmatch(name) for name in os.listdir(directory))  # noqa: PTH208 - names are all it takes
    return sorted(int(match[1]) for match in matches if match)


class Reader:
    """Reads the records of a directory, oldest first; a second `read` gives what came since the first.

    ``broken`` counts lines that are no records. A context manager: the files stay open, so that they are known again
    under their next names. Raises OSError where they may not be read; where there are none, there are no records.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[tuple[int, int], IO[bytes]] = {}
        self.broken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self) -> Iterator[dict[str, Any]]:
        """Each record that has not been given yet. A line without an end may be in the making, and stays for later."""
        gone = set(self._files) - set(found := self._look())
        for inode in [*gone, *reversed(found)]:
            yield from self._records(self._files[inode])
        for inode in gone:
            self._files.pop(inode).close()

    def unfinished(self) -> bool:
        """Whether a line without an end was left: one in the making, or one that a full disk cut off."""
        return any(os.fstat(file.fileno()).st_size > file.tell() for file in self._files.values())

    def _look(self) -> list[tuple[int, int]]:
        """The files that are there, newest first. Names are tried in that order, as a rename leads to the next one."""
        found: list[tuple[int, int]] = []
        try:
            highest = max(_numbers(self._directory), default=0)
        except FileNotFoundError:
            return []
        for name in (NAME, *(f"{NAME}.{number}" for number in range(1, highest + 2))):
            with contextlib.suppress(FileNotFoundError):
                file = (self._directory / name).open("rb")
                status = os.fstat(file.fileno())
                inode = (status.st_dev, status.st_ino)
                if inode in self._files:
                    file.close()
                else:
                    self._files[inode] = file
                if inode not in found:
                    found.append(inode)
        return found

    def _records(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        while (line := file.readline()).endswith(b"\n"):
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.broken += 1
        file.seek(-len(line), os.SEEK_CUR)

"""Where files of a directory store are written before they get their names: a folder for each writer.

A name in the store always stands for durable content: a file is written here, synced, and only then renamed. The folder
is held by flock(2), which the kernel lets go when the process dies, however it dies. So what nobody holds is left over,
and no clock is needed to tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from ebscrypt import durable
from ebscrypt.stores.names import Content

FOLDER: Final = "incoming"


class Incoming:
    """The folder of one writer, made when it is first needed. Raises OSError; safe for use from several threads."""

    def __init__(self, root: Path) -> None:
        self._parent = root / FOLDER
        self._number = itertools.count()
        self._path, self._descriptor = self._make()

    def _make(self) -> tuple[str, int]:
        durable.make_directory(self._parent)
        while True:
            path = self._parent / secrets.token_hex(8)
            path.mkdir(0o700)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Who cleans up may have found it between its making and this lock, and be about to remove it.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return str(path), descriptor
            except BlockingIOError:
                pass
            os.close(descriptor)

    def write(self, content: Content) -> str:
        """The path of a new file with ``content``, not yet durable; nothing is left of one that fails."""
        path = f"{self._path}/{next(self._number)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            # Starts writing to the disk at once, and lets the pages go: the store must not push the guest's data out
            # of the page cache, and the sync of a batch finds little left to do.
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            closing, descriptor = descriptor, -1
            os.close(closing)  # network file systems tell of a full disk only here
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            os.unlink(path)  # noqa: PTH108 - paths are strings on this hot path
            raise
        return path

    def close(self) -> None:
        """Remove the folder with what was never finished."""
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned(root: Path) -> int:
    """Remove the folders of dead writers. Returns how many files were in them. Raises OSError."""
    removed = 0
    parent = root / FOLDER
    for path in sorted(parent.iterdir()) if parent.is_dir() else []:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removed += sum(1 for _ in path.iterdir())
            shutil.rmtree(path)
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(descriptor)
    return removed

"""The lock under which cryptsetup updates headers, so that its updates and ours come one after the other.

For a regular file it is flock(2) on the file itself; for a block device flock on a file that the last holder removes,
``/run/cryptsetup/L_<major>:<minor>`` (cryptsetup's docs/LUKS2-locking.txt). Both are held for milliseconds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ebscrypt.errors import BackingInUse, NotPermitted

DIRECTORY: Final = Path("/run/cryptsetup")
PATIENCE: Final = 5.0
"""Seconds to wait for another program: cryptsetup holds the lock for as long as two fsyncs take."""
_PAUSE: Final = 0.02


@contextlib.contextmanager
def header_lock(fd: int) -> Iterator[None]:
    """Hold the exclusive lock for the header on ``fd``. Raises `BackingInUse` after `PATIENCE` seconds.

    It ends with the block. On a regular file it belongs to the open file description: do not nest. `NotPermitted` is
    raised where the lock's directory for a block device cannot be written.
    """
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        _take(fd)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
        return
    path = DIRECTORY / f"L_{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    lock = _take_path(path)
    try:
        yield
    finally:
        _release_path(lock, path)


def _take(fd: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            if time.monotonic() > deadline:
                raise BackingInUse(
                    f"another process has held the lock of the LUKS2 header for {PATIENCE:.0f} seconds",
                    hint="it is attached, or cryptsetup is at work on it: lslocks shows who",
                ) from None
            time.sleep(_PAUSE)
        else:
            return


def _take_path(path: Path) -> int:
    """A descriptor that holds the lock on ``path``, which may be removed by its last holder while we wait for it."""
    while True:
        lock = _open(path)
        try:
            _take(lock)
            if _is_at(lock, path):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise NotPermitted(
            f"cannot take cryptsetup's lock {path}: {error.strerror}",
            hint=f"run this as root; a sandboxed service needs write access to {path.parent}",
        ) from error


def _release_path(lock: int, path: Path) -> None:
    """Remove the file while it is locked, as cryptsetup does: who waits for it sees that, and opens the next one."""
    try:
        if _is_at(lock, path):
            path.unlink()
    finally:
        os.close(lock)


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False

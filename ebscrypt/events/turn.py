"""The deliverer's turn: never two at work on one state directory, and never one asleep while there is something new.

    deliver.lock   held (flock) by the deliverer that has its turn; the kernel lets it go with its process
    deliver.wake   a FIFO; a byte in it wakes the deliverer that reads it, and where nobody reads, a new one is due

A deliverer that finds nothing left stops listening *before* it looks a last time. So whoever writes an event either
wakes a listener, or finds nobody and starts a deliverer, or wrote it before that last look: none is overlooked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Final, Self

from ebscrypt.config import Settings

_PATIENCE: Final = 10.0
"""Seconds in which a deliverer that is about to begin or to end will have listened or gone."""
_PAUSE: Final = 0.05


def _wake_path(settings: Settings) -> Path:
    return settings.events_dir / "deliver.wake"


def wake(settings: Settings) -> bool:
    """Wake the deliverer; False if there is none that listens."""
    try:
        descriptor = os.open(_wake_path(settings), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # ENOENT: there never was one. ENXIO: nobody reads.
        return False
    try:
        with contextlib.suppress(BlockingIOError):  # full of bytes that will wake it
            os.write(descriptor, b".")
    except BrokenPipeError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def turn(settings: Settings) -> Iterator[bool]:
    """Whether it is our turn, for as long as the block runs. If not, another deliverer has it and was woken."""
    settings.events_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(settings.events_dir / "deliver.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        end = time.monotonic() + _PATIENCE
        while not (ours := _try_lock(lock)) and not wake(settings) and time.monotonic() < end:
            time.sleep(_PAUSE)
        yield ours
    finally:
        os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Bell:
    """The reading end of the FIFO. A context manager: others can wake us for as long as it is open."""

    def __init__(self, settings: Settings) -> None:
        path = _wake_path(settings)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISFIFO(path.lstat().st_mode):
                path.unlink()
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # For reading and writing: with a writer of our own it never reads as ended.
        self._open = Lock()
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._open:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def ring(self) -> None:
        """Wake whoever waits, from another thread. Nothing happens when nobody listens any more."""
        # Under the lock, since the number of a closed descriptor soon is another file's.
        with self._open, contextlib.suppress(BlockingIOError):
            if self._descriptor is not None:
                os.write(self._descriptor, b".")

    def wait(self, seconds: float) -> None:
        """Sleep until someone rings or ``seconds`` have passed."""
        if self._descriptor is not None and select.select([self._descriptor], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._descriptor, 65536)

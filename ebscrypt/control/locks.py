"""One command at a time on one volume: a lock file each, held by flock, which ends with the process that holds it.

The file lies beside the catalog, since whoever shares the catalog must share the lock. While it is held it names the
command and its process. That is for people who wait, and for the two halves of one command: `attach` and `detach` keep
the lock while systemd runs ``ebscrypt attachment …`` on their behalf, and those must not wait for their own parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.errors import StateError

POLL: Final = 0.02
"""Seconds between two tries for a lock that another command holds; flock has no wait with a limit."""


class Holder(msgspec.Struct, frozen=True):
    """Who holds a volume's lock."""

    command: str
    pid: int


def lock_path(settings: Settings, volume_id: str) -> Path:
    return Path(settings.paths.state) / "locks" / f"{volume_id}.lock"


@contextlib.contextmanager
def held(
    settings: Settings,
    volume_id: str,
    command: str,
    *,
    timeout: float | None = None,
    on_behalf_of: tuple[str, ...] = (),
) -> Iterator[bool]:
    """Hold the volume's lock as ``command``, waiting up to ``timeout`` seconds (the start timeout by default).

    Gives True. Where a command of ``on_behalf_of`` holds it, False at once: that is the parent, and waits for us.
    Raises `StateError` naming the holder when the time is up.
    """
    path = lock_path(settings, volume_id)
    durable.make_directory(path.parent)
    deadline = time.monotonic() + (settings.attach.start_timeout if timeout is None else timeout)
    while (descriptor := _try(path)) is None:
        holder = _read(path)
        if holder is not None and holder.command in on_behalf_of:
            yield False
            return
        if time.monotonic() >= deadline:
            by = f"`{holder.command}` (process {holder.pid})" if holder else "another command"
            raise StateError(f"{by} is working on volume {volume_id}", hint="wait for it, then try again")
        time.sleep(POLL)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(Holder(command, os.getpid())), 0)
        yield True
    finally:
        os.close(descriptor)


def holder(settings: Settings, volume_id: str) -> Holder | None:
    """Who holds the volume's lock now, if anybody does. Only a hint, unless the lock file is gone: that is nobody."""
    path = lock_path(settings, volume_id)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path) or Holder("another command", 0)
    else:
        return None
    finally:
        os.close(descriptor)


def forget(settings: Settings, volume_id: str) -> None:
    """Remove the lock file of a volume that is gone. Call it while holding the lock."""
    lock_path(settings, volume_id).unlink(missing_ok=True)


def _try(path: Path) -> int | None:
    """The lock's descriptor, or None while another has it. A lock on a file that has left ``path`` is none."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        # `forget` removed the file between our opening and our locking it: there may be another by now.
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that ``path`` names now."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.DecodeError):
        return None

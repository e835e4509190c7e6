"""The directory of the embedded KMS: for its owner only, and locked while what lies beside the database is changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ebscrypt import durable
from ebscrypt.errors import NotPermitted


def check(directory: Path) -> None:
    """Make it if it is missing. Raises `NotPermitted` when it is not ours alone."""
    durable.make_directory(directory)
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise NotPermitted(
            f"the directory {directory} of the embedded KMS belongs to uid {status.st_uid}, not to uid {os.geteuid()}",
            hint=f"run as its owner, or give it to this user: chown -R {os.geteuid()} {directory}",
        )
    if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        raise NotPermitted(
            f"the directory {directory} of the embedded KMS is open to others (mode {mode:04o})",
            hint=f"chmod 700 {directory}, and consider who may have changed it",
        )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock on the directory; waits for whoever has it. A process that dies gives it back."""
    descriptor = _open(directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_if_free(directory: Path) -> Iterator[bool]:
    """Hold the lock if nobody has it; whether this does."""
    descriptor = _open(directory)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

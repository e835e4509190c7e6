"""Small files that are whole or absent after a crash: write to a new name, fsync, rename, fsync the directory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def make_private_directory(path: Path) -> None:
    """The directory with its parents, each new one with mode 0700. One that is there keeps its mode."""
    if not path.is_dir():
        make_private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` with mode 0600, durably and atomically. A reader sees the old file or the new one.

    One writer at a time: what an interrupted one left beside the file is overwritten by the next, or removed with it.
    """
    new = _beside(path)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Remove ``path``, if it is there, durably."""
    _beside(path).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.new"


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a new file's own fsync does not (ext4 and xfs happen to, others not)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

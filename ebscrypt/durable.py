"""Files and directories that are there whole or not at all, also after a power cut. Nothing but the standard library.

A file's content survives a power cut once it was synced; its name, once its directory was (ext4 and xfs happen to do
both at once, others do not). So everything here ends by syncing a directory.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

_TEMPORARY: Final = re.compile(r"\..+\.new-[0-9a-f]{16}")


def make_directory(path: Path, mode: int = 0o700) -> None:
    """The directory with its parents; each new one, and only a new one, gets ``mode`` less the umask."""
    if path.is_dir():
        return
    make_directory(path.parent, mode)
    path.mkdir(mode, exist_ok=True)  # another process may have been quicker
    sync_directory(path.parent)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put ``content`` at ``path``, in the place of what may be there: a reader sees the old file or the new one.

    One writer at a time: what an interrupted one left beside the file is overwritten by the next, or removed with it.
    """
    beside = _beside(path)
    try:
        _write(beside, content, mode, os.O_TRUNC | os.O_NOFOLLOW)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create_file(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Put ``content`` at ``path`` unless something is there already. Returns whether it was put.

    Of many processes one wins, and no reader ever sees a part.
    """
    beside = path.parent / f".{path.name}.new-{os.urandom(8).hex()}"
    try:
        _write(beside, content, mode, os.O_EXCL)
        path.hardlink_to(beside)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def remove_file(path: Path) -> None:
    """Remove ``path``, if it is there."""
    _beside(path).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove what `create_file` left where its process was killed. The caller sees to it that none is at work here."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.new"


def _write(path: Path, content: bytes, mode: int, flags: int) -> None:
    """A new file with ``content``, synced, of exactly ``mode`` whatever the umask says."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

_TEMPORARY: Final = re.compile(r"\..+\.new-[0-9a-f]{16}")


def create(path: Path, content: bytes, mode: int) -> bool:
    """Put ``content`` at ``path`` unless something is there already. Returns whether it was put.

    A temporary file is written and synced, then linked to its name, which fails where the name is taken: of many
    processes one wins, and no reader ever sees a part. Raises OSError.
    """
    temporary = path.parent / f".{path.name}.new-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)  # whatever the umask says
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            temporary.unlink()
    except FileExistsError:
        return False
    sync_directory(path.parent)
    return True


def remove_leftovers(directory: Path) -> None:
    """Remove what `create` left when its process was killed. The caller sees to it that none is at work here."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def make_directory(path: Path, mode: int) -> None:
    """Make a directory, and those above it that are missing, so that their names survive a power cut too."""
    if path.is_dir():
        return
    make_directory(path.parent, 0o777)
    path.mkdir(mode, exist_ok=True)  # another process may have been quicker
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

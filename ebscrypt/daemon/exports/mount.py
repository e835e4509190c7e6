"""FUSE mounts: whether one is there, and taking it down, alive or dead."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from ebscrypt.errors import DaemonError

FUSE_DEVICE: Final = Path("/dev/fuse")
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted on exactly this path, in this mount namespace.

    Never touches the mount itself: looking into one whose daemon is dead or hangs would fail or hang.
    """
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as table:
        return any(_unescape(line.split(" ")[4]) == str(mountpoint) for line in table)


def unmount(mountpoint: Path, *, lazy: bool) -> None:
    """Take the mount down and remove its directory; nothing where there is none.

    ``lazy`` takes it out of the tree at once and ends it when the last user does. Raises `DaemonError` when it is busy,
    or another user's.
    """
    if is_mounted(mountpoint):
        if os.geteuid() == 0:
            _unmount_as_root(mountpoint, lazy=lazy)
        else:
            _unmount_as_user(mountpoint, lazy=lazy)
    with contextlib.suppress(FileNotFoundError):
        mountpoint.rmdir()


def _unmount_as_root(mountpoint: Path, *, lazy: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if libc.umount2(os.fsencode(mountpoint), flags) != 0:
        code = ctypes.get_errno()
        raise DaemonError(
            f"cannot unmount {mountpoint}: {os.strerror(code)}", hint=f"see who has it: `fuser -vm {mountpoint}`"
        )


def _unmount_as_user(mountpoint: Path, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    except FileNotFoundError as error:
        raise DaemonError("fusermount3 is not installed", hint="install fuse3") from error
    if ran.returncode:
        raise DaemonError(f"cannot unmount {mountpoint}: {ran.stderr.strip()[:200]}")


def _unescape(text: str) -> str:
    """The kernel writes blanks, tabs and backslashes in mount tables as octal escapes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)

"""The file or block device under a volume: found, proved empty, claimed, made and made longer.

A volume never takes a backing that holds something, unless told to with ``force``: mounted or open ones not even then.
"Empty" means no signature that blkid knows (file systems, RAID and LVM members, LUKS, partition tables) and nothing but
zeros in the first and the last MiB, where nearly every format keeps its marks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from ebscrypt import durable
from ebscrypt.control import holders
from ebscrypt.daemon.backing import claim
from ebscrypt.errors import (
    BackingError,
    BackingInUse,
    BackingMissing,
    BackingNotEmpty,
    NotPermitted,
    OutOfSpace,
)
from ebscrypt.model import MIB, BackingKind, format_size

EDGE: Final = MIB
"""Bytes at each end of a backing that must be zero."""
_SYSTEM_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_BLKID_NOTHING: Final = 2


class Backing(msgspec.Struct, frozen=True):
    """A backing that is there. ``size`` in bytes."""

    path: str
    kind: BackingKind
    size: int


def canonical(path: str) -> str:
    """The name under which a backing is kept: absolute, and for files without symbolic links.

    A device keeps the name it was given, since /dev/disk/by-id/… stays true over boots and what it points to does not.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - pathlib's absolute() keeps "..", resolve() follows links
    return absolute if absolute.startswith("/dev/") else os.path.realpath(absolute)


def find(path: str) -> Backing | None:
    """The backing at ``path``, None when nothing is there. Raises `BackingError` for what cannot be one."""
    with translated(path, "look at"):
        try:
            status = Path(path).stat()
        except FileNotFoundError:
            return None
        if stat.S_ISREG(status.st_mode):
            return Backing(path, BackingKind.FILE, status.st_size)
        if stat.S_ISBLK(status.st_mode):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return Backing(path, BackingKind.BLOCK, os.lseek(descriptor, 0, os.SEEK_END))
            finally:
                os.close(descriptor)
    raise BackingError(f"{path} cannot be a backing", hint="a backing is a regular file or a block device")


def same(left: str, right: str) -> bool:
    """Whether two names lead to one backing: one inode, or one device number."""
    try:
        one, other = Path(left).stat(), Path(right).stat()
    except OSError:
        return left == right
    if stat.S_ISBLK(one.st_mode) and stat.S_ISBLK(other.st_mode):
        return one.st_rdev == other.st_rdev
    return os.path.samestat(one, other)


@contextmanager
def claimed(path: str, kind: BackingKind) -> Iterator[int]:
    """A descriptor for reading and writing that nobody else can have.

    Claimed as the daemon does, so an attached volume's backing is never touched by a second command, and locked as
    cryptsetup does (flock; O_EXCL for block devices), so neither is one that cryptsetup is at work on. Raises
    `BackingInUse` naming who has it, `BackingMissing`, `NotPermitted`.
    """
    exclusive = os.O_EXCL if kind is BackingKind.BLOCK else 0
    with translated(path, "open"):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | exclusive)
    try:
        with translated(path, "lock"):
            claim(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_if_used(backing: Backing) -> None:
    """Raise `BackingInUse` naming the users if anything has the backing mounted or open."""
    look = holders.of_device if backing.kind is BackingKind.BLOCK else lambda path: holders.of_file(Path(path))
    if uses := look(backing.path):
        told = ", ".join(map(str, uses[:5]))
        raise BackingInUse(f"{backing.path} is in use: {told}", hint="a backing must not be in use by anything else")


def refuse_unless_empty(backing: Backing, descriptor: int) -> None:
    """Raise `BackingNotEmpty` naming what was found, if anything was."""
    hint = f"look with `blkid -p {backing.path}`; --force takes it all the same, and what it holds is lost"
    if found := _signature(backing):
        raise BackingNotEmpty(f"{backing.path} is not empty: it holds {found}", hint=hint)
    with translated(backing.path, "read"):
        for offset in (0, max(0, backing.size - EDGE)):
            if any(os.pread(descriptor, EDGE, offset)):
                where = "first" if offset == 0 else "last"
                raise BackingNotEmpty(f"{backing.path} is not empty: there are bytes in its {where} MiB", hint=hint)


def _signature(backing: Backing) -> str | None:
    """What blkid sees by low-level probing, in one line; None for nothing."""
    if backing.size == 0:
        return None
    program = shutil.which("blkid", path=_SYSTEM_PATH)
    if program is None:
        raise BackingError(
            f"blkid is not installed, so nobody can tell whether {backing.path} is empty",
            hint="install util-linux, or say --force if you are sure",
        )
    ran = subprocess.run(
        [program, "-p", "-o", "export", backing.path], capture_output=True, text=True, check=False, errors="replace"
    )
    if ran.returncode == _BLKID_NOTHING:
        return None
    facts = dict(line.split("=", 1) for line in ran.stdout.splitlines() if "=" in line)
    if (
        facts.get("LABEL_FATBOOT") is None
        and facts.get("TYPE") == "crypto_LUKS"
        and facts.get("LABEL", "")[:4] == "vol-"
    ):
        return f"the volume {facts['LABEL']}"
    return facts.get("TYPE") or (f"a {facts['PTTYPE']} partition table" if "PTTYPE" in facts else "several signatures")


def make_file(path: str, size: int, *, preallocate: bool) -> None:
    """Make a file of ``size`` zero bytes at ``path``, mode 0600, sparse unless ``preallocate``; durable, name and all.

    Raises `BackingError` when something is there, `OutOfSpace` when it does not fit. Leaves nothing behind then.
    """
    with translated(path, "make"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with translated(path, "make", size):
            extend(descriptor, size, preallocate=preallocate)
        durable.sync_directory(Path(path).parent)
    except BaseException:
        durable.remove_file(Path(path))
        raise
    finally:
        os.close(descriptor)


def extend(descriptor: int, size: int, *, preallocate: bool = False) -> None:
    """Let a regular file have at least ``size`` bytes, durably. Raises OSError."""
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)
    if preallocate:
        os.posix_fallocate(descriptor, 0, size)
    os.fsync(descriptor)


@contextmanager
def translated(path: str, doing: str, size: int | None = None) -> Iterator[None]:
    """The operating system's errors about a backing as ours."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        what = f"cannot {doing} {path}" + (f" with {format_size(size)}" if size else "")
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                raise OutOfSpace(f"{what}: {reason}", hint=_free_space_hint(path)) from error
            case errno.EFBIG:
                hint = "ext4 ends at 16 TiB; use xfs, or a block device as --backing"
                raise BackingError(f"{what}: larger than a file on this file system may be", hint=hint) from error
            case errno.ENOENT | errno.ENXIO | errno.ENODEV | errno.ENOTDIR:
                raise BackingMissing(f"{what}: {reason}") from error
            case errno.EEXIST:
                raise BackingError(f"{what}: {reason}") from error
            case errno.EACCES | errno.EPERM | errno.EROFS:
                raise NotPermitted(f"{what}: {reason}", hint="run the command with sudo") from error
            case errno.EBUSY | errno.EAGAIN | errno.ETXTBSY:
                raise BackingInUse(f"{path} is in use{_users(path)}") from error
        raise BackingError(f"{what}: {reason}") from error


def _users(path: str) -> str:
    uses = [*holders.of_device(path), *holders.of_file(Path(path))]
    return ": " + ", ".join(map(str, uses[:5])) if uses else " by another program"


def _free_space_hint(path: str) -> str | None:
    try:
        free = shutil.disk_usage(Path(path).parent).free
    except OSError:
        return None
    return f"{format_size(free)} are free in {Path(path).parent}"

"""The backing under an attached volume: opened once, locked for life, the same for a file and a block device.

The lock is what makes two attachments of one backing race safely, whatever names they know it by: a lock of the open
file description (F_OFD_SETLK, fcntl(2)), and for block devices O_EXCL as well, which also keeps mounts and
device-mapper away. Not flock(2): that is cryptsetup's lock for a header's update, and `cryptsetup luksDump` of an
attached volume would wait for ever.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

from ebscrypt.errors import BackingError, BackingInUse, BackingMissing, NotPermitted, OutOfSpace
from ebscrypt.model import AttachmentSpec, BackingKind, CacheMode, format_size

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_TAKEN = (errno.EBUSY, errno.EAGAIN, errno.ETXTBSY)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def claim(fd: int, *, read_only: bool = False) -> None:
    """Take the lock that an attachment holds for life; it ends when ``fd`` and its duplicates are closed.

    Readers share it, since none of them changes anything. Raises BlockingIOError while another has it.
    """
    kind = fcntl.F_RDLCK if read_only else fcntl.F_WRLCK
    # struct flock: l_type, l_whence, l_start, l_len (0: to the end, however far), l_pid.
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


class Backing:
    """An open and locked backing.

    ``fd`` goes through the page cache and carries the lock: the header is read and written by it. ``data_fd`` is what
    the core takes: another one with O_DIRECT where the spec says ``cache = none``, else the same.
    """

    def __init__(self, spec: AttachmentSpec) -> None:
        """Open what ``spec`` names. Raises `BackingMissing`, `BackingInUse`, `NotPermitted`, `BackingError`."""
        self.path = spec.backing
        self.kind = spec.backing_kind
        self.read_only = spec.read_only
        with contextlib.ExitStack() as undo:
            with _told(self.path, "open"):
                self.fd = os.open(self.path, self._flags())
            undo.callback(os.close, self.fd)
            self._check_kind()
            os.set_blocking(self.fd, True)
            with _told(self.path, "lock"):
                claim(self.fd, read_only=self.read_only)
            self.data_fd = self._reopen_direct() if spec.cache is CacheMode.NONE else self.fd
            undo.pop_all()

    @property
    def size(self) -> int:
        """Bytes, as of now."""
        return os.lseek(self.fd, 0, os.SEEK_END)

    def extend(self, size: int) -> None:
        """Let there be at least ``size`` bytes: a file is made longer, sparse and durably; a block device must be.

        Raises `OutOfSpace`.
        """
        if self.size >= size:
            return
        if self.kind is BackingKind.BLOCK:
            raise OutOfSpace(
                f"{self.path} has {format_size(self.size)}, but the volume would need {format_size(size)}",
                hint="enlarge the block device first",
            )
        with _told(self.path, f"extend to {format_size(size)}"):
            os.ftruncate(self.fd, size)
            os.fsync(self.fd)

    def close(self) -> None:
        """Close and so unlock. Idempotent."""
        for fd in {self.fd, self.data_fd} - {-1}:
            os.close(fd)
        self.fd = self.data_fd = -1

    def _flags(self) -> int:
        # O_NONBLOCK only matters for what is no backing at all: opening a FIFO must not wait for its other end.
        access = os.O_RDONLY if self.read_only else os.O_RDWR
        exclusive = os.O_EXCL if self.kind is BackingKind.BLOCK else 0
        return access | exclusive | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

    def _check_kind(self) -> None:
        mode = os.fstat(self.fd).st_mode
        wanted = stat.S_ISBLK if self.kind is BackingKind.BLOCK else stat.S_ISREG
        if not wanted(mode):
            what = "a block device" if self.kind is BackingKind.BLOCK else "a regular file"
            raise BackingError(
                f"{self.path} is not {what}, which it was when the volume was made",
                hint="look what lies at that path; `ebscrypt check` tells more",
            )

    def _reopen_direct(self) -> int:
        """A second open file for the same backing: /proc/self/fd leads to it even if the path does not any more."""
        flags = (os.O_RDONLY if self.read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_DIRECT
        try:
            return os.open(f"/proc/self/fd/{self.fd}", flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise BackingError(f"cannot open {self.path} for direct I/O: {error.strerror}") from error
            raise BackingError(
                f"the file system of {self.path} has no direct I/O", hint="set attach.cache to writeback"
            ) from error


@contextlib.contextmanager
def _told(path: str, doing: str) -> Iterator[None]:
    """The operating system's errors about a backing as ours."""
    try:
        yield
    except OSError as error:
        what = f"cannot {doing} the backing {path}: {error.strerror}"
        if error.errno in _MISSING:
            raise BackingMissing(what, hint="is its disk mounted, or plugged in?") from error
        if error.errno in _REFUSED:
            raise NotPermitted(what, hint="run the command with sudo") from error
        if error.errno in _TAKEN:
            raise BackingInUse(
                f"the backing {path} is in use by another process", hint=f"see who has it: `fuser -v {path}`"
            ) from error
        if error.errno in _FULL:
            raise OutOfSpace(what) from error
        raise BackingError(what) from error

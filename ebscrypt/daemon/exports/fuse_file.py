"""The one file of the FUSE export: it behaves like a block device that happens to be a file.

Its size is the volume's and cannot be set, O_TRUNC does nothing, a write past its end gets ENOSPC, and what was written
before an fsync returned is on the backing.

Where requests run: in the session's own thread, one after the other, as long as they do not wait. While the backing
makes them wait, up to `TASKS` of them wait side by side in worker threads instead. A hop to a thread and back costs
more than a request that is answered from memory (28 000 requests of 4 KiB a second without, 6 000 with, measured in one
run), and little against one that waits for a disk.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import stat
import time
from collections.abc import Callable
from typing import Final, TypeVar

import pyfuse3
import trio

from ebscrypt.core import Device
from ebscrypt.model import Access

TASKS: Final = 16
"""Requests under way at once; the kernel has 12 by default (max_background). Each holds a buffer of a MiB."""
FILE_INODE: Final = pyfuse3.ROOT_INODE + 1
_BEST_SIZE: Final = 1 << 20
_FOREVER: Final = 86_400.0
_WAIT: Final = 0.001
"""Seconds of sleep in one request from which on it was slow: several hops to a thread, less than a disk's seek."""
_SLOW_IN_A_ROW: Final = 4
"""How many slow requests make a slow backing; a single one may have waited for a busy processor."""
_IN_THREADS: Final = 128
"""How many requests go to threads then, before the next is tried without."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class VolumeFile(pyfuse3.Operations):
    """The file system: a directory with the file ``name`` over ``device`` in it."""

    def __init__(self, device: Device, name: str, *, read_only: bool) -> None:
        super().__init__()
        self.handles = 0
        """How often the file is open."""
        self._device = device
        self._name = name.encode()
        self._read_only = read_only
        self._made = time.time_ns()
        self._owner = (os.geteuid(), os.getegid())
        self._threads = trio.CapacityLimiter(TASKS)
        self._slow_in_a_row = 0
        self._in_threads = 0

    async def lookup(self, parent_inode: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        if parent_inode != pyfuse3.ROOT_INODE or name != self._name:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE_INODE, ctx)

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:  # noqa: ARG002 - pyfuse3's
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_uid, attributes.st_gid = self._owner
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = self._made
        attributes.entry_timeout = _FOREVER
        # The size may grow at any time, and whoever asks for it (losetup, qemu) must get it as it is now.
        attributes.attr_timeout = 0
        if inode == pyfuse3.ROOT_INODE:
            attributes.st_mode = stat.S_IFDIR | 0o500
            attributes.st_nlink = 2
        else:
            attributes.st_mode = stat.S_IFREG | (0o400 if self._read_only else 0o600)
            attributes.st_size = self._device.size
            attributes.st_blocks = self._device.size // 512
            attributes.st_blksize = _BEST_SIZE
        return attributes

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,  # noqa: ARG002 - pyfuse3's signature
        ctx: object,  # noqa: ARG002 - the same
    ) -> pyfuse3.EntryAttributes:
        """A block device ignores O_TRUNC, which arrives here as size 0, and has no other size to be set."""
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        now = await self.getattr(inode)
        if fields.update_size and attr.st_size not in (0, now.st_size):
            raise pyfuse3.FUSEError(errno.EINVAL)
        return now

    async def opendir(self, inode: int, ctx: object) -> int:  # noqa: ARG002 - pyfuse3's signature
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:  # noqa: ARG002
        if start_id == 0:
            pyfuse3.readdir_reply(token, self._name, await self.getattr(FILE_INODE), 1)

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:  # noqa: ARG002
        if self._read_only and flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        self.handles += 1
        return pyfuse3.FileInfo(fh=inode, direct_io=True, keep_cache=False)

    async def release(self, fh: int) -> None:  # noqa: ARG002 - pyfuse3's signature
        self.handles -= 1

    async def read(self, fh: int, off: int, size: int) -> bytes:  # noqa: ARG002
        length = min(size, self._device.size - off)
        return await self._call(lambda: self._device.pread(length, off)) if length > 0 else b""

    async def write(self, fh: int, off: int, buf: bytes) -> int:  # noqa: ARG002
        data = memoryview(buf)[: max(0, self._device.size - off)]
        if not data:
            raise pyfuse3.FUSEError(errno.ENOSPC)
        await self._call(lambda: self._device.pwrite(data, off))
        return len(data)

    async def flush(self, fh: int) -> None:
        """At close(2): promise as much as fsync does, so that who copies a file in and exits has lost nothing."""
        await self.fsync(fh, datasync=True)

    async def fsync(self, fh: int, datasync: bool) -> None:  # noqa: ARG002, FBT001 - pyfuse3's signature
        if not self._read_only:
            await self._call(self._device.flush, waits=True)

    async def _call(self, call: Callable[[], _T], *, waits: bool = False) -> _T:
        """What ``call`` gives, its failure as the errno that a block device would give."""
        try:
            if waits:
                return await trio.to_thread.run_sync(call, limiter=self._threads)
            # What waits for a suspension to end must not keep the event loop, which is to end the session meanwhile.
            if self._in_threads or self._device.access == Access.SUSPENDED:
                self._in_threads = max(0, self._in_threads - 1)
                return await trio.to_thread.run_sync(self._timed, call, limiter=self._threads)
            return self._timed(call)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except Exception:  # noqa: BLE001 - it would end the session, and with it the device
            _log.exception("a request failed for no known reason")
            raise pyfuse3.FUSEError(errno.EIO) from None

    def _timed(self, call: Callable[[], _T]) -> _T:
        """Do it, and remember whether it slept. Time alone says nothing: a busy machine stretches anything."""
        sleeps, began = _sleeps(), time.monotonic()
        try:
            return call()
        finally:
            slow = _sleeps() > sleeps and time.monotonic() - began > _WAIT
            self._slow_in_a_row = self._slow_in_a_row + 1 if slow else 0
            if self._slow_in_a_row >= _SLOW_IN_A_ROW:
                self._in_threads = _IN_THREADS


def _sleeps() -> int:
    """How often this thread gave up the processor of its own accord."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

"""A file system of one file that notes every write and fsync in order, and can hold or fail an fsync.

Run as ``python -m tests.recording_backing FOLDER SIZE``: mounts on FOLDER, in which ``backing`` is the file. On the
standard output one line an event: ``ready``, ``write OFFSET LENGTH``, ``fsync begins``, ``fsync ends``. On the standard
input one line a command, answered by the event ``obeyed``: ``hold`` (the next fsyncs wait), ``release``, ``fail`` (the
next fsync is EIO). Ends, and unmounts, when its standard input does.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

import pyfuse3
import trio

NAME = b"backing"
INODE = pyfuse3.ROOT_INODE + 1


class RecordingFile(pyfuse3.Operations):
    """The file system."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.content = bytearray(size)
        self.free = trio.Event()
        self.free.set()
        self.failing = False

    def say(self, *words: object) -> None:
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()

    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        del ctx
        if (parent, name) != (pyfuse3.ROOT_INODE, NAME):
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(INODE)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext | None = None) -> pyfuse3.EntryAttributes:
        del ctx
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_mode = stat.S_IFREG | 0o600 if inode == INODE else stat.S_IFDIR | 0o700
        attributes.st_size = len(self.content)
        attributes.st_uid, attributes.st_gid = os.getuid(), os.getgid()
        return attributes

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        del flags, ctx
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        del fh
        return bytes(self.content[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        del fh
        self.content[off : off + len(buf)] = buf
        self.say("write", off, len(buf))
        return len(buf)

    async def fsync(self, fh: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        del fh, datasync
        self.say("fsync begins")
        await self.free.wait()
        self.say("fsync ends")
        if self.failing:
            self.failing = False
            raise pyfuse3.FUSEError(errno.EIO)

    async def obey(self) -> None:
        """Carry out commands until there are no more."""
        async with trio.lowlevel.FdStream(os.dup(0)) as commands:
            async for line in commands:
                for command in line.decode().split():
                    if command == "hold":
                        self.free = trio.Event()
                    elif command == "release":
                        self.free.set()
                    elif command == "fail":
                        self.failing = True
                    self.say("obeyed")


async def main(folder: str, size: int) -> None:
    operations = RecordingFile(size)
    options = set(pyfuse3.default_options) | {"fsname=recording"}
    pyfuse3.init(operations, folder, options)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            operations.say("ready")
            await operations.obey()
            operations.free.set()
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))

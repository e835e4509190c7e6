"""`frozen`: the file systems on an attached volume stand still around the instant of a snapshot, and always go on.

FIFREEZE (ioctl_fsfreeze, fsfreeze(8)) lets a file system write everything out and makes writers wait. Between that and
the thaw lies one request to the daemon, some milliseconds. A file system that stayed frozen would hang whatever writes
to it, so there is a second process that thaws: when this one is killed, and when it takes longer than half a minute.
That one runs before anything is frozen, and learns of our end by the end of a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from typing import IO, Final

from ebscrypt.control import holders, runtime
from ebscrypt.control.site import Site
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.errors import DaemonError, NotPermitted, StateError
from ebscrypt.model import Access, Attachment, ExportKind

LIMIT: Final = 30
"""Seconds for which a file system is frozen at most."""
_FIFREEZE: Final = 0xC0045877
_FITHAW: Final = 0xC0045878
_WATCH: Final = 'echo; [ -n "$(timeout "$0" head -c 1)" ] || fsfreeze --unfreeze "$1"'
"""Says that it is there; thaws, unless it is told in time that this was done."""


@contextlib.contextmanager
def frozen(site: Site, attachment: Attachment) -> Iterator[None]:
    """Freeze what is mounted of the volume for the time of the block. Where nothing is, a note says so.

    Raises `StateError` where what uses the volume cannot be frozen from here, or did not stay frozen to the end: then
    what was done within the block has no frozen file system to show. `NotPermitted` for who is not root.
    """
    with contextlib.ExitStack() as thawing:
        for where in _mounted(site, attachment):
            thawing.enter_context(_frozen(where))
        yield


def _mounted(site: Site, attachment: Attachment) -> list[str]:
    """A path into each file system on the volume, in whichever mount namespace it is mounted."""
    volume_id = attachment.volume_id
    with DaemonClient(runtime.directory(site.settings, volume_id).control_socket) as daemon:
        status = daemon.call("status")
    if status["access"] == Access.SUSPENDED:
        raise StateError(
            f"volume {volume_id} is suspended, so nothing on it can be written out", hint="leave out --freeze"
        )
    if attachment.export is ExportKind.SOCKET and status["connections"]:
        raise StateError(
            f"the clients of {attachment.socket} must freeze their file systems themselves",
            hint="a virtual machine does so with `virsh domfsfreeze`; then make the snapshot without --freeze",
        )
    uses = holders.of_attachment(attachment)
    if stacked := [use.where for use in uses if use.kind == "device"]:
        raise StateError(
            f"volume {volume_id} is used by {stacked[0]}, and what is mounted of that is not known here",
            hint="freeze it with fsfreeze(8), and make the snapshot without --freeze",
        )
    found: dict[int, str] = {}
    for use in uses:
        if use.kind == "mount":
            path = use.where if use.pid in (None, os.getpid()) else f"/proc/{use.pid}/root{use.where}"
            found.setdefault(os.stat(path).st_dev, path)  # noqa: PTH116 - one freeze for all mounts of a file system
    if not found:
        site.notes.append(f"nothing was frozen: no file system of volume {volume_id} is mounted")
    return list(found.values())


@contextlib.contextmanager
def _frozen(where: str) -> Iterator[None]:
    descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _watched(descriptor) as watch:
            _freeze(descriptor, where)
            try:
                yield
            finally:
                if held := _thaw(descriptor):
                    with contextlib.suppress(BrokenPipeError):
                        watch.write(b"x")
                        watch.flush()
        if not held:
            raise StateError(
                f"{where} did not stay frozen until the instant of the snapshot",
                hint="something else thawed it, or the daemon did not answer in time: try again",
            )
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _watched(descriptor: int) -> Iterator[IO[bytes]]:
    """Have a process that thaws, unless it is told on this pipe that it was done.

    It has a session of its own, so that no Ctrl-C reaches it.
    """
    with subprocess.Popen(
        ["sh", "-c", _WATCH, str(LIMIT), f"/proc/self/fd/{descriptor}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
    ) as process:
        assert process.stdin is not None  # noqa: S101 - they are pipes
        assert process.stdout is not None  # noqa: S101
        if process.stdout.read(1) != b"\n":
            raise StateError("nothing can be started that would thaw the file system if this process were killed")
        yield process.stdin


def _freeze(descriptor: int, where: str) -> None:
    try:
        fcntl.ioctl(descriptor, _FIFREEZE, 0)
    except OSError as error:
        what = f"{where} cannot be frozen: {error.strerror}"
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotPermitted(what, hint="run the command with sudo") from error
        if error.errno == errno.EBUSY:
            raise StateError(f"{where} is frozen already", hint="leave out --freeze, or thaw it") from error
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            raise StateError(what, hint="this kind of file system cannot be frozen: leave out --freeze") from error
        raise DaemonError(what) from error


def _thaw(descriptor: int) -> bool:
    """Let it go on; whether it was frozen until now."""
    try:
        fcntl.ioctl(descriptor, _FITHAW, 0)
    except OSError:
        return False
    return True

"""The change file of a volume that is served, and the mark by which it is known to speak of this very backing.

    <state>/changes/<volume id>         0600  which blocks changed since the last snapshot; the core's (docs/formats)
    <state>/changes/<volume id>.seen    0600  the backing's mark: inode, size and times, as the daemon saw it last

Only who writes through the daemon is noticed. So the change file is believed only if the backing has the mark that a
daemon saw while it held the backing's lock: whatever wrote to it since, ebscrypt or not, let its time of change move
on, which nobody can set back. That is so after `rewrap`, a restore, stock cryptsetup, a copy put in its place; and also
after a daemon that died within a second of its last write, since nobody knows whose write that was. Then everything
counts as changed. Of a block device nothing tells when it was written to: there each attachment begins anew.

Both files are opened while the daemon is root, and written by descriptor when it no longer is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.daemon.backing import Backing
from ebscrypt.model import AttachmentSpec

if TYPE_CHECKING:
    from ebscrypt.core import Device

INTERVAL: Final = 1.0
"""Seconds between two looks at the backing's mark."""
_LENGTH: Final = 256
_WITHOUT: Final = "no snapshot can be made of it while it is attached, since no change file can be had: {}"
_SECOND: Final = 1_000_000_000


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which a backing shows whether it was written to: times in nanoseconds since 1970, as fstat(2) has them."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def mark_of(descriptor: int) -> Mark | None:
    """The mark of an open backing, now; None for one that shows nothing: a block device, a clock of whole seconds."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not (status.st_mtime_ns % _SECOND or status.st_ctime_ns % _SECOND):
        return None
    return Mark(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def change_path(settings: Settings, volume_id: str) -> Path:
    """Where a volume's change file lies."""
    return Path(settings.paths.state) / "changes" / volume_id


def remove_changes(settings: Settings, volume_id: str) -> None:
    """Forget what is known of a volume's changes. Nobody may serve it."""
    path = change_path(settings, volume_id)
    for gone in (path, _seen_path(path)):
        gone.unlink(missing_ok=True)


class ChangeFile:
    """The two files of a volume whose backing this process has locked for writing.

    ``fd`` is for the core. It is empty, so that everything counts as changed, unless the backing has the mark.
    """

    def __init__(self, settings: Settings, volume_id: str, backing: int) -> None:
        """Open them, before anything is written to the backing, which is the descriptor ``backing``. Raises OSError."""
        path = change_path(settings, volume_id)
        durable.make_directory(path.parent)
        self._backing = backing
        self._written: Mark | None = None
        with contextlib.ExitStack() as undo:
            self.fd = _open(path, undo)
            self._seen = _open(_seen_path(path), undo)
            mark = mark_of(backing)
            if mark is None or mark != read_mark(self._seen):
                # The core makes this durable before the volume can change.
                os.ftruncate(self.fd, 0)
            undo.pop_all()

    def note(self, *, durably: bool = False) -> None:
        """Write down the backing's mark if it is another one by now. Raises OSError; then the old one stays true."""
        if self.fd == -1:
            return
        mark = mark_of(self._backing)
        if mark is not None and mark != self._written:
            os.pwrite(self._seen, msgspec.json.encode(mark).ljust(_LENGTH), 0)
            self._written = mark
        if durably:
            os.fsync(self._seen)

    def close(self) -> None:
        """Close both. Idempotent."""
        for descriptor in {self.fd, self._seen} - {-1}:
            os.close(descriptor)
        self.fd = self._seen = -1


def change_file(spec: AttachmentSpec, backing: Backing, settings: Settings, notes: list[str]) -> ChangeFile | None:
    """The change file for an attachment that may write; None, with a note, where there can be none.

    Serving the volume matters more than its snapshots.
    """
    if spec.read_only:
        return None
    try:
        return ChangeFile(settings, spec.volume_id, backing.fd)
    except OSError as error:
        notes.append(_WITHOUT.format(error.strerror))
        return None


def opened_device(fd: int, changes: ChangeFile | None, notes: list[str], **options: Any) -> Device:
    """The core's device with its change file; where that cannot be written, without one and with a note.

    The change file speaks of an older state then, which the backing's mark shows as soon as something is written.
    """
    from ebscrypt.core import Device  # noqa: PLC0415 - the compiled core, which whoever only removes changes does not need

    if changes is not None:
        try:
            return Device(fd, change_file=changes.fd, **options)
        except OSError as error:
            notes.append(_WITHOUT.format(error.strerror))
            changes.close()
    return Device(fd, **options)


def read_mark(descriptor: int) -> Mark | None:
    """The mark that a daemon wrote down last; None where there is none, or half of one."""
    try:
        return msgspec.json.decode(os.pread(descriptor, _LENGTH, 0), type=Mark)
    except msgspec.DecodeError:
        return None


def _seen_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.seen")


def _open(path: Path, undo: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    undo.callback(os.close, descriptor)
    return descriptor

"""The runtime directory of one volume, from control's side; `ebscrypt.daemon.runtime` is the other, and draws it.

`attach` makes the directory, `detach` removes it. Between the two a daemon may die; then its lock is free and
``attachment.json`` is still there: the attachment is *lost*, and the next `attach` or `detach` deals with it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.control import locks
from ebscrypt.control.key_record import Watched
from ebscrypt.daemon.runtime import RuntimeDirectory
from ebscrypt.errors import EbscryptError, from_record
from ebscrypt.model import Attachment, AttachmentSpec, AttachmentState

_T = TypeVar("_T")


class Attached(NamedTuple):
    """How a volume is attached now. ``attachment`` is None while the first daemon has not said what it serves.

    ``watched`` is for those who describe a volume whose KMS key is to be watched (`describe`).
    """

    state: AttachmentState
    attachment: Attachment | None
    watched: Watched | None = None


def directory(settings: Settings, volume_id: str) -> RuntimeDirectory:
    return RuntimeDirectory(settings.runtime_dir(volume_id))


def write_spec(settings: Settings, spec: AttachmentSpec) -> None:
    """Say what the next daemon of this volume shall do; makes the directory.

    Raises `ConfigError` when the directory's name is too long for sockets in it, OSError.
    """
    place = directory(settings, spec.volume_id)
    place.check_socket_paths()
    place.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    durable.make_directory(place.path)
    (place.path / "failure.json").unlink(missing_ok=True)
    durable.write_file(place.path / "spec.json", msgspec.json.encode(spec))


def write_attachment(settings: Settings, attachment: Attachment) -> None:
    """Correct what the daemon wrote, after the volume has grown: it may not write here any more."""
    path = settings.runtime_dir(attachment.volume_id) / "attachment.json"
    durable.write_file(path, msgspec.json.encode(attachment))


def read_attachment(settings: Settings, volume_id: str) -> Attachment | None:
    """What the last daemon said that it serves; it may have died since."""
    return _read(settings, volume_id, "attachment.json", Attachment)


def read_failure(settings: Settings, volume_id: str) -> EbscryptError | None:
    """The error that the last daemon ended with, if it wrote one."""
    record = _read(settings, volume_id, "failure.json", dict[str, Any])
    return None if record is None else from_record(record)


def is_served(settings: Settings, volume_id: str) -> bool:
    """Whether a daemon lives and holds the volume's runtime lock; one that starts or ends counts."""
    try:
        descriptor = os.open(settings.runtime_dir(volume_id) / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def attachment_state(settings: Settings, volume_id: str) -> Attached | None:
    """How the volume is attached, for people to see; None when it is not.

    A running `attach` or `detach` is asked first, for it may be between two steps.
    """
    attachment = read_attachment(settings, volume_id)
    holder = locks.holder(settings, volume_id)
    if holder is not None and holder.command == "attach":
        return Attached(AttachmentState.ATTACHING, attachment)
    if holder is not None and holder.command == "detach" and attachment is not None:
        return Attached(AttachmentState.DETACHING, attachment)
    # The process is looked for first: a probe of the lock could be in the way of a daemon that is about to take it.
    if attachment is not None and is_process(attachment.pid, attachment.pid_start):
        return Attached(AttachmentState.ATTACHED, attachment)
    if is_served(settings, volume_id):
        return Attached(AttachmentState.ATTACHING, attachment)
    return None if attachment is None else Attached(AttachmentState.LOST, attachment)


def is_process(pid: int, start: int) -> bool:
    """Whether process ``pid`` runs and began at ``start`` clock ticks after boot: the same process, not a later one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    state, began = fields[0], int(fields[19])
    return began == start and state not in "ZX"


def remove(settings: Settings, volume_id: str) -> None:
    """Remove the directory of a volume whose daemon is gone and whose device is taken down."""
    import shutil  # noqa: PLC0415 - it brings all the archive formats along

    shutil.rmtree(settings.runtime_dir(volume_id), ignore_errors=True)


def _read(settings: Settings, volume_id: str, name: str, kind: type[_T]) -> _T | None:
    """The record in a file, or None when there is none. Records are whole or absent: one that is neither is none."""
    try:
        return msgspec.json.decode((settings.runtime_dir(volume_id) / name).read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None

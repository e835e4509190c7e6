"""The words of ebscrypt as frozen values: ids, sizes, volumes, attachments, and which state may follow which.

Everything that crosses a process boundary (catalog row, pipe, control socket, JSON output) is one of these records;
they carry no behaviour beyond checking themselves. Sizes are bytes everywhere inside; people write them with units.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import msgspec

from ebscrypt.errors import InvalidParameter, StateError

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

SECTOR_SIZES: Final = (512, 4096)
DEFAULT_SECTOR_SIZE: Final = 4096
DATA_KEY_SIZE: Final = 64
"""Bytes of a data key: two AES-256 keys, as XTS wants them and as EBS asks of KMS (facts §1.1)."""
MAX_VOLUME_SIZE: Final = 64 * TIB
"""EBS's own largest volume (facts §6.3: gp3 and io2)."""
CONTEXT_NAME: Final = "aws:ebs:id"
"""The one name in EBS's encryption context (facts §1.2)."""

_VOLUME_ID = re.compile(r"vol-[0-9a-f]{17}")
_SNAPSHOT_ID = re.compile(r"snap-[0-9a-f]{17}")
_KEY_NAMES = "8f6ed1c6-3c5e-4b0b-9d0a-52a1a4c0f5e7"
_SIZE = re.compile(r"([0-9]{1,20})\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"K": KIB, "M": MIB, "G": GIB, "T": TIB}


class VolumeState(StrEnum):
    """EC2's volume states (facts §6.2)."""

    CREATING = "creating"
    AVAILABLE = "available"
    IN_USE = "in-use"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR = "error"


VOLUME_TRANSITIONS: Final[dict[VolumeState, frozenset[VolumeState]]] = {
    VolumeState.CREATING: frozenset({VolumeState.AVAILABLE, VolumeState.ERROR}),
    VolumeState.AVAILABLE: frozenset({VolumeState.IN_USE, VolumeState.DELETING}),
    VolumeState.IN_USE: frozenset({VolumeState.AVAILABLE}),
    VolumeState.DELETING: frozenset({VolumeState.DELETED, VolumeState.AVAILABLE}),
    VolumeState.DELETED: frozenset(),
    VolumeState.ERROR: frozenset({VolumeState.DELETING}),
}


def check_transition(volume_id: str, old: VolumeState, new: VolumeState) -> None:
    """Raise `StateError` unless the table lets a volume go from ``old`` to ``new``."""
    if new not in VOLUME_TRANSITIONS[old]:
        raise StateError(f"volume {volume_id} is {old}: it cannot become {new}")


class SnapshotState(StrEnum):
    """EC2's snapshot states (facts §6.2) that there are here."""

    PENDING = "pending"
    COMPLETED = "completed"
    ERROR = "error"


SNAPSHOT_TRANSITIONS: Final[dict[SnapshotState, frozenset[SnapshotState]]] = {
    SnapshotState.PENDING: frozenset({SnapshotState.COMPLETED, SnapshotState.ERROR}),
    SnapshotState.COMPLETED: frozenset(),
    SnapshotState.ERROR: frozenset(),
}


def check_snapshot_transition(snapshot_id: str, old: SnapshotState, new: SnapshotState) -> None:
    """Raise `StateError` unless the table lets a snapshot go from ``old`` to ``new``."""
    if new not in SNAPSHOT_TRANSITIONS[old]:
        raise StateError(f"snapshot {snapshot_id} is {old}: it cannot become {new}")


class ExportKind(StrEnum):
    """How an attachment is reached. ``auto`` is a wish: nbd, else fuse with a loop device, else socket."""

    AUTO = "auto"
    NBD = "nbd"
    FUSE = "fuse"
    SOCKET = "socket"


class CacheMode(StrEnum):
    """How the backing is opened: through the page cache, or past it with O_DIRECT (qemu's words)."""

    WRITEBACK = "writeback"
    NONE = "none"


class BackingKind(StrEnum):
    FILE = "file"
    BLOCK = "block"


class OnKeyUnusable(StrEnum):
    """What becomes of an attached volume whose KMS key cannot be used any more. ``ignore`` is what EBS does."""

    IGNORE = "ignore"
    READ_ONLY = "read-only"
    SUSPEND = "suspend"
    DETACH = "detach"


class Access(StrEnum):
    """What an attached volume lets its users do now. ``suspended``: requests wait."""

    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    SUSPENDED = "suspended"


class AttachmentState(StrEnum):
    """EC2's attachment states that a user can see here, and one of ours: ``lost``, the daemon died."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    LOST = "lost"


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A volume as the catalog keeps it. ``size`` in bytes; ``kms_key_arn`` always a full key ARN, None when plain.

    ``backing_owned`` says that ebscrypt made the file and may remove it; a block device or a file that the user named
    is never removed. ``was_attached`` says that it has been attached and was not detached by command since: whatever
    ended that attachment was a crash, a reboot or systemd. ``attach_failure`` is why the last try to attach it failed.
    """

    volume_id: str
    state: VolumeState
    size: int
    backing: str
    backing_kind: BackingKind
    backing_owned: bool
    encrypted: bool
    sector_size: int = DEFAULT_SECTOR_SIZE
    kms_key_arn: str | None = None
    volume_type: str = "gp3"
    snapshot_id: str | None = None
    create_time: datetime
    tags: dict[str, str] = {}
    state_message: str | None = None
    on_key_unusable: OnKeyUnusable = OnKeyUnusable.IGNORE
    was_attached: bool = False
    attach_failure: str | None = None


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A snapshot as the catalog keeps it. ``volume_size``, ``bytes_done`` and ``bytes_total`` in bytes.

    ``volume_id`` is the source volume, which may be gone, also of a copy. ``kms_key_arn`` is a full key ARN, None when
    plain; ``data_encryption_key_id`` is equal for all that has the same data key. ``start_time`` is the point in time
    of the data. ``store`` is a name of the settings or a URL. ``digest`` (hexadecimal) is the manifest's, by which the
    catalog knows it again. ``parent`` is the snapshot that this one was made on top of, ``copied_from`` the source of a
    copy. ``deleting`` says that a deletion has begun: nothing may be made from it any more.
    """

    snapshot_id: str
    volume_id: str
    state: SnapshotState
    volume_size: int
    sector_size: int
    encrypted: bool
    kms_key_arn: str | None = None
    data_encryption_key_id: str | None = None
    description: str = ""
    start_time: datetime
    completion_time: datetime | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    store: str
    digest: str | None = None
    parent: str | None = None
    copied_from: str | None = None
    state_message: str | None = None
    deleting: bool = False
    tags: dict[str, str] = {}


class AttachmentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What control asks of a volume's daemon: written as ``spec.json`` before the daemon starts.

    ``size`` (bytes) and ``kms_key_arn`` are what the catalog has, and the header must agree: who can write to the
    backing must not choose the key. None where there is no catalog to ask. ``nbd_index`` asks to take up an existing
    /dev/nbdN again after a crash. ``grant_token`` makes the grant for this attachment effective at once (facts §5.2).
    ``fill_file`` says which blocks of the volume are still to come.
    """

    volume_id: str
    backing: str
    backing_kind: BackingKind
    encrypted: bool
    size: int
    kms_key_arn: str | None = None
    export: ExportKind = ExportKind.AUTO
    read_only: bool = False
    cache: CacheMode = CacheMode.WRITEBACK
    discard: bool = True
    nbd_index: int | None = None
    on_key_unusable: OnKeyUnusable = OnKeyUnusable.IGNORE
    grant_token: str | None = None
    fill_file: str | None = None

    def __repr__(self) -> str:
        return f"AttachmentSpec({self.volume_id})"


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An attachment as its daemon describes it in ``attachment.json``, once the device answers.

    ``device`` is what `attach` prints: /dev/nbdN, /dev/loopN, the path of the FUSE file, or an nbd+unix URI.
    ``pid`` and ``pid_start`` (clock ticks since boot, field 22 of /proc/PID/stat) name the process beyond doubt.
    ``key_memory`` is ``memfd_secret``, ``memfd`` (the fallback) or None for a plain volume. ``notes`` are what the
    user should know: which protections this machine could not give.
    """

    volume_id: str
    pid: int
    pid_start: int
    export: ExportKind
    device: str
    socket: str | None = None
    nbd_index: int | None = None
    loop_device: str | None = None
    mountpoint: str | None = None
    backing: str
    size: int
    read_only: bool
    key_memory: str | None
    attach_time: datetime
    notes: list[str] = []


def new_volume_id() -> str:
    """A fresh id: ``vol-`` and 17 lower-case hexadecimal digits (facts §6.1), 68 random bits."""
    return f"vol-{os.urandom(9).hex()[:17]}"


def check_volume_id(text: str) -> str:
    """Return ``text`` if it is a volume id, else raise `InvalidParameter`."""
    if not _VOLUME_ID.fullmatch(text):
        raise InvalidParameter(
            f"{_shown(text)!r} is not a volume id",
            hint="a volume id is vol- and 17 hexadecimal digits: see `ebscrypt ls`",
        )
    return text


def new_snapshot_id() -> str:
    """A fresh id: ``snap-`` and 17 lower-case hexadecimal digits (facts §6.1), 68 random bits."""
    return f"snap-{os.urandom(9).hex()[:17]}"


def check_snapshot_id(text: str) -> str:
    """Return ``text`` if it is a snapshot id, else raise `InvalidParameter`. It becomes a part of paths."""
    if not _SNAPSHOT_ID.fullmatch(text):
        raise InvalidParameter(
            f"{_shown(text)!r} is not a snapshot id",
            hint="a snapshot id is snap- and 17 hexadecimal digits: see `ebscrypt snapshot ls`",
        )
    return text


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}… ({len(text)} characters)"


def new_data_encryption_key_id() -> str:
    """A fresh name of a data key: a UUID, which tells nothing of the key."""
    import uuid  # noqa: PLC0415 - few commands need it, all import this module

    return str(uuid.uuid4())


def data_encryption_key_id(volume_id: str, named: str | None) -> str:
    """The name of a volume's data key: the one in its header's token, or for a header without one derived of the id."""
    import uuid  # noqa: PLC0415 - the same

    return named or str(uuid.uuid5(uuid.UUID(_KEY_NAMES), volume_id))


def parse_size(text: str) -> int:
    """Bytes of a size as people write it: ``10G``, ``512MiB``, ``4096``. Units are powers of 1024, as in EBS."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidParameter(f"{text[:40]!r} is not a size", hint="write a whole number and K, M, G or T: 10G")
    number, unit = match.groups()
    return int(number) * (_UNITS[unit.upper()] if unit else 1)


def format_size(size: int) -> str:
    """A size as people read it: the largest unit that leaves a short exact number, else one decimal."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            return f"{size // factor} {unit}" if size % factor == 0 else f"{size / factor:.1f} {unit}"
    return f"{size} B"


def check_volume_size(size: int, sector_size: int) -> int:
    """Return ``size`` in bytes if a volume may have it, else raise `InvalidParameter` naming the limit."""
    if sector_size not in SECTOR_SIZES:
        raise InvalidParameter(f"sector size {sector_size} is not one of 512 and 4096")
    if size <= 0:
        raise InvalidParameter(f"volume size {size} is not positive", hint="give --size, for example --size 10G")
    if size % sector_size:
        raise InvalidParameter(
            f"volume size {size} is not a multiple of the sector size {sector_size}",
            hint=f"the next one is {-(-size // sector_size) * sector_size}",
        )
    if size > MAX_VOLUME_SIZE:
        raise InvalidParameter(
            f"volume size {format_size(size)} is over the largest volume, {format_size(MAX_VOLUME_SIZE)}"
        )
    return size


def encryption_context(volume_id: str) -> dict[str, str]:
    """The encryption context of a volume: ``{"aws:ebs:id": …}`` and nothing else (facts §1.2)."""
    return {CONTEXT_NAME: volume_id}


def utc_now() -> datetime:
    """The time with its zone, to the millisecond, as EC2 prints it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)

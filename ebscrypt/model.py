"""The words of ebscrypt as frozen values: ids, sizes, volumes, attachments, and which state may follow which.

Everything that crosses a process boundary (catalog row, pipe, control socket, JSON output) is one of these records;
they carry no behaviour beyond checking themselves. Sizes are bytes everywhere inside; people write them with units.
"""

from __future__ import annotations

import re
import secrets
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
    is never removed. ``was_attached`` says that a crash or a reboot ended its last attachment, not `detach`.
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


class AttachmentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What control asks of a volume's daemon: written as ``spec.json`` before the daemon starts.

    ``size`` (bytes) and ``kms_key_arn`` are what the catalog has, and the header must agree: who can write to the
    backing must not choose the key. None where there is no catalog to ask. ``nbd_index`` asks to take up an existing
    /dev/nbdN again after a crash. ``grant_token`` makes the grant for this attachment effective at once (facts §5.2).
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
    return f"vol-{secrets.token_hex(9)[:17]}"


def check_volume_id(text: str) -> str:
    """Return ``text`` if it is a volume id, else raise `InvalidParameter`."""
    if not _VOLUME_ID.fullmatch(text):
        shown = text if len(text) <= 40 else f"{text[:40]}… ({len(text)} characters)"
        raise InvalidParameter(
            f"{shown!r} is not a volume id", hint="a volume id is vol- and 17 hexadecimal digits: see `ebscrypt ls`"
        )
    return text


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

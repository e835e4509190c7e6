"""From an attachment spec to an open device: backing, header, data key, core.

Everything that serves a volume starts here: the daemon, and the nbdkit plugin.

    backing opened and locked → header read (a bad copy mended) → data key unwrapped by KMS, or taken over from an
    earlier life of the daemon → checked against the header's digest, or the header sealed with it → core device

Nothing is served before the last step, and whatever fails undoes the ones before it.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

import msgspec

from ebscrypt import luks2
from ebscrypt.config import Settings
from ebscrypt.core import Device, SecretMemory
from ebscrypt.daemon.backing import Backing
from ebscrypt.daemon.changes import ChangeFile, change_file, opened_device
from ebscrypt.daemon.fill_file import fill_file, fill_file_told
from ebscrypt.daemon.volume_key import data_key, seal
from ebscrypt.errors import BackingError, InvalidParameter, KeyMismatch, StateError
from ebscrypt.model import Access, AttachmentSpec, check_volume_size, format_size

PLAIN_BLOCK_SIZE = 512
"""Logical block size of a plain volume: what the same bytes have on any disk, so that partition tables stay true."""


class OpenVolume:
    """A volume whose bytes can be read and written by ``device``; made by `open_volume`. A context manager.

    ``block_size`` is the logical block size that every export must show: the header's sector size, as dm-crypt shows
    it, so that a file system made here can be mounted by stock cryptsetup and by every other export. ``key_memory`` is
    the kind of memory that held the data key (`SecretMemory.kind`), ``key`` that memory where it was to be kept.
    """

    def __init__(
        self, spec: AttachmentSpec, backing: Backing, device: Device, *, data_offset: int, block_size: int
    ) -> None:
        self.spec = spec
        self.backing = backing
        self.device = device
        self.data_offset = data_offset
        self.block_size = block_size
        self.key: SecretMemory | None = None
        self.key_memory: str | None = None
        self.changes: ChangeFile | None = None

    def grow(self, size: int) -> None:
        """Let the volume end at ``size`` bytes: first the backing, then the header, then the device.

        A crash in between leaves a volume of the old size, or of the new one. The same size again does nothing but
        finish what was interrupted; where the header has the size already (a block device's can only be written by
        root, which the daemon no longer is) only the rest is done. Raises `InvalidParameter` for a smaller size or an
        impossible one, `StateError` when read-only, `OutOfSpace`, `HeaderError`, OSError.
        """
        if self.spec.read_only:
            raise StateError(f"volume {self.spec.volume_id} is attached read-only", hint="detach it first")
        now = self.device.size
        if size < now:
            raise InvalidParameter(
                f"volume {self.spec.volume_id} has {format_size(now)}: it cannot shrink to {format_size(size)}",
                hint="make a smaller volume and copy what is in use",
            )
        check_volume_size(size, self.block_size)
        self.backing.extend(self.data_offset + size)
        if self.spec.encrypted:
            header = luks2.read_header(self.backing.fd, volume_id=self.spec.volume_id).header
            if header.segment().size != size:
                luks2.write_header(self.backing.fd, header.with_segment_size(size))
        self.device.grow(size)

    @property
    def access(self) -> Access:
        """What requests may do now."""
        return Access(self.device.access)

    def close(self) -> None:
        """Flush, wipe the keys, close and unlock the backing. Idempotent.

        Raises OSError if the flush failed; the keys are wiped and the backing is unlocked all the same.
        """
        try:
            self.device.close()
            if self.changes is not None and self.backing.fd != -1:
                with contextlib.suppress(OSError):  # then everything counts as changed
                    self.changes.note(durably=True)
        finally:
            if self.key is not None:
                self.key.wipe()
            if self.changes is not None:
                self.changes.close()
            self.backing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_volume(
    spec: AttachmentSpec,
    settings: Settings,
    notes: list[str],
    *,
    stored_key: SecretMemory | None = None,
    keep_key: bool = False,
    tracked: bool = False,
) -> OpenVolume:
    """Open the volume of ``spec``. ``notes`` is added to: what was mended, which protection is missing.

    ``stored_key`` is the data key from an earlier life of this attachment; it is checked like any other, taken over,
    and makes the call to KMS unnecessary. ``keep_key`` keeps the raw key's memory in `OpenVolume.key`; otherwise it is
    wiped as soon as the core has its round keys. ``tracked`` notes which blocks change, for snapshots, where the volume
    may be written to. Raises `BackingError`, `NotPermitted`, `HeaderError`, `KmsError`.
    """
    with contextlib.ExitStack() as undo:
        if stored_key is not None:
            undo.callback(stored_key.wipe)
        backing = Backing(spec)
        undo.callback(backing.close)
        # Before anything is written to the backing, which ends what an older change file can be believed of.
        changes = change_file(spec, backing, settings, notes) if tracked else None
        if changes is not None:
            undo.callback(changes.close)
        if spec.encrypted:
            volume = _open_encrypted(
                spec, backing, settings, notes, undo, stored_key=stored_key, keep_key=keep_key, changes=changes
            )
        else:
            volume = _open_plain(spec, backing, settings, changes, notes)
        volume.changes = changes
        undo.pop_all()
    return volume


def _open_plain(
    spec: AttachmentSpec, backing: Backing, settings: Settings, changes: ChangeFile | None, notes: list[str]
) -> OpenVolume:
    if backing.size < spec.size:
        raise BackingError(
            f"the backing {backing.path} has {backing.size} bytes, but the volume has {spec.size}: it was cut off",
            hint="bring the whole backing back from a copy; nothing has been changed",
        )
    with fill_file(spec, filling=False) as missing, fill_file_told(spec):
        device = opened_device(
            backing.data_fd,
            changes,
            notes,
            size=spec.size,
            read_only=spec.read_only,
            discard=spec.discard,
            fill_file=missing,
            fill_patience=_patience(settings),
        )
    return OpenVolume(spec, backing, device, data_offset=0, block_size=PLAIN_BLOCK_SIZE)


def _open_encrypted(
    spec: AttachmentSpec,
    backing: Backing,
    settings: Settings,
    notes: list[str],
    undo: contextlib.ExitStack,
    *,
    stored_key: SecretMemory | None,
    keep_key: bool,
    changes: ChangeFile | None,
) -> OpenVolume:
    header = _read_header(spec, backing, notes)
    if not header.filling:
        # Whole since the spec was written.
        spec = msgspec.structs.replace(spec, fill_file=None)
    segment = header.segment()
    size = segment.size_on(backing.size)
    if size != spec.size:
        raise StateError(
            f"the header of volume {spec.volume_id} says {size} bytes, the catalog {spec.size}",
            hint=f"`ebscrypt check {spec.volume_id}` says which is true and mends the other",
        )
    # Before KMS is asked, whose refusal would not say what is wrong.
    header.token().check_binding(spec.volume_id, spec.kms_key_arn)
    key = data_key(spec, header, settings, notes, stored_key)
    undo.callback(key.wipe)
    if not header.token().sealed:
        seal(spec, backing, header, key, notes)
    try:
        with fill_file(spec, filling=header.filling) as missing, fill_file_told(spec):
            device = opened_device(
                backing.data_fd,
                changes,
                notes,
                size=size,
                data_offset=segment.data_offset,
                sector_size=segment.sector_size,
                key=key,
                read_only=spec.read_only,
                discard=spec.discard,
                fill_file=missing,
                fill_patience=_patience(settings),
            )
    except ValueError as error:
        # The digest matched and the header was checked: what is left is a key whose two halves are the same.
        raise KeyMismatch(f"the data key of volume {spec.volume_id} cannot be one: {error}") from error
    volume = OpenVolume(spec, backing, device, data_offset=segment.data_offset, block_size=segment.sector_size)
    volume.key_memory = key.kind
    if keep_key:
        volume.key = key
    else:
        key.wipe()
    return volume


def _patience(settings: Settings) -> float:
    """Seconds for which a request waits for a block: the kernel must not hang up before it has its answer."""
    return settings.attach.io_timeout / 2


def _read_header(spec: AttachmentSpec, backing: Backing, notes: list[str]) -> luks2.Header:
    """The header that counts; a bad copy is written again from it, unless we may not write."""
    reading = luks2.read_header(backing.fd, volume_id=spec.volume_id)
    if reading.repair is not None and spec.read_only:
        notes.append(f"{reading.repair}; it stays as it is, because the volume is attached read-only")
    elif reading.repair is not None:
        reading = luks2.repair_header(backing.fd, volume_id=spec.volume_id)
        notes.append(f"{reading.repair}; it was written again from the good copy")
    return reading.header

"""`resize_volume`: a volume grows, attached or not; it never shrinks, as in EBS.

The intent is written first and the catalog's size last; between them each step may be repeated, so that a crash at any
point leaves a volume of the old size or the new one, and `recover` makes the rest of the way:

    catalog    target_size noted
    backing    long enough
    header     the segment has the new size (an attached file: its daemon writes it, for it holds the header's lock)
    device     the daemon serves the new size, then the kernel's device has it
    catalog    size, and no target
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from ebscrypt import luks2
from ebscrypt.control import backing, faultpoints, headers, runtime, sidecar
from ebscrypt.control.attach import refuse_unless_served
from ebscrypt.control.create import data_offset
from ebscrypt.control.fill_job import refuse_while_filling
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.control.unfinished import refuse_while_read
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.exports.teardown import grow
from ebscrypt.errors import BackingError, BackingMissing, EbscryptError, InvalidParameter, OutOfSpace, StateError
from ebscrypt.model import (
    Attachment,
    BackingKind,
    Volume,
    VolumeState,
    check_volume_size,
    format_size,
)

GROW_TIMEOUT: Final = 60.0
"""Seconds for the daemon to write the header twice and tell the core."""


def resize_volume(site: Site, volume_id: str, size: int) -> Volume:
    """Let the volume have ``size`` bytes. The same size again changes nothing.

    A file system on it is not touched: grow it afterwards (resize2fs, xfs_growfs). Raises `InvalidParameter` for a
    smaller or impossible size, `StateError`, `OutOfSpace`, and what the daemon raised; then the old size stays.
    """
    with on_volume(site, volume_id, "resize"):
        volume = site.catalog.volume(volume_id)
        attachment = _check(site, volume, size)
        if size == volume.size:
            return volume
        refuse_while_read(site, volume, "resized")
        refuse_while_filling(site, volume_id, "resized")
        if volume.encrypted:
            headers.read(volume)  # of one that is being re-encrypted it is not to be changed, and the backing neither
        site.catalog.begin_resize(volume_id, volume.state, size)
        faultpoints.reach("resize.noted")
        try:
            return finish_resize(site, volume, attachment, size)
        except Exception:
            undo_resize(site, volume)
            raise


def _check(site: Site, volume: Volume, size: int) -> Attachment | None:
    """Refuse what cannot be; the attachment, where the volume has one."""
    if volume.state not in (VolumeState.AVAILABLE, VolumeState.IN_USE):
        raise StateError(f"volume {volume.volume_id} is {volume.state}: it cannot be resized")
    check_volume_size(size, volume.sector_size)
    if size < volume.size:
        raise InvalidParameter(
            f"volume {volume.volume_id} has {format_size(volume.size)}: it cannot shrink to {format_size(size)}",
            hint="make a smaller volume and copy what is in use",
        )
    found = backing.find(volume.backing)
    if found is None:
        raise BackingMissing(f"the backing {volume.backing} of volume {volume.volume_id} is not there")
    room = found.size - data_offset(encrypted=volume.encrypted)
    if found.kind is BackingKind.BLOCK and size > room:
        raise OutOfSpace(
            f"{volume.backing} has room for a volume of {room} bytes, not of {size}",
            hint="enlarge the block device first (lvextend, or its provider's own way)",
        )
    if volume.state is VolumeState.AVAILABLE:
        return None
    attachment = refuse_unless_served(site, volume.volume_id)
    if attachment.read_only:
        raise StateError(f"volume {volume.volume_id} is attached read-only", hint="detach it first")
    return attachment


def finish_resize(site: Site, volume: Volume, attachment: Attachment | None, size: int) -> Volume:
    """All steps after the note; safe to repeat. The caller holds the volume's lock."""
    if volume.backing_kind is BackingKind.FILE:
        _extend(volume, size)
        faultpoints.reach("resize.extended")
    if volume.encrypted and (attachment is None or volume.backing_kind is BackingKind.BLOCK):
        _write_header(volume, size, attached=attachment is not None)
        faultpoints.reach("resize.described")
    if attachment is not None:
        _grow_device(site, attachment, size)
    if not volume.encrypted:
        sidecar.write_sidecar(site.settings, msgspec.structs.replace(volume, size=size))
        faultpoints.reach("resize.described")
    resized = site.catalog.end_resize(volume.volume_id, size)
    faultpoints.reach("resize.done")
    return resized


def _extend(volume: Volume, size: int) -> None:
    length = data_offset(encrypted=volume.encrypted) + size
    with backing.translated(volume.backing, "extend", length):
        descriptor = os.open(volume.backing, os.O_RDWR | os.O_CLOEXEC)
        try:
            backing.extend(descriptor, length)
        finally:
            os.close(descriptor)


def _write_header(volume: Volume, size: int, *, attached: bool) -> None:
    if attached:
        # The daemon has the block device exclusively, but as another user could not take cryptsetup's lock: we can.
        with backing.translated(volume.backing, "open"):
            descriptor = os.open(volume.backing, os.O_RDWR | os.O_CLOEXEC)
        try:
            _update(descriptor, volume, size)
        finally:
            os.close(descriptor)
        return
    with backing.claimed(volume.backing, volume.backing_kind) as descriptor:
        _update(descriptor, volume, size)


def _update(descriptor: int, volume: Volume, size: int) -> None:
    with backing.translated(volume.backing, "write the header of"):
        reading = luks2.read_header(descriptor, volume_id=volume.volume_id)
        if reading.header.segment().size != size:
            luks2.write_header(descriptor, reading.header.with_segment_size(size))
        elif reading.repair is not None:
            # An earlier try was cut off between the two copies.
            luks2.repair_header(descriptor, volume_id=volume.volume_id)


def _grow_device(site: Site, attachment: Attachment, size: int) -> None:
    volume_id = attachment.volume_id
    with DaemonClient(runtime.directory(site.settings, volume_id).control_socket) as daemon:
        daemon.call("grow", timeout=GROW_TIMEOUT, size=size)
    faultpoints.reach("resize.served")
    grow(attachment, size)
    runtime.write_attachment(site.settings, msgspec.structs.replace(attachment, size=size))
    faultpoints.reach("resize.grown")


def undo_resize(site: Site, volume: Volume) -> None:
    """After a failure: the old size again, unless the new one is in the header already; then `recover` goes on.

    What the file was lengthened by is a hole; it stays where it is not ours to cut, or where a daemon serves it.
    """
    try:
        if _described_size(volume) != volume.size:
            return
        if volume.backing_owned and volume.state is VolumeState.AVAILABLE:
            with backing.translated(volume.backing, "shorten"):
                os.truncate(volume.backing, data_offset(encrypted=volume.encrypted) + volume.size)
    except (EbscryptError, OSError) as error:
        site.notes.append(f"the resize of {volume.volume_id} could not be taken back yet: {error}")
        return
    site.catalog.end_resize(volume.volume_id, volume.size)


def _described_size(volume: Volume) -> int | None:
    """The size that the volume's own description has."""
    if not volume.encrypted:
        return volume.size
    try:
        descriptor = os.open(volume.backing, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BackingError(f"cannot open {Path(volume.backing)}: {error.strerror}") from error
    try:
        return luks2.read_header(descriptor, volume_id=volume.volume_id).header.segment().size
    finally:
        os.close(descriptor)

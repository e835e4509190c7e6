"""Taking a volume's traces away: its file, or on a backing that is not ours the header that makes it a volume.

Without the header an encrypted volume is gone for good: the only copy of its wrapped key was in there. What the user
named is never removed, and a header is only overwritten when it is this volume's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ebscrypt import durable, luks2
from ebscrypt.control import backing, faultpoints, fill_job, sidecar
from ebscrypt.control.site import Site
from ebscrypt.daemon.changes import remove_changes
from ebscrypt.errors import BackingError, HeaderError
from ebscrypt.model import MIB, BackingKind, Volume

_LABEL_AT: Final = 24
"""Offset of the label in the binary part of a header copy (LUKS2 On-Disk Format Specification, section 2.1)."""
_SECTOR: Final = 512
_PAGE: Final = 4096
_MAGICS: Final = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")


def remove_traces(site: Site, volume: Volume) -> None:
    """Remove what `create` made of ``volume``, as far as it is there; safe to repeat. Notes go to ``site.notes``.

    Raises `BackingInUse` before anything is changed, and `BackingError` when the backing cannot be written.
    """
    if volume.state_message is not None and not volume.backing_owned:
        # Its creation failed, and took back then what it had done: the backing may be another volume's by now.
        return
    found = backing.find(volume.backing)
    if found is None:
        if not volume.backing_owned:
            site.notes.append(f"{volume.backing} is not there: nothing to erase")
    elif volume.backing_owned:
        _remove_file(site, volume)
    elif volume.encrypted:
        _erase(site, volume, found)
    else:
        site.notes.append(f"{volume.backing} keeps its content: a plain volume has nothing of its own on it")
    remove_changes(site.settings, volume.volume_id)
    if not volume.encrypted:
        sidecar.remove_sidecar(site.settings, volume.volume_id)
    fill_job.abandon(site, volume.volume_id)


def _remove_file(site: Site, volume: Volume) -> None:
    """The header first: the wrapped key should not outlive the volume in the free space of the file system."""
    with backing.claimed(volume.backing, BackingKind.FILE) as descriptor, backing.translated(volume.backing, "remove"):
        if volume.encrypted:
            try:
                overwrite(descriptor, luks2.DATA_OFFSET)
            except OSError as error:
                # A bad or full disk: better a removed file with its header than a volume that cannot be deleted.
                site.notes.append(f"the header of {volume.volume_id} was not overwritten: {error.strerror}")
            faultpoints.reach("remains.erased")
        durable.remove_file(Path(volume.backing))


def _erase(site: Site, volume: Volume, found: backing.Backing) -> None:
    with backing.claimed(found.path, found.kind) as descriptor, backing.translated(found.path, "erase"):
        if carries(descriptor, volume.volume_id):
            overwrite(descriptor, luks2.DATA_OFFSET)
            faultpoints.reach("remains.erased")
        elif any(os.pread(descriptor, backing.EDGE, 0)):
            site.notes.append(f"{found.path} does not hold volume {volume.volume_id} any more: left as it is")


def carries(descriptor: int, volume_id: str) -> bool:
    """Whether a header of this volume is there, be it damaged or half written: its token says so, or a copy's label."""
    for offset in (0, *luks2.COPY_SIZES):
        start = os.pread(descriptor, _SECTOR, offset)
        label = start[_LABEL_AT : _LABEL_AT + 48].partition(b"\0")[0]
        if start.startswith(_MAGICS) and label == volume_id.encode():
            return True
    try:
        return luks2.read_header(descriptor, reencrypting=True).header.token().volume_id == volume_id
    except (HeaderError, BackingError):
        return False


def overwrite(descriptor: int, length: int) -> None:
    """Zeros where something else is, durably, and nowhere else: a sparse file stays sparse. Raises OSError."""
    for offset in range(0, min(length, luks2.backing_size(descriptor)), MIB):
        present = os.pread(descriptor, min(MIB, length - offset), offset)
        for start in range(0, len(present), _PAGE):
            page = present[start : start + _PAGE]
            if any(page):
                os.pwrite(descriptor, bytes(len(page)), offset + start)
    os.fsync(descriptor)

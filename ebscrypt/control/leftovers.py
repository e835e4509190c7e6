"""What a daemon may leave in the kernel when it dies before it could write down what it made.

The kernel itself tells whose a device is: the backend of /dev/nbdN and the file of a loop device carry the volume's id.
Nobody was ever told of such a device, so nobody uses it.
"""

from __future__ import annotations

from pathlib import Path

from ebscrypt.control import runtime
from ebscrypt.control.site import Site
from ebscrypt.daemon.exports.teardown import teardown
from ebscrypt.errors import EbscryptError
from ebscrypt.model import Attachment, ExportKind, utc_now


def remove_leftovers(site: Site, volume_id: str) -> None:
    """Take down devices and mounts of ``volume_id`` and remove its runtime directory. Its daemon must be dead.

    What cannot be taken down becomes a note.
    """
    place = runtime.directory(site.settings, volume_id)
    found = [
        _unknown(volume_id, ExportKind.NBD, nbd_index=int(entry.parent.name.removeprefix("nbd")))
        for entry in Path("/sys/block").glob("nbd*/backend")
        if _read(entry) == volume_id
    ]
    loops = [
        f"/dev/{entry.parent.parent.name}"
        for entry in Path("/sys/block").glob("loop*/loop/backing_file")
        if Path(_read(entry).removesuffix(" (deleted)")).name == volume_id
    ]
    found += [_unknown(volume_id, ExportKind.FUSE, loop_device=device) for device in loops]
    found.append(_unknown(volume_id, ExportKind.FUSE, mountpoint=str(place.mountpoint)))
    for attachment in found:
        try:
            teardown(attachment, force=True)
        except (EbscryptError, OSError) as error:
            site.notes.append(f"{attachment.device or attachment.mountpoint} of {volume_id} is left: {error}")
    runtime.remove(site.settings, volume_id)


def _unknown(
    volume_id: str,
    export: ExportKind,
    *,
    nbd_index: int | None = None,
    loop_device: str | None = None,
    mountpoint: str | None = None,
) -> Attachment:
    """As much of an attachment as `teardown` needs."""
    return Attachment(
        volume_id=volume_id,
        pid=0,
        pid_start=0,
        export=export,
        device=loop_device or (f"/dev/nbd{nbd_index}" if nbd_index is not None else ""),
        nbd_index=nbd_index,
        loop_device=loop_device,
        mountpoint=mountpoint,
        backing="",
        size=0,
        read_only=False,
        key_memory=None,
        attach_time=utc_now(),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return ""

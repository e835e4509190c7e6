"""``/dev/disk/by-id/ebscrypt-vol-…`` where no udev runs to make it: a stable name for fstab and for people."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from ebscrypt.model import Attachment, ExportKind

BY_ID: Path = Path("/dev/disk/by-id")
_UDEV: Final = Path("/run/udev/control")


def link_path(volume_id: str) -> Path:
    return BY_ID / f"ebscrypt-{volume_id}"


def make_link(attachment: Attachment) -> None:
    """Make the link to the attachment's block device, if it has one. Nothing where udev runs, or without the right."""
    device = attachment.loop_device or (attachment.device if attachment.export is ExportKind.NBD else None)
    if device is None or _UDEV.exists() or os.geteuid() != 0:
        return
    path = link_path(attachment.volume_id)
    with contextlib.suppress(OSError):
        for directory in (path.parent.parent, path.parent):
            if not directory.is_dir():
                directory.mkdir()
                # Everybody may look here, whatever this process's umask is.
                directory.chmod(0o755)
        new = path.with_name(f".{path.name}")
        new.unlink(missing_ok=True)
        new.symlink_to(device)
        new.replace(path)


def remove_link(volume_id: str) -> None:
    """Remove the link that `make_link` made. Nothing where udev runs: it removes its own."""
    if not _UDEV.exists():
        with contextlib.suppress(OSError):
            link_path(volume_id).unlink()

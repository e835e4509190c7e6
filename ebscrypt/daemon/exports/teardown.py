"""What an attachment has in the kernel, seen and taken down from outside its daemon, which may be dead.

The daemon gave up its privileges before it served the first byte, so these run in control, as whoever attached. They
touch nothing that is not the volume's any more: an index or a loop device may have gone to somebody else since.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.exports import loop, mount, nbd_device
from ebscrypt.errors import DaemonError
from ebscrypt.model import Attachment, ExportKind

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds the kernel may take to let go of a device."""
FLUSH_TIMEOUT: Final = 300.0
"""Seconds for the daemon to make everything durable: a slow disk has gigabytes of page cache to write."""


def flush(attachment: Attachment) -> None:
    """Make everything written through the device so far durable. Raises `DaemonError` or what the daemon raised."""
    if attachment.socket is not None:
        with DaemonClient(Path(attachment.socket).with_name("control.sock")) as daemon:
            daemon.call("flush", timeout=FLUSH_TIMEOUT)
        return
    try:
        descriptor = os.open(attachment.device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DaemonError(
            f"cannot flush {attachment.device}: {error.strerror}",
            hint=f"`ebscrypt detach --force {attachment.volume_id}` detaches it; what was not written is lost",
        ) from error


def grow(attachment: Attachment, size: int) -> None:
    """Let the kernel's device have ``size`` bytes, after the daemon has grown the volume. Raises `DaemonError`.

    NBD has no message for a new size: clients of a socket see it when they connect again.
    """
    try:
        if attachment.export is ExportKind.NBD and attachment.nbd_index is not None:
            with nbd_device.open_control() as control:
                nbd_device.resize(control, attachment.volume_id, index=attachment.nbd_index, size=size)
        elif attachment.loop_device is not None and attachment.mountpoint is not None:
            # The kernel knows the file's size from the last answer of the daemon: this asks for a new one.
            (Path(attachment.mountpoint) / attachment.volume_id).stat()
            loop.refresh_size(attachment.loop_device)
    except OSError as error:
        raise DaemonError(
            f"the volume has {size} bytes, but {attachment.device} cannot be told: {error.strerror}",
            hint="detach and attach it again",
        ) from error


def is_gone(attachment: Attachment) -> bool:
    """Whether nothing of the export is left in the kernel or the file system."""
    if attachment.export is ExportKind.NBD:
        return attachment.nbd_index is None or not nbd_device.belongs_to(attachment.nbd_index, attachment.volume_id)
    if attachment.loop_device is not None and loop.is_over(attachment.loop_device, attachment.volume_id):
        return False
    if attachment.mountpoint is not None and mount.is_mounted(Path(attachment.mountpoint)):
        return False
    return attachment.socket is None or not Path(attachment.socket).exists()


def teardown(attachment: Attachment, *, force: bool = False, timeout: float = DEFAULT_TIMEOUT) -> None:
    """Take down what `is_gone` looks for: idempotent, and the same whether the daemon lives or not.

    Call `flush` first: what the kernel has not written when the device ends is lost. Raises `DaemonError` while
    something is in use. With ``force`` that is not asked: users of the device get errors, and what is left of it goes
    when the last of them does.
    """
    # The kernel takes the request even where somebody has the device open, and finishes it at the last close.
    in_use = contextlib.suppress(DaemonError) if force else contextlib.nullcontext()
    patience = 0 if force else timeout
    if attachment.export is ExportKind.NBD and attachment.nbd_index is not None:
        with in_use:
            _disconnect(attachment.volume_id, attachment.nbd_index, patience)
    if attachment.loop_device is not None:
        with in_use:
            loop.detach(attachment.loop_device, attachment.volume_id, timeout=patience)
    if attachment.mountpoint is not None:
        mount.unmount(Path(attachment.mountpoint), lazy=force)
    if attachment.socket is not None:
        Path(attachment.socket).unlink(missing_ok=True)


def _disconnect(volume_id: str, index: int, timeout: float) -> None:
    if not nbd_device.belongs_to(index, volume_id):
        return
    try:
        with nbd_device.open_control() as control:
            nbd_device.disconnect(control, volume_id, index=index, timeout=timeout)
    except OSError as error:
        raise DaemonError(f"cannot disconnect /dev/nbd{index}: {error.strerror}", hint="run as root") from error

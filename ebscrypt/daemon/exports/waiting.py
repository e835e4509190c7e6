"""How long the kernel lets a request to /dev/nbdN wait: for a volume that may be suspended, without end.

drivers/block/nbd.c hangs up on a connection whose request takes longer than NBD_ATTR_TIMEOUT. A timeout of 0 means that
it only notes "Possible stuck request" every 30 s and goes on waiting; but that only where the device has a single
connection: with more it hangs up after 30 s all the same. So such a volume has one connection and the timeout 0.

It has a price. The timer is also what sends a dead daemon's requests again, and with 0 it does so only once there is
a new connection: requests that were under way when the daemon died wait for the next one (or for `detach`), while those
that come later fail after the dead-connection timeout as ever.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from ebscrypt.config import AttachSettings
from ebscrypt.daemon.exports import nbd_device
from ebscrypt.errors import DaemonError
from ebscrypt.model import Attachment, OnKeyUnusable

_PATIENCE: Final = 5.0
_POLL: Final = 0.01


def attach_settings(attach: AttachSettings, mode: OnKeyUnusable) -> AttachSettings:
    """The settings by which a volume of this ``mode`` is connected: ``attach``, with what a suspension asks for."""
    if mode is not OnKeyUnusable.SUSPEND:
        return attach
    return msgspec.structs.replace(attach, connections=1, io_timeout=0)


def set_io_timeout(attachment: Attachment, attach: AttachSettings, mode: OnKeyUnusable) -> None:
    """Give an attached volume's device the I/O timeout of its new ``mode``. Raises `DaemonError`."""
    if attachment.nbd_index is None:
        return
    seconds = attach_settings(attach, mode).io_timeout
    if seconds:
        _wait_for_idle(attachment.nbd_index)
    try:
        with nbd_device.open_control() as control:
            nbd_device.set_io_timeout(control, attachment.volume_id, index=attachment.nbd_index, seconds=seconds)
    except OSError as error:
        raise DaemonError(
            f"cannot set the I/O timeout of {attachment.device}: {error.strerror}", hint="run as root"
        ) from error


def _wait_for_idle(index: int) -> None:
    """Let requests that have waited for longer than the timeout to come be answered first, as far as that can be seen.

    One that is still there when its timer ends would have the kernel hang up. Under a steady load there is always some
    request, but each of them is young.
    """
    deadline = time.monotonic() + _PATIENCE
    inflight = nbd_device.sysfs(index) / "inflight"
    while time.monotonic() < deadline:
        try:
            under_way = sum(map(int, inflight.read_text(encoding="ascii").split()))
        except OSError:
            return
        if not under_way:
            return
        time.sleep(_POLL)

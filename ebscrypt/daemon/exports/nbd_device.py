"""/dev/nbdN from outside its daemon: connect, reconnect, resize, disconnect, and what sysfs says of it.

A device is known as a volume's by its *backend identifier*, which the kernel keeps from CONNECT on, shows in
/sys/block/nbdN/backend and asks for at every RECONFIGURE: an index alone may have gone to somebody else.
"""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ebscrypt.config import AttachSettings
from ebscrypt.daemon.exports.netlink import Attribute, NbdControl, sockets, text, u64
from ebscrypt.errors import DaemonError

_POLL: Final = 0.02
_OLD_SOCKET: Final = 5.0
"""Seconds for the kernel to notice that the dead daemon's socket is closed; it does so at once, on an idle machine."""


def open_control() -> NbdControl:
    """The kernel's nbd family, loading the module where possible. Raises OSError (FileNotFoundError: no nbd)."""
    try:
        return NbdControl()
    except FileNotFoundError:
        _load_module()
        return NbdControl()


def _load_module() -> None:
    try:
        subprocess.run(["modprobe", "--quiet", "nbd"], check=False, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return  # the second look for the family tells what is missing


def is_available() -> bool:
    """Whether the kernel has nbd, after an attempt to load it, and lets this process ask."""
    try:
        with open_control():
            return True
    except OSError:
        return False


def connect(
    control: NbdControl,
    volume_id: str,
    descriptors: Iterable[int],
    *,
    size: int,
    block_size: int,
    server_flags: int,
    attach: AttachSettings,
) -> int:
    """Connect a free device to the kernel's ends of the connections; gives its index. Raises OSError."""
    settings = (
        u64(Attribute.SIZE_BYTES, size)
        + u64(Attribute.BLOCK_SIZE_BYTES, block_size)
        + u64(Attribute.SERVER_FLAGS, server_flags)
        + _timeouts(attach)
        + text(Attribute.BACKEND_IDENTIFIER, volume_id)
        + sockets(descriptors)
    )
    return control.connect(settings)


def reconnect(
    control: NbdControl, volume_id: str, descriptors: Iterable[int], *, index: int, attach: AttachSettings
) -> None:
    """Give a device whose daemon died new connections: what the kernel parked goes on. Raises OSError.

    One socket a request, since the kernel takes as many as it has dead ones and ENOSPC says that it has none (yet).
    """
    deadline = time.monotonic() + _OLD_SOCKET
    identifier = text(Attribute.BACKEND_IDENTIFIER, volume_id)
    for descriptor in descriptors:
        while True:
            try:
                control.reconfigure(_timeouts(attach) + identifier + sockets([descriptor]), index=index)
                break
            except OSError as error:
                if error.errno != errno.ENOSPC or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)


def resize(control: NbdControl, volume_id: str, *, index: int, size: int) -> None:
    """Let the device have ``size`` bytes; udev and whoever listens hear of it from the kernel. Raises OSError."""
    control.reconfigure(u64(Attribute.SIZE_BYTES, size) + text(Attribute.BACKEND_IDENTIFIER, volume_id), index=index)


def set_io_timeout(control: NbdControl, volume_id: str, *, index: int, seconds: int) -> None:
    """Let a request take so many seconds before the kernel hangs up; 0: any time. Raises OSError."""
    identifier = text(Attribute.BACKEND_IDENTIFIER, volume_id)
    control.reconfigure(u64(Attribute.TIMEOUT, seconds) + identifier, index=index)


def disconnect(control: NbdControl, volume_id: str, *, index: int, timeout: float) -> None:
    """Disconnect the volume's device; nothing where it is not (or no longer) the volume's.

    Raises `DaemonError` when the kernel still has it after ``timeout`` seconds, OSError.
    """
    deadline = time.monotonic() + timeout
    while belongs_to(index, volume_id):
        try:
            control.disconnect(index)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBUSY):  # gone meanwhile, or still on its way
                raise
        if time.monotonic() > deadline:
            raise DaemonError(
                f"/dev/nbd{index} of volume {volume_id} is still connected after {timeout:g} s",
                hint=f"see who has it: `fuser -v /dev/nbd{index}`",
            )
        time.sleep(_POLL)


def belongs_to(index: int, volume_id: str) -> bool:
    """Whether /dev/nbd``index`` is connected as this volume."""
    device = sysfs(index)
    return (device / "pid").exists() and _read(device / "backend") == volume_id


def size(index: int) -> int:
    """Bytes of the device; sysfs counts in units of 512. Zero where there is none."""
    return int(_read(sysfs(index) / "size") or 0) * 512


def sysfs(index: int) -> Path:
    return Path(f"/sys/block/nbd{index}")


def _timeouts(attach: AttachSettings) -> bytes:
    return u64(Attribute.TIMEOUT, attach.io_timeout) + u64(Attribute.DEAD_CONN_TIMEOUT, attach.dead_connection_timeout)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None

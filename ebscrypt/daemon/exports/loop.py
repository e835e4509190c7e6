"""Loop devices by ioctl: a block device over the FUSE file (and nothing else: no pyfuse3 here, control uses it too).

The kernel's structures are those of include/uapi/linux/loop.h. LOOP_CONFIGURE (Linux 5.8) sets everything up in one
call, so that no half-made device is ever seen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Final

from ebscrypt.errors import DaemonError, ExportUnavailable

CONTROL: Final = Path("/dev/loop-control")

_LOOP_CLR_FD: Final = 0x4C01
_LOOP_SET_CAPACITY: Final = 0x4C07
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CTL_GET_FREE: Final = 0x4C82

_LO_FLAGS_READ_ONLY: Final = 1
_LO_FLAGS_PARTSCAN: Final = 8
_LO_FLAGS_DIRECT_IO: Final = 16

_INFO: Final = struct.Struct("=5Q4I64s64s32s2Q")
"""struct loop_info64: device, inode, rdevice, offset, size limit; number, encryption, its key size, flags; names."""
_CONFIG: Final = struct.Struct(f"=II{_INFO.size}s64x")
"""struct loop_config: descriptor, block size, loop_info64, eight reserved words."""

_ATTEMPTS: Final = 32
"""Another process may take the free device between our two ioctls: then ask for the next one."""


def check() -> None:
    """Raise OSError unless this process can have a loop device; takes none. Containers often only show the node."""
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.close(os.open(f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}", os.O_RDWR | os.O_CLOEXEC))
    finally:
        os.close(control)


def attach(file: Path, *, block_size: int, read_only: bool) -> str:
    """Make a loop device over ``file`` with direct I/O and the logical ``block_size``; gives its path.

    Blocks until the kernel has looked at the file (and read its partition table): whoever serves ``file`` must do so
    in another thread. Raises `ExportUnavailable`.
    """
    try:
        backing = os.open(file, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        try:
            return _configure(backing, file, block_size=block_size, read_only=read_only)
        finally:
            os.close(backing)
    except OSError as error:
        raise ExportUnavailable(
            f"cannot make a loop device over {file}: {error}", hint="use --export socket, or see `losetup --list`"
        ) from error


def _configure(backing: int, file: Path, *, block_size: int, read_only: bool) -> str:
    flags = _LO_FLAGS_PARTSCAN | _LO_FLAGS_DIRECT_IO | (_LO_FLAGS_READ_ONLY if read_only else 0)
    # The name is for people who run losetup; the kernel keeps 63 bytes of it and the whole path in sysfs.
    name = os.fsencode(file)[:63]
    config = _CONFIG.pack(backing, block_size, _INFO.pack(*[0] * 5, 0, 0, 0, flags, name, b"", b"", 0, 0))
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _attempt in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _LOOP_CONFIGURE, config)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device
            finally:
                os.close(descriptor)
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, f"{_ATTEMPTS} free loop devices in turn were taken by others")


def backing_file(device: str) -> str | None:
    """The path that the kernel has for the file behind ``device``, None when it has none."""
    try:
        return (_sysfs(device) / "loop/backing_file").read_text().rstrip("\n")
    except FileNotFoundError:
        return None


def is_over(device: str, volume_id: str) -> bool:
    """Whether ``device`` is (still, or again) the loop device of this volume's FUSE file.

    Only the file's name is compared: once its mount is detached, the kernel has no whole path for it any more.
    """
    path = backing_file(device)
    return path is not None and path.removesuffix(" (deleted)").rpartition("/")[2] == volume_id


def uses_direct_io(device: str) -> bool:
    return (_sysfs(device) / "loop/dio").read_text().strip() == "1"


def detach(device: str, volume_id: str, *, timeout: float) -> None:
    """Take the loop device away from the volume's file; nothing when it already is.

    While somebody has it open the kernel only marks it, and takes it away at the last close: raises `DaemonError` when
    that did not happen within ``timeout`` seconds.
    """
    if not is_over(device, volume_id):
        return
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:  # somebody else was faster
            raise DaemonError(f"cannot take {device} from volume {volume_id}: {error}") from error
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + timeout
    while is_over(device, volume_id):
        if time.monotonic() > deadline:
            raise DaemonError(
                f"{device} of volume {volume_id} is still open after {timeout:g} s",
                hint=f"the kernel frees it at the last close; see who has it: `fuser -v {device}`",
            )
        time.sleep(0.01)


def refresh_size(device: str) -> None:
    """Let the device have the size that its file has by now. Raises OSError."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _LOOP_SET_CAPACITY)
    finally:
        os.close(descriptor)


def size(device: str) -> int:
    """Bytes of the block device; sysfs counts in units of 512, whatever the logical block size."""
    return int((_sysfs(device) / "size").read_text()) * 512


def _sysfs(device: str) -> Path:
    return Path("/sys/block") / Path(device).name

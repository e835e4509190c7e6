"""Who uses a block device or a file: mounts in any mount namespace, other block devices on top, swap, open descriptors.

`detach` refuses while there is a user and names it; `create` refuses a backing that has one. Everything is read from
/proc and /sys, and no file is touched to find out: a file served by a FUSE daemon that hangs would hang us too.
"""

# ruff: noqa: PTH115, PTH116, PTH208 - a look at every descriptor of every process: plain calls are several times faster
from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ebscrypt.daemon.exports import loop, nbd_device
from ebscrypt.model import Attachment, ExportKind

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_PROC: Final = Path("/proc")
_BLOCK: Final = Path("/sys/dev/block")


class Use(msgspec.Struct, frozen=True):
    """One use. ``kind`` is ``mount``, ``swap``, ``device`` (dm, md, loop on top), ``open`` or ``client``.

    ``where`` is what to show: a mount point, a device, a process with its command. ``pid`` is a process that has it
    (for a mount: one in whose mount namespace it is).
    """

    kind: str
    where: str
    pid: int | None = None

    def __str__(self) -> str:
        return {
            "mount": f"mounted on {self.where}",
            "swap": f"swap space ({self.where})",
            "device": f"used by {self.where}",
            "open": f"open in {self.where}",
            "client": f"used by {self.where}",
        }[self.kind]


def of_attachment(attachment: Attachment) -> list[Use]:
    """Who uses what an attachment exports, apart from its daemon. Clients of a socket only the daemon can tell."""
    own = frozenset({attachment.pid})
    if attachment.export is ExportKind.SOCKET:
        return []
    found: list[Use] = []
    if attachment.mountpoint is not None:
        file = Path(attachment.mountpoint) / attachment.volume_id
        found += of_file(file, own, but_not=attachment.loop_device)
    device = block_device(attachment)
    return found + (of_device(device, own) if device is not None else [])


def block_device(attachment: Attachment) -> str | None:
    """The attachment's block device, as long as it is its own: /dev/loop0 may have gone to somebody else since."""
    if attachment.nbd_index is not None and nbd_device.belongs_to(attachment.nbd_index, attachment.volume_id):
        return f"/dev/nbd{attachment.nbd_index}"
    if attachment.loop_device is not None and loop.is_over(attachment.loop_device, attachment.volume_id):
        return attachment.loop_device
    return None


def of_device(device: str, own: frozenset[int] = frozenset()) -> list[Use]:
    """Who uses a block device or one of its partitions, apart from the processes ``own``."""
    numbers = _numbers(device)
    if not numbers:
        return []
    return [*_mounts(numbers), *_swaps(numbers), *_devices_on_top(numbers), *_open_device(device, numbers, own)]


def of_file(path: Path, own: frozenset[int] = frozenset(), *, but_not: str | None = None) -> list[Use]:
    """Who uses a regular file: loop devices (other than ``but_not``), swap and open descriptors."""
    text = str(path)
    found = [Use("device", device) for device in _loops_over(text) if device != but_not]
    found += [Use("swap", text) for entry in _swap_entries() if entry == text]
    for pid, target, _ in _descriptors(own):
        if target == text:
            found.append(Use("open", f"{command(pid)} (process {pid})", pid))
    return _once(found)


def _numbers(device: str) -> frozenset[int]:
    """The device number of a block device and those of its partitions; empty when it is not there."""
    try:
        status = os.stat(device)
    except OSError:
        return frozenset()
    if not stat.S_ISBLK(status.st_mode):
        return frozenset()
    numbers = {status.st_rdev}
    for entry in _sysfs(status.st_rdev).glob("*/partition"):
        numbers.add(_parse_number((entry.parent / "dev").read_text()))
    return frozenset(numbers)


def _sysfs(number: int) -> Path:
    return _BLOCK / f"{os.major(number)}:{os.minor(number)}"


def _parse_number(text: str) -> int:
    major, _, minor = text.strip().partition(":")
    return os.makedev(int(major), int(minor))


def _mounts(numbers: frozenset[int]) -> list[Use]:
    """Mounts of these devices in every mount namespace that a process lives in.

    The device number of a btrfs mount is made up by btrfs, hence also the look at the source.
    """
    found = []
    for pid in _one_process_per_mount_namespace():
        for line in _lines(_PROC / str(pid) / "mountinfo"):
            fields = line.split(" ")
            where, source = _unescape(fields[4]), _unescape(fields[fields.index("-") + 2])
            if _parse_number(fields[2]) in numbers or _block_number(source) in numbers:
                found.append(Use("mount", where, pid))
    return _once(found)


def _one_process_per_mount_namespace() -> list[int]:
    """This process first, so that a mount that we could undo ourselves is told of us."""
    namespaces: dict[str, int] = {}
    for pid in [os.getpid(), *_processes()]:
        try:
            namespaces.setdefault(os.readlink(_PROC / str(pid) / "ns/mnt"), pid)
        except OSError:
            continue
    return list(namespaces.values())


def _swaps(numbers: frozenset[int]) -> list[Use]:
    return [Use("swap", entry) for entry in _swap_entries() if _block_number(entry) in numbers]


def _swap_entries() -> list[str]:
    return [_unescape(line.split()[0]) for line in _lines(_PROC / "swaps")[1:]]


def _devices_on_top(numbers: frozenset[int]) -> list[Use]:
    """Device-mapper, md and the like: sysfs lists them as holders."""
    holders = (entry for number in numbers for entry in _sysfs(number).glob("holders/*"))
    return _once([Use("device", _friendly(entry.name)) for entry in holders])


def _friendly(kernel_name: str) -> str:
    name = "".join(_lines(Path("/sys/class/block") / kernel_name / "dm/name"))
    return f"/dev/mapper/{name}" if name else f"/dev/{kernel_name}"


def _loops_over(path: str) -> Iterator[str]:
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        if "".join(_lines(entry)) == path:
            yield f"/dev/{entry.parent.parent.name}"


def _open_device(device: str, numbers: frozenset[int], own: frozenset[int]) -> list[Use]:
    """Processes with the device open, under whatever name its node has in their view."""
    name = Path(os.path.realpath(device)).name
    found = []
    for pid, target, link in _descriptors(own):
        if target.startswith("/dev/") or Path(target).name == name:
            try:
                number = os.stat(link).st_rdev
            except OSError:
                continue
            if number in numbers:
                found.append(Use("open", f"{command(pid)} (process {pid})", pid))
    return _once(found)


def _descriptors(own: frozenset[int]) -> Iterator[tuple[int, str, str]]:
    """Process, target and link of every open descriptor that leads to a path, but for ours and those of ``own``."""
    for pid in _processes():
        if pid in own or pid == os.getpid():
            continue
        directory = f"/proc/{pid}/fd"
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        for entry in entries:
            link = f"{directory}/{entry}"
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("/"):
                yield pid, target, link


def _processes() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def command(pid: int) -> str:
    """The name of a process's program, as ps shows it."""
    return "".join(_lines(_PROC / str(pid) / "comm")) or "a process"


def _block_number(path: str) -> int | None:
    if not path.startswith("/dev/"):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def _lines(path: Path) -> list[str]:
    """The lines of a /proc or /sys file; none when it is gone or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescape(text: str) -> str:
    """The kernel writes blanks in mount tables as octal escapes."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _once(uses: list[Use]) -> list[Use]:
    return list(dict.fromkeys(uses))

"""`detach_volume`: the device goes, what was written is durable, the key is wiped, nothing is left behind.

    who uses it?   mounts, swap, devices on top, open descriptors, clients: refused, and named
    flush          everything written through the device so far is durable
    kernel         /dev/nbdN, loop device and FUSE mount are taken down
    shutdown       the daemon ends: last flush, keys wiped
    grant          KMS retires the attachment's grant; where it does not answer, a later command will ask again
    catalog        the volume is available

``force`` detaches although the volume is in use. File systems on it are synced and unmounted first (lazily where they
are busy), sockets' clients and open descriptors are cut off; so what was acknowledged and flushed is safe, and what
programs had not yet written is lost, as with EC2's forced detachment. Swap space and devices on top (LVM, md, dm-crypt)
are never cut off: they take down more than the volume, and have commands of their own.

A volume that is suspended, since its KMS key cannot be used, has made durable what it acknowledged before. Nothing more
can be written to it: it is not flushed, and with ``force`` what waits to be written fails, as by a power cut.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from ebscrypt.catalog.event_rows import Event
from ebscrypt.control import faultpoints, grants, holders, leftovers, links, process, runtime, systemd, watch
from ebscrypt.control.holders import Use
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.control.unfinished import end_with_attachment, refuse_while_kept
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.exports.teardown import flush, is_gone, teardown
from ebscrypt.errors import DaemonError, DaemonLost, EbscryptError, StateError, VolumeInUse
from ebscrypt.model import Access, Attachment, ExportKind, Volume, VolumeState

SHUTDOWN_TIMEOUT: Final = 330.0
"""Seconds for a daemon's last flush and end: a slow disk may have gigabytes to write."""
_SETTLE: Final = 10.0
"""Seconds for the process to be gone after it has said that all is durable."""
_SUSPENDED: Final = (
    "it is suspended, and nothing can be written to it: make its KMS key usable again first, or detach with --force, "
    "which is like a power cut for what was not written yet"
)
_NEVER_CUT: Final = frozenset({"swap", "device"})
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8


def detach_volume(site: Site, volume_id: str, *, force: bool = False, event: Event | None = None) -> Volume:
    """Detach a volume; with ``force`` also one that is in use, and ``site.notes`` then says what was cut off.

    Raises `VolumeInUse` naming the users, `StateError` for one that is not attached, `DaemonError` when a flush fails
    (the volume stays attached then, unless forced).
    """
    with on_volume(site, volume_id, "detach"):
        return detach_held(site, volume_id, force=force, event=event)


def detach_held(site: Site, volume_id: str, *, force: bool, event: Event | None) -> Volume:
    """`detach_volume` for a caller that holds the volume's lock as ``detach``."""
    volume = site.catalog.volume(volume_id)
    if volume.state is not VolumeState.IN_USE:
        raise StateError(f"volume {volume_id} is {volume.state}: it is not attached")
    attachment = runtime.read_attachment(site.settings, volume_id)
    alive = runtime.is_served(site.settings, volume_id)
    if alive and not force:
        refuse_while_kept(site, volume)
    if attachment is not None:
        take_down(site, attachment, alive=alive, force=force)
    elif alive:
        raise StateError(f"volume {volume_id} is still being attached", hint="wait, then detach it")
    else:
        leftovers.remove_leftovers(site, volume_id)
    if systemd.is_used(site.settings):
        systemd.stop(volume_id)
    return finish_detachment(site, volume_id, event=event)


def finish_detachment(site: Site, volume_id: str, *, was_attached: bool = False, event: Event | None = None) -> Volume:
    """The records, once device and daemon are gone. ``was_attached``: it was no `detach` that ended the attachment."""
    watch.stop(site.settings, volume_id)
    links.remove_link(volume_id)
    runtime.remove(site.settings, volume_id)
    faultpoints.reach("detach.removed")
    grants.end_grants(site, volume_id)
    volume = site.catalog.change_state(
        volume_id, VolumeState.IN_USE, VolumeState.AVAILABLE, event, was_attached=was_attached, attach_failure=None
    )
    end_with_attachment(site, volume_id)
    faultpoints.reach("detach.available")
    return volume


def take_down(site: Site, attachment: Attachment, *, alive: bool, force: bool) -> None:
    """Device and daemon, in the order that loses nothing. A dead daemon can neither flush nor be told to end.

    Nor can one that hangs: ``force`` ends it like that, without waiting for the many minutes that a flush may take.
    """
    hangs = alive and force and not _answers(site, attachment)
    suspended = alive and not hangs and _is_suspended(site, attachment)
    refuse_if_used(site, attachment, alive=alive and not hangs, force=force, suspended=suspended)
    if suspended and force:
        _abort(site, attachment)
    if force:
        _unmount_all(site, attachment, alive=alive and not hangs and not suspended)
    with process.followed(attachment.pid, attachment.pid_start) as pidfd:
        if hangs and pidfd is not None:
            process.end(pidfd)
        alive = alive and not hangs
        if alive and not suspended:
            _flush(site, attachment, force=force)
            faultpoints.reach("detach.flushed")
        if attachment.export is ExportKind.SOCKET:
            # Nothing of it is in the kernel, and only the daemon can tell at once whether a client has just come.
            _shut_down(site, attachment, pidfd, alive=alive, force=force)
            teardown(attachment, force=force)
        else:
            _take_device_down(site, attachment, force=force)
            faultpoints.reach("detach.torn-down")
            _shut_down(site, attachment, pidfd, alive=alive, force=force)
        faultpoints.reach("detach.shut-down")


def refuse_if_used(site: Site, attachment: Attachment, *, alive: bool, force: bool, suspended: bool = False) -> None:
    """Raise `VolumeInUse` for whoever uses the device; with ``force`` only for those who are never cut off."""
    uses = holders.of_attachment(attachment)
    if attachment.export is ExportKind.SOCKET and alive:
        uses += _clients(site, attachment)
    stopping = [use for use in uses if not force or use.kind in _NEVER_CUT]
    if stopping:
        raise VolumeInUse(
            f"volume {attachment.volume_id} ({attachment.device}) is in use: {_listed(stopping)}",
            hint=_SUSPENDED if suspended else _hint(stopping[0]),
        )
    if alive and not force:
        _refuse_if_held(attachment)
    if uses:
        site.notes.append(f"cut off: {_listed(uses)}")


def _listed(uses: list[Use]) -> str:
    told = ", ".join(map(str, uses[:5]))
    return told if len(uses) <= 5 else f"{told} and {len(uses) - 5} more"


def _hint(use: Use) -> str:
    return {
        "mount": f"unmount it first: `umount {use.where}`",
        "swap": f"turn it off first: `swapoff {use.where}`",
        "device": f"deactivate {use.where} first: vgchange -an, mdadm --stop, cryptsetup close or losetup -d",
        "open": "let that program end first, or detach with --force",
        "client": "let the clients end first, or detach with --force",
    }[use.kind]


def _answers(site: Site, attachment: Attachment) -> bool:
    try:
        with DaemonClient(runtime.directory(site.settings, attachment.volume_id).control_socket) as daemon:
            daemon.call("status")
    except DaemonLost as error:
        site.notes.append(f"ended without a flush: {error.message}")
        return False
    return True


def _is_suspended(site: Site, attachment: Attachment) -> bool:
    """Whether requests wait because the KMS key cannot be used: then nothing may be asked of the kernel's device."""
    try:
        with DaemonClient(runtime.directory(site.settings, attachment.volume_id).control_socket) as daemon:
            return bool(daemon.call("status")["access"] == Access.SUSPENDED)
    except DaemonLost:
        return False


def _abort(site: Site, attachment: Attachment) -> None:
    """Let the requests that wait fail. Unmounting would wait for them, and no signal ends that."""
    with DaemonClient(runtime.directory(site.settings, attachment.volume_id).control_socket) as daemon:
        daemon.call("abort")
    site.notes.append("not flushed: the volume was suspended; what was acknowledged before that is durable")


def _clients(site: Site, attachment: Attachment) -> list[Use]:
    with DaemonClient(runtime.directory(site.settings, attachment.volume_id).control_socket) as daemon:
        count = int(daemon.call("status")["connections"])
    return [Use("client", f"{count} client{'s' if count > 1 else ''} of {attachment.socket}")] if count else []


def _refuse_if_held(attachment: Attachment) -> None:
    """Ask the kernel itself: an exclusive open fails for whatever the look into /proc and /sys did not find."""
    device = holders.block_device(attachment)
    if device is None:
        return
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUse(
                f"volume {attachment.volume_id} ({device}) is held by the kernel", hint=f"see `lsblk {device}`"
            ) from error
        if error.errno not in (errno.ENOENT, errno.ENXIO):
            raise DaemonError(f"cannot open {device}: {error.strerror}") from error


def _flush(site: Site, attachment: Attachment, *, force: bool) -> None:
    """Write out what the kernel has of the device; the daemon's own flush comes with its end.

    A `detach` that was killed may have taken the device down already.
    """
    taken_down = holders.block_device(attachment) is None and attachment.device.startswith("/dev/")
    if taken_down or is_gone(attachment):
        return
    try:
        flush(attachment)
    except EbscryptError as error:
        if not force:
            raise
        site.notes.append(f"not flushed: {error.message}")


def _take_device_down(site: Site, attachment: Attachment, *, force: bool) -> None:
    try:
        teardown(attachment, force=force)
    except DaemonError as error:
        if not force:
            raise
        site.notes.append(error.message)


def _shut_down(site: Site, attachment: Attachment, pidfd: int | None, *, alive: bool, force: bool) -> None:
    """Have the daemon end, and wait until it has. One that cannot be reached any more is ended."""
    if not alive:
        return
    try:
        with DaemonClient(runtime.directory(site.settings, attachment.volume_id).control_socket) as daemon:
            daemon.call("shutdown", timeout=SHUTDOWN_TIMEOUT, force=force)
    except DaemonLost as error:
        if pidfd is not None and not force:
            raise
        site.notes.append(error.message)
    if pidfd is not None and not process.wait_for_end(pidfd, _SETTLE):
        process.end(pidfd)


def _unmount_all(site: Site, attachment: Attachment, *, alive: bool) -> None:
    """Sync and unmount the file systems on the volume, as far as they are in this mount namespace."""
    for use in holders.of_attachment(attachment):
        if use.kind == "mount" and use.pid == os.getpid():
            _unmount(site, use.where, alive=alive)
        elif use.kind == "mount":
            site.notes.append(f"{use.where} is in the mount namespace of process {use.pid}: not unmounted")


def _unmount(site: Site, where: str, *, alive: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if alive:
        descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if libc.syncfs(descriptor) != 0:
                site.notes.append(f"{where} could not be synced: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(descriptor)
    path = os.fsencode(Path(where))
    if alive and libc.umount2(path, _UMOUNT_NOFOLLOW) == 0:
        return
    if libc.umount2(path, _UMOUNT_NOFOLLOW | _MNT_DETACH) != 0:
        site.notes.append(f"{where} could not be unmounted: {os.strerror(ctypes.get_errno())}")

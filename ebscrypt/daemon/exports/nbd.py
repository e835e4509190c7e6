"""The ``nbd`` export: a real /dev/nbdN. The kernel gets one end of a socket pair, the core serves the other.

There is no handshake and no listening socket: both ends are made here, and generic netlink carries the kernel's. What
a handshake would have said (size, block size, flags) goes along. I/O and dead-connection timeouts are always set, so
that a daemon that hangs or dies never leaves processes in uninterruptible sleep for good. When the daemon dies, or the
kernel hangs up because a request took longer than the I/O timeout, the kernel parks requests until the next daemon
reconnects the same device (`AttachmentSpec.nbd_index`). For a volume that may be suspended see waiting.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Final

import trio

from ebscrypt.core import NbdServer
from ebscrypt.daemon.exports import nbd_device
from ebscrypt.daemon.exports.base import Access, Setting
from ebscrypt.daemon.exports.netlink import NbdControl
from ebscrypt.daemon.exports.ready import wait_until_answering
from ebscrypt.daemon.exports.waiting import attach_settings
from ebscrypt.errors import DaemonError, ExportUnavailable
from ebscrypt.model import ExportKind

_REQUEST_KIB: Final = 1024
"""Largest request that the kernel may send; nbd.ko starts with 128 (max_sectors_kb). Sequential reads and writes in
requests of 1 MiB took 17 % less processor time, client and server together, than in 128 KiB (means of three runs)."""


class NbdExport:
    """See `Export`."""

    kind = ExportKind.NBD

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._attach = attach_settings(setting.attach, setting.spec.on_key_unusable)
        self._server = NbdServer(setting.volume.device, export_name=setting.volume_id)
        self._ours: list[socket.socket] = []
        self._index: int | None = None

    def prepare(self) -> None:
        """Connect a device, or reconnect the one that ``spec.nbd_index`` names if it is still this volume's.

        What the kernel asks from now on waits in the sockets until `serve`.
        """
        if os.geteuid() != 0:
            raise ExportUnavailable("the nbd export needs root", hint="run as root, or use --export socket")
        try:
            with _control() as control, contextlib.ExitStack() as theirs:
                self._index = self._connect(control, [self._pair(theirs) for _ in range(self._connections)])
        except OSError as error:
            self._hang_up()
            raise ExportUnavailable(
                f"cannot connect an nbd device: {error.strerror}", hint="use --export fuse or --export socket"
            ) from error
        except BaseException:
            self._hang_up()
            raise

    async def serve(self) -> None:
        index = self._required_index()
        for ours in self._ours:
            self._server.adopt(ours.fileno())
        self._hang_up()
        _tune(index)
        await wait_until_answering(f"/dev/nbd{index}", lambda: nbd_device.size(index))

    @property
    def access(self) -> Access:
        index = self._required_index()
        return Access(device=f"/dev/nbd{index}", nbd_index=index)

    @property
    def clients(self) -> int:
        return self._server.connections

    @property
    def ended(self) -> bool:
        return self._server.connections == 0

    @property
    def lost(self) -> bool:
        return self.ended and nbd_device.belongs_to(self._required_index(), self._setting.volume_id)

    async def resized(self) -> None:
        """Nothing to forget: the kernel is told by `teardown.grow`, which has the privilege."""

    async def stop(self, patience: float) -> bool:
        self._hang_up()
        return await trio.to_thread.run_sync(self._server.stop, patience)

    @property
    def _connections(self) -> int:
        return self._attach.connections

    def _pair(self, theirs: contextlib.ExitStack) -> int:
        """A connection: one end for the core, the other for the kernel, which takes a reference of its own."""
        ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ours.append(ours)
        return theirs.enter_context(kernels).fileno()

    def _connect(self, control: NbdControl, descriptors: list[int]) -> int:
        setting, wanted = self._setting, self._setting.spec.nbd_index
        if wanted is not None and nbd_device.belongs_to(wanted, setting.volume_id):
            nbd_device.reconnect(control, setting.volume_id, descriptors, index=wanted, attach=self._attach)
            return wanted
        return nbd_device.connect(
            control,
            setting.volume_id,
            descriptors,
            size=setting.volume.device.size,
            block_size=setting.volume.block_size,
            server_flags=self._server.transmission_flags,
            attach=self._attach,
        )

    def _hang_up(self) -> None:
        """Close our descriptors; the core has its own where it serves."""
        for ours in self._ours:
            ours.close()
        self._ours = []

    def _required_index(self) -> int:
        if self._index is None:
            raise DaemonError("the nbd export was not prepared")
        return self._index


def _control() -> NbdControl:
    try:
        return nbd_device.open_control()
    except FileNotFoundError:
        raise ExportUnavailable(
            "the kernel has no nbd, and the module nbd could not be loaded",
            hint="try `modprobe nbd`; without it use --export fuse or --export socket",
        ) from None
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            raise ExportUnavailable(
                f"generic netlink is refused: {error.strerror}", hint="use --export socket"
            ) from error
        raise


def _tune(index: int) -> None:
    """Let the kernel send larger requests; a kernel that refuses keeps its own limit, which works as well."""
    queue = nbd_device.sysfs(index) / "queue"
    with contextlib.suppress(OSError, ValueError):
        largest = int((queue / "max_hw_sectors_kb").read_text())
        (queue / "max_sectors_kb").write_text(str(min(largest, _REQUEST_KIB)))

"""The ``socket`` export: NBD on a Unix socket, for qemu, libnbd and whoever speaks it; needs no privilege at all.

The socket's mode (0600, in a directory of mode 0700) says who may connect: whoever attached, and root.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import quote

import trio

from ebscrypt.core import NbdServer
from ebscrypt.daemon.exports.base import Access, Setting
from ebscrypt.daemon.listening import listen_privately
from ebscrypt.errors import DaemonError, ExportUnavailable
from ebscrypt.model import ExportKind


class SocketExport:
    """See `Export`."""

    kind = ExportKind.SOCKET
    ended = False
    lost = False

    def __init__(self, setting: Setting) -> None:
        self._path = setting.runtime.nbd_socket
        self._volume_id = setting.volume_id
        self._server = NbdServer(setting.volume.device, export_name=setting.volume_id)
        self._listener: socket.socket | None = None

    def prepare(self) -> None:
        try:
            self._listener = listen_privately(self._path)
        except OSError as error:
            raise ExportUnavailable(f"cannot listen on {self._path}: {error.strerror}") from error

    async def serve(self) -> None:
        if self._listener is None:
            raise DaemonError("the socket export was not prepared")
        with self._listener:
            self._server.listen(self._listener.fileno())

    @property
    def access(self) -> Access:
        return Access(device=uri(self._volume_id, self._path), socket=str(self._path))

    @property
    def clients(self) -> int:
        return self._server.connections

    async def resized(self) -> None:
        """Nothing to forget: who connects from now on is told the new size; NBD cannot tell those who are connected."""

    async def stop(self, patience: float) -> bool:
        return await trio.to_thread.run_sync(self._server.stop, patience)


def uri(volume_id: str, path: Path) -> str:
    """The NBD URI of a volume on a Unix socket (the NBD project's uri.md): ``nbd+unix:///<export>?socket=<path>``."""
    return f"nbd+unix:///{quote(volume_id, safe='')}?socket={quote(os.fsencode(path), safe='/')}"

"""What systemd does with a service's messages, as far as the daemon's are concerned (sd_notify(3))."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path


class Systemd:
    """Listens on ``address``; ``said`` has every line so far, ``store`` the descriptors by name."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.said: list[str] = []
        self.store: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        # Whoever is unprivileged by then must still be able to say something, as with /run/systemd/notify.
        path.chmod(0o777)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @staticmethod
    def content(fd: int, size: int = 64) -> bytes:
        """The first bytes of secret memory, which can be mapped and not read."""
        with mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            return mapped[:size]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.address)
        self._thread.join(10)
        self._socket.close()
        for fd in self.store.values():
            os.close(fd)

    def _listen(self) -> None:
        while True:
            data, fds, _flags, _sender = socket.recv_fds(self._socket, 4096, 4)
            if not data:
                return
            lines = data.decode().split("\n")
            fields = dict(line.split("=", 1) for line in lines)
            if "FDSTORE" in fields:
                self.store[fields["FDNAME"]] = fds[0]
            elif "FDSTOREREMOVE" in fields and (old := self.store.pop(fields["FDNAME"], None)) is not None:
                os.close(old)
            elif "BARRIER" in fields:
                os.close(fds[0])
            self.said.extend(lines)


@contextlib.contextmanager
def systemd(path: Path) -> Iterator[Systemd]:
    stand_in = Systemd(path)
    try:
        yield stand_in
    finally:
        stand_in.close()
        path.unlink()

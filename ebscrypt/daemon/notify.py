"""systemd's notification and descriptor store, as sd_notify(3) and sd_listen_fds(3) describe them.

Without ``NOTIFY_SOCKET`` every call does nothing, so the daemon need not know whether systemd started it. The data
key's secret memory goes into the unit's descriptor store: a daemon that was killed finds it again and needs no KMS.
It is systemd that holds the memory then; nobody can map it but who has the descriptor.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import MutableMapping
from typing import Final

KEY_NAME: Final = "ebscrypt-key"
"""The data key's name in the descriptor store (FDNAME=)."""
_FIRST_FD: Final = 3
_BARRIER_TIMEOUT: Final = 5.0


class Notifier:
    """What to tell systemd. ``environ`` loses NOTIFY_SOCKET, so that no child speaks in the daemon's name."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # A leading @ stands for the zero byte of an abstract socket.
            self._socket.connect(f"\0{address[1:]}" if address.startswith("@") else address)

    @property
    def active(self) -> bool:
        """Whether anybody listens."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={_line(text)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def store_key(self, fd: int) -> bool:
        """Leave a duplicate of ``fd`` in the descriptor store, in the place of an earlier one.

        False where nobody listens, or systemd did not say within 5 s that it has read the message: then the key may
        not be there after a crash, and KMS is needed.
        """
        if self._socket is None:
            return False
        self.forget_key()
        # FDPOLL=0: secret memory cannot be polled, and must not be thrown out for that.
        self._send(f"FDSTORE=1\nFDNAME={KEY_NAME}\nFDPOLL=0", fd)
        return self._barrier()

    def forget_key(self) -> None:
        self._send(f"FDSTOREREMOVE=1\nFDNAME={KEY_NAME}")

    def close(self) -> None:
        """Say nothing more. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _barrier(self) -> bool:
        """Wait until systemd has dealt with what was sent: it closes its end of a pipe then."""
        if self._socket is None:
            return False
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self._send("BARRIER=1", theirs)
        finally:
            os.close(theirs)
        try:
            poll = select.poll()
            poll.register(ours, select.POLLHUP)
            return bool(poll.poll(_BARRIER_TIMEOUT * 1000))
        finally:
            os.close(ours)

    def _send(self, message: str, *descriptors: int) -> None:
        """Tell systemd. A message that cannot be sent is no reason to end: the volume is served all the same."""
        listening = self._socket  # another thread may close it meanwhile
        if listening is None:
            return
        try:
            socket.send_fds(listening, [message.encode()], list(descriptors))
        except OSError:
            self.close()


def take_stored_key(environ: MutableMapping[str, str] = os.environ) -> int | None:
    """The descriptor of the data key that an earlier life of this unit stored, close-on-exec; None when there is none.

    Whatever else systemd passed is closed: nothing else was ever stored. The variables are removed from ``environ``,
    so that no child takes the descriptors for its own.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return None
    found: int | None = None
    for position in range(int(count)):
        fd = _FIRST_FD + position
        if found is None and position < len(names) and names[position] == KEY_NAME:
            os.set_inheritable(fd, False)
            found = fd
        else:
            os.close(fd)
    return found


def _line(text: str) -> str:
    """One line: a newline would begin another assignment."""
    return text.replace("\n", " ")

"""A Unix socket that only its owner and root can reach, from the first moment."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

_BACKLOG: Final = 64


def listen_privately(path: Path) -> socket.socket:
    """A listening Unix socket at ``path`` with mode 0600 from the first moment. Raises OSError.

    A socket that an earlier daemon left there is removed: who calls this holds the volume's lock, so nobody serves it.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the socket's own inode. A chmod of the path after bind() would leave a
        # moment in which anybody could connect, and umask() belongs to the whole process.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener

"""A volume served over NBD within the test's own process: the core's threads serve, Python only waits for clients."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.core import Device, NbdServer, SecretMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KIB: Final = 1 << 10
MIB: Final = 1 << 20
TIB: Final = 1 << 40
SECTOR: Final = 4 * KIB
DATA_OFFSET: Final = 16 * MIB
EXPORT: Final = "vol-0123456789abcdef0"
PATIENCE: Final = 120.0
"""Seconds that any client may take before a test fails instead of hanging."""


@dataclass
class ServedVolume:
    """A device, its server and where both can be found."""

    device: Device
    server: NbdServer
    path: Path
    backing_fd: int
    encrypted: bool

    @property
    def uri(self) -> str:
        """What libnbd, qemu and fio connect to."""
        return f"nbd+unix:///{EXPORT}?socket={self.path}"

    def connect(self) -> socket.socket:
        """A connection on which nothing has been said yet."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(os.fspath(self.path))
        except OSError:
            client.close()
            raise
        return client

    def operations(self, name: str) -> int:
        """How many operations of this name the device has completed."""
        return self.device.statistics()[name].operations


@contextmanager
def served(
    size: int,
    *,
    encrypted: bool = True,
    backing: Path | None = None,
    read_only: bool = False,
    key: SecretMemory | None = None,
    **options: Any,
) -> Iterator[ServedVolume]:
    """Serve a new volume of ``size`` bytes: over ``backing``, or over memory that is as sparse as a file on tmpfs.

    An encrypted one has a random key, or ``key`` for who needs it again. ``options`` go to NbdServer. At the end the
    server must have stopped without cutting anybody off, and the device must close.
    """
    # A path short enough for a Unix socket, whatever pytest calls its own directories.
    folder = Path(tempfile.mkdtemp(prefix="ebscrypt-nbd-", dir="/tmp"))
    fd = os.memfd_create("backing") if backing is None else os.open(backing, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < DATA_OFFSET + size:
            os.truncate(fd, DATA_OFFSET + size)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(folder / "nbd.sock"))
            listener.listen(64)
            key = key or random_key() if encrypted else None
            device = Device(fd, size=size, data_offset=DATA_OFFSET, key=key, read_only=read_only)
            server = NbdServer(device, export_name=EXPORT, **options)
            server.listen(listener.fileno())
        try:
            yield ServedVolume(device, server, folder / "nbd.sock", fd, encrypted)
        finally:
            stopped = server.stop(10.0)
            device.close()
        assert stopped, "a client had to be cut off"
    finally:
        os.close(fd)
        shutil.rmtree(folder)


def random_key() -> SecretMemory:
    """Secret memory with a data key."""
    key = SecretMemory()
    key.fill(os.urandom(64))
    return key


def run(*command: str | Path, script: str | None = None, status: int = 0) -> str:
    """Run a client to its end; its output. Fails with everything it said where it does not exit with ``status``."""
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == status, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def nbdsh(uri: str, script: str) -> str:
    """Run a libnbd script in which ``h`` is connected to ``uri`` and not in strict mode: it sends whatever it is told.

    It runs under the system's Python, for which Debian packages libnbd's module.
    """
    return run("/usr/bin/python3", "-", script=f"{NBDSH_BEGIN}h.connect_uri({uri!r})\n{script}")


NBDSH_BEGIN: Final = """
import errno, nbd
h = nbd.NBD()
h.set_strict_mode(0)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)

def fails(expected, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except nbd.Error as error:
        assert error.errnum == expected, f"{call.__name__}{args}: {error.errnum} instead of {expected}"
    else:
        raise AssertionError(f"{call.__name__}{args} succeeded instead of failing with {expected}")
"""


def eventually(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait until ``condition`` holds; fail where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)

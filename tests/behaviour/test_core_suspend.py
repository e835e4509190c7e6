"""Suspending a volume that clients use over NBD: they wait and notice nothing; and it can be ended while they do."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebscrypt.core import Device, NbdServer, SecretMemory
from tests.nbd_client import CMD_READ
from tests.nbd_volume import MIB, NBDSH_BEGIN, PATIENCE, ServedVolume, eventually, served

SIZE = 64 * MIB
READ_REQUEST = struct.pack(">IHHQQI", 0x25609513, 0, CMD_READ, 1, 0, 4096)


@pytest.fixture
def key() -> SecretMemory:
    memory = SecretMemory()
    memory.fill(os.urandom(64))
    return memory


def waiting_connections() -> int:
    """Threads of the core's NBD servers in this process that wait for something other than their socket."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text().strip() == "nbd-client":
                count += "futex" in (task / "wchan").read_text()
        except FileNotFoundError:
            continue
    return count


def operations(volume: ServedVolume) -> int:
    return sum(counters.operations for counters in volume.device.statistics().values())


class Talk:
    """A libnbd script in a process of its own, which says one word a line and reads one line before it goes on."""

    def __init__(self, uri: str, script: str) -> None:
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-c", f"{NBDSH_BEGIN}h.connect_uri({uri!r})\nprint('ready', flush=True)\n{script}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.word() == "ready"

    def word(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0


def test_libnbd_waits_and_goes_on(key: SecretMemory) -> None:
    """A write sent while the volume is suspended and its key wiped is answered when the key is back, and is there."""
    with served(SIZE, key=key) as volume:
        script = "input(); h.pwrite(b'late' * 1024, 4096); h.flush(); print('written', flush=True); h.shutdown()"
        client = Talk(volume.uri, script)
        volume.device.suspend(wipe=True)
        client.go_on()
        eventually(lambda: waiting_connections() == 1)
        assert operations(volume) == 0
        volume.device.resume(key)
        assert client.word() == "written"
        client.end()
        assert volume.device.pread(4096, 4096) == b"late" * 1024


def test_libnbd_is_refused_while_read_only(key: SecretMemory) -> None:
    """On a connection that may write, whatever changes the volume gets EPERM while it is read-only; reads go on.

    A payload of many parts too. The client was not told that the export is read-only, for that may end any time.
    """
    with served(SIZE, key=key) as volume:
        script = """
assert not h.is_read_only()
h.pwrite(b'kept' * 1024, 0)
print('wrote', flush=True); input()
fails(errno.EPERM, h.pwrite, b'lost' * 1024, 0)
fails(errno.EPERM, h.pwrite, bytes(1 << 20), 0)
fails(errno.EPERM, h.trim, 4096, 0)
fails(errno.EPERM, h.zero, 4096, 0)
h.flush()
assert h.pread(4096, 0) == b'kept' * 1024
print('refused', flush=True); input()
h.pwrite(b'more' * 1024, 0)
h.shutdown()
"""
        client = Talk(volume.uri, script)
        assert client.word() == "wrote"
        volume.device.set_access("read-only")
        client.go_on()
        assert client.word() == "refused"
        volume.device.set_access("read-write")
        client.go_on()
        client.end()
        assert volume.device.pread(4096, 0) == b"more" * 1024


def test_fio_verifies_across_suspensions(key: SecretMemory, tmp_path: Path) -> None:
    """Twenty suspensions with the key wiped, in the middle of fio's random writes: no error, every checksum right."""
    with served(SIZE, key=key) as volume:
        command = (
            *("fio", "--name=load", "--ioengine=nbd", f"--uri={volume.uri}", "--rw=randwrite", "--bsrange=4k-512k"),
            *("--size=64m", "--loops=4", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"),
            *("--rate=100m", f"--aux-path={tmp_path}", f"--output={tmp_path / 'report'}"),
        )
        fio = subprocess.Popen(command)
        try:
            for _ in range(20):
                before = operations(volume)
                eventually(lambda before=before: operations(volume) > before + 5)  # type: ignore[misc]
                volume.device.suspend(wipe=True)
                still = operations(volume)
                eventually(lambda: waiting_connections() > 0)
                assert operations(volume) == still
                assert fio.poll() is None, "fio ended before it could be disturbed"
                volume.device.resume(key)
            assert fio.wait(PATIENCE) == 0, (tmp_path / "report").read_text()
        finally:
            fio.kill()
            fio.wait()


def test_an_aborted_volume_answers_who_waits(key: SecretMemory) -> None:
    """Who waits at the gate gets ESHUTDOWN, and the server then stops without cutting anybody off."""
    with served(SIZE, key=key) as volume:
        script = "input(); fails(errno.ESHUTDOWN, h.pwrite, b'x' * 4096, 0); h.shutdown()"
        client = Talk(volume.uri, script)
        volume.device.suspend(wipe=True)
        client.go_on()
        eventually(lambda: waiting_connections() == 1)
        volume.device.abort()
        client.end()


def test_stopping_the_server_of_a_suspended_volume(key: SecretMemory) -> None:
    """While clients wait at the gate, the server's stop keeps its timeout and cuts them off; closing ends the rest."""
    with ExitStack() as stack:
        fd = os.memfd_create("backing")
        stack.callback(os.close, fd)
        os.truncate(fd, SIZE)
        device = Device(fd, size=SIZE, key=key)
        stack.callback(device.close)
        server = NbdServer(device)
        clients = []
        for _ in range(3):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            with theirs:
                server.adopt(theirs.fileno())
            clients.append(ours)
        device.suspend(wipe=True)
        for client in clients:
            client.sendall(READ_REQUEST)
        eventually(lambda: waiting_connections() == len(clients))
        began = time.monotonic()
        assert not server.stop(0.2)
        assert time.monotonic() - began < 5
        assert [client.recv(1) for client in clients] == [b""] * len(clients)
        assert server.connections == len(clients)
        device.close()
        eventually(lambda: server.connections == 0)

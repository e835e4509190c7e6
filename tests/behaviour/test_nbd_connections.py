"""Clients that come in numbers, stay silent, die, or do not read; and a server that is asked to stop meanwhile."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ebscrypt.core import NbdServer
from tests import nbd_client as nbd
from tests.nbd_client import RawClient
from tests.nbd_volume import MIB, PATIENCE, eventually, nbdsh, served

SIZE = 64 * MIB
ROOT = Path(__file__).parents[2]


def test_places_are_limited_and_given_back() -> None:
    """Beyond the limit clients wait in the queue; each gets in when a place is free."""
    with served(SIZE, max_connections=2) as volume:
        inside = [RawClient(volume.connect()).negotiate() for _ in range(2)]
        waiting = RawClient(volume.connect())
        waiting.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            waiting.receive(1)
        assert volume.server.connections == 2
        inside.pop().sock.close()
        waiting.sock.settimeout(PATIENCE)
        with waiting.negotiate(), inside.pop():
            assert waiting.error(nbd.CMD_FLUSH) == 0


def test_slow_handshakes_lose_their_place() -> None:
    """Silent, dripping and half-way clients are all cut off at the deadline; one that got through has none."""
    with served(SIZE, max_connections=4, handshake_timeout=1.5) as volume:
        through = RawClient(volume.connect()).negotiate()
        silent = RawClient(volume.connect())
        halfway = RawClient(volume.connect()).greet()
        halfway.send_option(nbd.OPT_GO, bytes(10), length=60000)
        start = time.monotonic()
        dripping = RawClient(volume.connect()).greet()
        dripping.send_option(nbd.OPT_GO, length=60000)
        assert drip_until_cut(dripping, seconds=30)
        assert silent.receive(18) == nbd.GREETING
        assert silent.ended()
        assert halfway.ended()
        assert time.monotonic() >= start + 1.5
        eventually(lambda: volume.server.connections == 1)
        assert through.error(nbd.CMD_FLUSH) == 0
        for client in (through, silent, halfway, dripping):
            client.sock.close()


def drip_until_cut(client: RawClient, *, seconds: float) -> bool:
    """Send a byte now and then, each in good time; whether the server put an end to it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            client.sock.sendall(b"\0")
        except (BrokenPipeError, ConnectionResetError):
            return True
        time.sleep(0.005)
    return False


def test_killed_clients_leave_nothing() -> None:
    """Clients killed in the middle of a payload of 256 KiB free their places, and what they sent is not written."""
    script = """
import socket, sys, time
from tests.nbd_client import RawClient, CMD_WRITE, FLAG_PAYLOAD_LEN
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
client = RawClient(sock).negotiate()
client.send(CMD_WRITE, 0, 256 << 10, flags=FLAG_PAYLOAD_LEN, payload=b"x" * 100_000)
print("sent", flush=True)
time.sleep(60)
"""
    with served(SIZE) as volume:
        for _ in range(3):
            client = subprocess.Popen([sys.executable, "-c", script, volume.path], cwd=ROOT, stdout=subprocess.PIPE)
            assert client.stdout is not None
            assert client.stdout.readline() == b"sent\n"
            client.kill()
            client.communicate()
        eventually(lambda: volume.server.connections == 0)
        assert volume.operations("write") == 0
        nbdsh(volume.uri, "assert h.pread(1 << 20, 0) == bytes(1 << 20)\nh.shutdown()")


def test_half_closed_client_gets_every_reply() -> None:
    """A client that sends no more, but reads, gets what it asked for, in order."""
    with served(SIZE) as volume, RawClient(volume.connect()).negotiate(None) as client:
        count = 2000
        for index in range(count):
            client.sock.sendall(client.header(nbd.CMD_READ, index * 512, 512, cookie=index))
        client.sock.shutdown(socket.SHUT_WR)
        assert all(client.chunk(index, 0, data=512).error == 0 for index in range(count))
        assert client.ended()


def test_storm_of_connections() -> None:
    """Hundreds of clients from eight threads, most of which leave in the middle of something, do no harm."""
    with served(SIZE, max_connections=8) as volume:

        def storm(seed: int) -> None:
            for turn in range(40):
                client = RawClient(volume.connect())
                if (seed + turn) % 4:
                    client.greet()
                if (seed + turn) % 4 > 1:
                    client.send_option(nbd.OPT_GO, b"\0" * 3, length=6 if turn % 2 else 60_000)
                client.sock.close()

        threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: volume.server.connections == 0)
        with RawClient(volume.connect()).negotiate() as client:
            assert client.error(nbd.CMD_FLUSH) == 0


def test_stop_waits_for_what_was_sent() -> None:
    """Stopping serves the requests that have arrived, then ends the connections; late comers are not let in."""
    with served(SIZE) as volume:
        client = RawClient(volume.connect()).negotiate(None)
        idle = RawClient(volume.connect()).negotiate()
        data = os.urandom(MIB)
        client.sock.sendall(client.header(nbd.CMD_WRITE, 0, MIB, cookie=1) + data)
        client.sock.sendall(client.header(nbd.CMD_READ, 0, MIB, cookie=2))
        assert client.chunk(1, 0).error == 0
        assert volume.server.stop(PATIENCE)
        assert client.chunk(2, 0, data=MIB).payload == data
        assert client.ended()
        assert idle.ended()
        assert volume.server.connections == 0
        with pytest.raises(ConnectionRefusedError):
            volume.connect()
        with pytest.raises(OSError, match=os.strerror(errno.ESHUTDOWN)):
            volume.server.adopt(idle.sock.fileno())
        client.sock.close()
        idle.sock.close()


def test_client_that_does_not_read_is_cut_off() -> None:
    """A client that asks for much and reads nothing cannot keep the server from stopping in time; stop says so."""
    with served(SIZE) as volume, RawClient(volume.connect()).negotiate(None) as client:
        client.send(nbd.CMD_READ, 0, 32 * MIB)
        client.receive(1)
        start = time.monotonic()
        assert not volume.server.stop(0.2)
        assert time.monotonic() < start + 10
        assert volume.server.connections == 0


def test_adopted_socket() -> None:
    """A socket taken over after its handshake speaks simple replies at once, as the kernel's client expects."""
    with served(SIZE) as volume:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        volume.server.adopt(theirs.fileno())
        theirs.close()
        ours.settimeout(PATIENCE)
        with RawClient(ours) as client:
            data = os.urandom(3 * MIB + 5)
            assert client.write(1000, data) == 0
            assert client.read(1000, len(data)) == data
            assert client.error(nbd.CMD_FLUSH) == 0
            assert client.error(nbd.CMD_BLOCK_STATUS, 0, 512) == errno.EINVAL
            client.send(nbd.CMD_DISC)
            assert client.ended()
        eventually(lambda: volume.server.connections == 0)


def test_arguments_that_make_no_sense() -> None:
    """Wrong descriptors are OSError, wrong numbers and names ValueError, and the server serves on."""
    with served(SIZE) as volume, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        for call in (volume.server.listen, volume.server.adopt):
            for descriptor, number in (
                (-1, errno.EBADF),
                (10**6, errno.EBADF),
                (volume.backing_fd, errno.ENOTSOCK),
                (datagrams.fileno(), errno.EINVAL),
            ):
                with pytest.raises(OSError, match=os.strerror(number)):
                    call(descriptor)
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            volume.server.listen(ours.fileno())
        for options in (
            {"max_connections": 0},
            {"handshake_timeout": -1.0},
            {"handshake_timeout": float("nan")},
            {"handshake_timeout": float("inf")},
            {"export_name": "n" * 4097},
            {"export_name": "a\0b"},
        ):
            with pytest.raises(ValueError, match=next(iter(options))):
                NbdServer(volume.device, **options)
        for timeout in (-0.1, float("nan"), 1e300):
            with pytest.raises(ValueError, match="timeout"):
                volume.server.stop(timeout)
        with RawClient(volume.connect()).negotiate() as client:
            assert client.error(nbd.CMD_FLUSH) == 0


def test_requests_after_the_device_is_closed() -> None:
    """A device that was closed under its server answers ESHUTDOWN, as the protocol has it for a server that ends."""
    with served(SIZE) as volume, RawClient(volume.connect()).negotiate() as client:
        volume.device.close()
        assert client.read_chunks(0, 512)[0].error == errno.ESHUTDOWN
        assert client.write(0, b"x") == errno.ESHUTDOWN
        assert client.error(nbd.CMD_FLUSH) == errno.ESHUTDOWN


def test_flags_for_the_kernel() -> None:
    """The flags that nbd.ko is given are those of a handshake without structured replies."""
    for read_only in (False, True):
        with served(SIZE, read_only=read_only) as volume, volume.connect() as sock:
            client = RawClient(sock).negotiate(None)
            assert client.flags == volume.server.transmission_flags
            assert struct.pack(">H", client.flags)[1] & 2 == 2 * read_only

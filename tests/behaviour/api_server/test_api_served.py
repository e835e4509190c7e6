"""`ebscrypt api serve` as a process: clients that misbehave, a log that nobody reads, an orderly end."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.behaviour.volume.place import TIMEOUT, Place


class Served:
    """A server whose standard error is a pipe that nobody reads, and whose patience is a second."""

    def __init__(self, place: Place) -> None:
        started = textwrap.dedent("""
            from ebscrypt.kms import serving
            serving.LONGEST_WAIT = 1.0
            from ebscrypt.cli.main import main
            main(["api", "serve", "--port", "0"])
        """)
        self.process = subprocess.Popen(
            [sys.executable, "-c", started],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=place.environ,
        )
        assert self.process.stdout is not None
        url = urlsplit(self.process.stdout.readline().strip())
        assert url.hostname is not None
        assert url.port is not None
        self.address = url.hostname, url.port

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def health(self) -> int:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        connection.request("GET", "/health")
        status = connection.getresponse().status
        connection.close()
        return status

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()


@pytest.fixture
def served() -> Iterator[Served]:
    place = Place()
    made = Served(place)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.end()
        place.close()


def test_a_log_that_nobody_reads_stops_nothing(served: Served) -> None:
    """Requests whose log lines are far more than a pipe holds are all answered, and the server ends when told to."""
    connection = http.client.HTTPConnection(*served.address, timeout=30)
    for _ in range(600):  # of some 250 bytes each, into 64 KiB
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 403
    connection.close()
    assert served.health() == 200
    assert served.end() == 0


def test_hostile_clients_do_not_keep_others_out(served: Served) -> None:
    """Silence, a head that never ends, one that is too long, what is no HTTP: each ends, others are served."""
    silent = [served.connect() for _ in range(20)]
    dripping = served.connect()
    dripping.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nX-A: ")
    rubbish = served.connect()
    rubbish.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert rubbish.recv(4096).startswith(b"HTTP/1.1 400")
    long = served.connect()
    try:
        long.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: " + b"a" * 300_000)
        told = long.recv(4096)
    except (ConnectionResetError, BrokenPipeError):
        told = b"HTTP/1.1 400"
    assert told.startswith(b"HTTP/1.1 4")
    two_lengths = served.connect()
    two_lengths.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
    assert two_lengths.recv(4096).startswith(b"HTTP/1.1 400")
    assert served.health() == 200
    for connection in [*silent, dripping]:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    for connection in [*silent, dripping, rubbish, long, two_lengths]:
        connection.close()
    assert served.health() == 200


def test_a_request_under_way_is_finished_at_the_end(served: Served) -> None:
    """SIGTERM while a body is on its way: the answer comes, then the process ends with success; nobody new gets in."""
    connection = served.connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 100")  # it is being served
    os.kill(served.process.pid, signal.SIGTERM)
    while True:
        try:
            served.connect().close()
        except ConnectionRefusedError:
            break
    connection.sendall(b"a=bc")
    assert connection.recv(4096).startswith(b"HTTP/1.1 403")
    connection.close()
    assert served.process.wait(TIMEOUT) == 0
    assert served.process.stdout is not None
    assert served.process.stderr is not None
    assert "Traceback" not in served.process.stderr.read()
    served.process.stdout.close()
    served.process.stderr.close()

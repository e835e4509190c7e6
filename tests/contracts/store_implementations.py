"""The kinds of store that one contract suite runs against: a directory, and S3 as a real server speaks it.

The server is versitygw, an S3 gateway in Go that is used in production, over a directory. scripts/setup installs it.
AWS takes part when EBSCRYPT_TEST_S3_URL names a bucket (s3://bucket/prefix?region=…) that may be written to. Each test
uses a prefix of its own in it, and leaves a few kilobytes behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore.config import Config

from ebscrypt.config import PathSettings, Settings, StoreSettings
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.store import Store

ACCESS_KEY: Final = "test-access-key"
SECRET_KEY: Final = "test-secret-key"
BUCKET: Final = "snapshots"
AWS_URL: Final = os.environ.get("EBSCRYPT_TEST_S3_URL")
IMPLEMENTATIONS: Final = ["directory", "s3", *(["aws"] if AWS_URL else [])]

on_every_store = pytest.mark.parametrize("place", IMPLEMENTATIONS, indirect=True)


@dataclass
class Place:
    """Where a store is or will be, and how a test reaches behind its back."""

    name: str
    url: str
    settings: Settings
    files: Path | None
    """The directory that holds the objects as files: the store's own, or the server's. None on AWS."""

    def open(self, **options: Any) -> Store:
        """The store, open; the caller closes it."""
        return open_store(self.settings, self.url, **options)

    def file(self, path: str) -> Path:
        """The file behind an object."""
        if self.files is None:
            pytest.skip("nobody can reach behind AWS's back")
        return self.files / path


def settings_at(state: Path, **stores: Any) -> Settings:
    """Settings with short waits; retries stay on."""
    stores = {"timeout": 10.0, "attempts": 4, "workers": 4} | stores
    paths = PathSettings(state=str(state), runtime=str(state / "run"))
    return Settings(paths=paths, stores=StoreSettings(**stores))


def program() -> str:
    """The server's path. Fails, and does not skip, when it is not installed."""
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}:{Path.home()}/go/bin"
    found = shutil.which("versitygw", path=here)
    assert found, "versitygw is not installed: run scripts/setup"
    return found


@dataclass
class Server:
    """An S3 server on loopback. ``endpoint`` is its URL, ``root`` the directory with a folder for each bucket."""

    endpoint: str
    root: Path

    def client(self) -> Any:
        """A plain client of its own, to make buckets and look at objects."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server in a process of its own, with one empty bucket, which ends with the block."""
    root = Path(tempfile.mkdtemp(prefix="ebscrypt-s3-"))
    try:
        with _started(root) as server:
            server.client().create_bucket(Bucket=BUCKET)
            yield server
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _started(root: Path) -> Iterator[Server]:
    for _ in range(5):  # another process may take the free port first
        port = _free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "VGW_", "ROOT_"))}
        keys = {"ROOT_ACCESS_KEY_ID": ACCESS_KEY, "ROOT_SECRET_ACCESS_KEY": SECRET_KEY}
        command = [program(), "--port", f"127.0.0.1:{port}", "--quiet", "--keep-alive", "posix", str(root)]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean | keys
        ) as process:
            try:
                if _answers(process, port):
                    yield Server(f"http://127.0.0.1:{port}", root)
                    return
            finally:
                process.kill()  # asked kindly, it waits ten seconds for connections that are kept alive
                process.wait(30)
    pytest.fail("the S3 server did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.02)
    return False


def _pump(source: socket.socket, sink: socket.socket, budget: int | None, passing: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if budget is not None and not passing.is_set():
                budget -= len(data)
                if budget < 0:
                    for one in (source, sink):  # a close with linger 0 is a reset
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    break
            sink.sendall(data)
    for one in (source, sink):
        if budget is None or budget >= 0:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextlib.contextmanager
def cutting(endpoint: str, after: int) -> Iterator[tuple[str, threading.Event]]:
    """A proxy before ``endpoint`` that resets each connection once ``after`` bytes went to the server.

    Yields its URL and an event: while that is set, everything passes.
    """
    host, port = endpoint.removeprefix("http://").split(":")
    passing, ended = threading.Event(), threading.Event()

    def accept(listening: socket.socket) -> None:
        while not ended.is_set():
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.create_connection((host, int(port)))
            for arguments in ((near, far, after), (far, near, None)):
                threading.Thread(target=_pump, args=(*arguments, passing), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, args=(listening,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", passing
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def place_for(name: str, folder: Path, server: Server | None) -> Place:
    """A fresh place of that kind."""
    settings = settings_at(folder / "state")
    if name == "directory":
        return Place(name, (folder / "store").as_uri(), settings, folder / "store")
    prefix = f"test-{secrets.token_hex(6)}"
    if name == "aws":
        assert AWS_URL is not None
        base, _, options = AWS_URL.partition("?")
        return Place(name, f"{base.rstrip('/')}/{prefix}?{options}", settings, None)
    assert server is not None
    url = f"s3://{BUCKET}/{prefix}?endpoint={server.endpoint}"
    return Place(name, url, settings, server.root / BUCKET / prefix)

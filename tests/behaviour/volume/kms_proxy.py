"""An HTTP proxy before `ebscrypt kms serve`: damages the answers to one operation, and knows what it let through."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

THROTTLED: Final = "throttled"
FAILING: Final = "5xx"
SILENT: Final = "timeout"
RESET: Final = "reset"
TRUNCATED: Final = "truncated"
SHORT: Final = "wrong-length"
FAULTS: Final = (THROTTLED, FAILING, SILENT, RESET, TRUNCATED)
"""What can happen to every call; a plaintext of the wrong length only to Decrypt."""

_REFUSALS: Final = {THROTTLED: (400, "ThrottlingException"), FAILING: (500, "KMSInternalException")}


@dataclass
class Proxy:
    """Where it listens, what it shall do to which operation, and the secrets that went through it."""

    upstream: str
    url: str = ""
    operation: str = ""
    fault: str = ""
    met: int = 0
    plaintexts: list[bytes] = field(default_factory=list, repr=False)
    wrapped: list[bytes] = field(default_factory=list, repr=False)
    tokens: list[str] = field(default_factory=list, repr=False)
    released: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def faulty(self, operation: str, fault: str) -> Iterator[None]:
        """Within the block every answer to ``operation`` has the fault; at its end at least one must have met it."""
        self.operation, self.fault, self.met = operation, fault, 0
        self.released.clear()
        try:
            yield
        finally:
            self.operation = self.fault = ""
            self.released.set()
        assert self.met, f"nobody asked for {operation}"

    def written(self, content: bytes, *, wrapped_too: bool = True, tokens_too: bool = True) -> list[str]:
        """Which secrets ``content`` holds, in whatever spelling."""
        found = [f"data key {number}" for number, key in enumerate(self.plaintexts) if _holds_key(content, key)]
        if wrapped_too:
            found += [f"wrapped key {number}" for number, blob in enumerate(self.wrapped) if _holds(content, blob)]
        if tokens_too:
            found += [f"grant token {number}" for number, token in enumerate(self.tokens) if token.encode() in content]
        return found

    def meets(self, operation: str) -> str:
        """The fault for a request; empty for none."""
        if operation != self.operation:
            return ""
        self.met += 1
        return self.fault

    def remember(self, answer: dict[str, Any]) -> None:
        """Note what is secret in an answer of KMS."""
        for name, kept in (("Plaintext", self.plaintexts), ("CiphertextBlob", self.wrapped)):
            if name in answer and (secret := base64.b64decode(answer[name])) not in kept:
                kept.append(secret)
        if "GrantToken" in answer:
            self.tokens.append(answer["GrantToken"])


def content_of(path: Path) -> bytes:
    """What is written in a file, without its holes: a volume is mostly one."""
    parts, offset, size = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            parts.append(os.pread(file.fileno(), end - offset, offset))
            offset = end
    return b"".join(parts)


def _holds_key(content: bytes, key: bytes) -> bool:
    return any(_holds(content, part) for part in (key, key[: len(key) // 2], key[len(key) // 2 :]))


def _holds(content: bytes, secret: bytes) -> bool:
    """As it is, as hexadecimal, as base64 at whatever offset, as repr, as a list of numbers."""
    spelled = [secret, secret.hex().encode(), repr(secret)[2:-1].encode(), str(list(secret))[1:-1].encode()]
    spelled += [base64.b64encode(secret[skipped:])[:-4] for skipped in range(3)]
    return any(form in content for form in spelled)


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one class in a closure
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            operation = str(self.headers["X-Amz-Target"]).rpartition(".")[2]
            fault = proxy.meets(operation)
            if fault == SILENT:
                proxy.released.wait(60)
                self.close_connection = True
            elif fault == RESET:
                self._reset()
            elif fault in _REFUSALS:
                status, code = _REFUSALS[fault]
                self._answer(status, json.dumps({"__type": code, "message": "not now"}).encode())
            else:
                status, answer = self._asked(body)
                self._answer(status, _damaged(answer, fault))

        def _asked(self, body: bytes) -> tuple[int, bytes]:
            parts = urlsplit(proxy.upstream)
            with contextlib.closing(HTTPConnection(str(parts.hostname), parts.port, timeout=60)) as upstream:
                passed = ("X-Amz-Target", "Content-Type", "Authorization", "User-Agent")
                headers = {name: self.headers[name] for name in passed if name in self.headers}
                upstream.request("POST", "/", body, headers)
                response = upstream.getresponse()
                answer = response.read()
            with contextlib.suppress(ValueError):
                proxy.remember(json.loads(answer))
            return response.status, answer

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RD)
            os.close(self.connection.detach())

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client gave up
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    return Handler


def _damaged(answer: bytes, fault: str) -> bytes:
    """KMS did what it was asked, and the answer does not tell: broken off, or with a key that has a byte too few."""
    if fault == TRUNCATED:
        return answer[: max(1, len(answer) * 3 // 4)]
    if fault == SHORT:
        told = json.loads(answer)
        told["Plaintext"] = base64.b64encode(base64.b64decode(told["Plaintext"])[:-1]).decode()
        return json.dumps(told).encode()
    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):  # it was reset
            super().shutdown_request(request)


@contextlib.contextmanager
def before(upstream: str) -> Iterator[Proxy]:
    """A proxy before the KMS at ``upstream``, until the block ends."""
    proxy = Proxy(upstream)
    server = _Server(("127.0.0.1", 0), _handler(proxy))
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    serve: Callable[..., None] = server.serve_forever
    thread = threading.Thread(target=serve, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.released.set()
        server.shutdown()
        thread.join()
        server.server_close()

"""An HTTP endpoint on loopback that misbehaves on purpose, and a clock that nobody waits for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from ebscrypt.config import Settings
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.retry import Retry

KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

GRANTEE = "arn:aws:iam::111122223333:role/storage"
RETIRING = "arn:aws:iam::111122223333:role/retiring"
REQUEST_ID = "11111111-2222-3333-4444-555555555555"


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        self.now += seconds


Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class ScriptedEndpoint:
    """An HTTP endpoint on loopback that does what each behaviour in its script says; the last one is repeated."""

    url: str = ""
    script: list[Behaviour] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        """Accept the request and say nothing until the test is over."""
        self.released.wait(60)

    def next_behaviour(self) -> Behaviour:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


def answers(status: int, body: Any, *, length: int | None = None, headers: dict[str, str] | None = None) -> Behaviour:
    """Answer with a body (JSON, or bytes as they are), and claim that it has ``length`` bytes."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/x-amz-json-1.1")
        handler.send_header("x-amzn-RequestId", REQUEST_ID)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = length is not None

    return behave


def refuses(code: str, message: str = "", status: int = 400) -> Behaviour:
    """An error as KMS sends it."""
    return answers(status, {"__type": code, "message": message})


def by_operation(behaviours: dict[str, Behaviour], otherwise: Behaviour) -> Behaviour:
    """Do what the operation that is asked for has coming."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        operation = str(handler.headers["X-Amz-Target"]).rpartition(".")[2]
        behaviours.get(operation, otherwise)(handler)

    return behave


def resets(handler: BaseHTTPRequestHandler) -> None:
    """Drop the connection with a TCP reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RD)
    os.close(handler.connection.detach())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):  # `resets` has closed it
            super().shutdown_request(request)


def _handler(scripted: ScriptedEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            scripted.targets.append(self.headers["X-Amz-Target"])
            scripted.bodies.append(json.loads(body) if body.startswith(b"{") else dict(parse_qsl(body.decode())))
            scripted.next_behaviour()(self)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client gave up
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    return Handler


@contextlib.contextmanager
def listening() -> Iterator[ScriptedEndpoint]:
    """A scripted endpoint that is reachable, until the block ends."""
    scripted = ScriptedEndpoint()
    server = _Server(("127.0.0.1", 0), _handler(scripted))
    scripted.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield scripted
    finally:
        scripted.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Scenario:
    """A scripted endpoint, settings that lead there, and a clock that nobody waits for."""

    settings: Settings
    endpoint: ScriptedEndpoint
    clock: FakeClock

    def at(self, url: str, **limits: Any) -> Settings:
        """Settings for an endpoint, with quick limits that a test may change."""
        quick = {"timeout": 2.0, "deadline": 10.0, "attempts": 3} | limits
        return msgspec.structs.replace(
            self.settings, kms=msgspec.structs.replace(self.settings.kms, endpoint=url, **quick)
        )

    def client(self, *script: Behaviour, url: str | None = None, **limits: Any) -> KmsClient:
        """A client whose pauses are the longest that the jitter may draw, and take no time."""
        self.endpoint.script = list(script)
        settings = self.at(url or self.endpoint.url, **limits)
        kms = settings.kms
        return KmsClient(
            settings,
            retry=Retry(
                attempts=kms.attempts,
                timeout=kms.timeout,
                deadline=kms.deadline,
                clock=self.clock,
                uniform=lambda _, bound: bound,
            ),
        )

"""A state directory with a catalog, and a webhook on this machine that answers what the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import VolumeEvent, volume_event
from ebscrypt.config import PathSettings, Settings

Answer = tuple[int, dict[str, str]]


class Hook:
    """The server: ``got`` is every body that arrived; ``answers`` are given in turn, then 200."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[Answer] = []
        self.held = threading.Event()
        self.held.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append(json.loads(body))
                hook.headers.append(dict(self.headers))
                hook.held.wait(30)
                status, headers = hook.answers.pop(0) if hook.answers else (200, {})
                self.send_response(status)
                for name, value in (headers | {"Content-Length": "0"}).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?token=geheim"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.held.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(paths=PathSettings(state=str(tmp_path / "state"), runtime=str(tmp_path / "run")))


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    with Catalog(settings.catalog_path) as opened:
        yield opened


@pytest.fixture
def make_event() -> Callable[..., dict[str, Any]]:
    """A failed attachment, as control tells of it; keywords replace fields."""

    def make(**fields: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "event": VolumeEvent.ATTACH,
            "result": "failed",
            "volume_id": "vol-0123456789abcdef0",
            "region": "eu-central-1",
            "account": "111122223333",
            "cause": "KMS said no – “nein”.",
        }
        return volume_event(**(given | fields))

    return make

"""A place whose API exports volumes by a socket, and a server in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.behaviour.ebs_direct.server import Server
from tests.behaviour.volume.place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    made.environ["EBSCRYPT_ATTACH_EXPORT"] = "socket"
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    made = Server(place)
    try:
        yield made
    finally:
        made.stop()

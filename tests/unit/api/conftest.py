"""An installation with a gateway, and boto3's EC2 client of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.config import PathSettings, Settings
from ebscrypt.control import deliveries
from tests.unit.api.in_process import Clients


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    runtime = tempfile.mkdtemp(prefix="ec-", dir="/tmp")
    yield Settings(paths=PathSettings(state=str(tmp_path / "state"), runtime=runtime))
    shutil.rmtree(runtime)


@pytest.fixture
def clients(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    monkeypatch.setattr(deliveries, "start_deliveries", lambda _: None)
    made = Clients(settings)
    yield made
    made.gateway.close()


@pytest.fixture
def ec2(clients: Clients) -> Any:
    return clients.client()

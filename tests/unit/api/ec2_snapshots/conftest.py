"""A site whose snapshots are completed when the test says so, and who calls EC2's actions on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt.config import PathSettings, Settings
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.site import Site
from ebscrypt.model import MIB, Volume
from tests.unit.api.ec2_snapshots.caller import Caller
from tests.unit.control.storing_inline import Started


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Caller]:
    runtime = tempfile.mkdtemp(prefix="ec-", dir="/tmp")
    with Site(Settings(paths=PathSettings(state=str(tmp_path / "state"), runtime=runtime))) as site:
        yield Caller(site)
    shutil.rmtree(runtime)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What was to be done in the background."""
    return Started(monkeypatch)


@pytest.fixture
def volume(call: Caller) -> Volume:
    """An available plain volume."""
    return create_volume(call.site, VolumeRequest(size=8 * MIB, encrypted=False, tags={"made": "by hand"}))

"""A site on a file system that syncs at once, with data keys unwrapped in this process, and what a server keeps."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import msgspec
import pytest

from ebscrypt.config import PathSettings, Settings
from ebscrypt.control import storing
from ebscrypt.control.direct import DirectAccess
from ebscrypt.control.site import Site
from tests.unit.control.from_snapshots.contents import UnwrapsHere


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """The state is in memory: on a disk that others write to, each of the many syncs would wait for them."""
    state = tempfile.mkdtemp(prefix="ebscrypt-test-", dir="/dev/shm")
    paths = PathSettings(state=state, runtime=settings.paths.runtime)
    yield msgspec.structs.replace(settings, paths=paths)
    shutil.rmtree(state)


@pytest.fixture(autouse=True)
def storing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be done in the background is done in this process, before the call returns."""
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)


@pytest.fixture(autouse=True)
def unwraps_here(site: Site) -> Iterator[UnwrapsHere]:
    """Data keys are unwrapped in this process, which is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        yield UnwrapsHere(site, patch)


@pytest.fixture
def access(settings: Settings) -> Iterator[DirectAccess]:
    with DirectAccess(settings) as opened:
        yield opened

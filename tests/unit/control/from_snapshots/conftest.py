"""Snapshots to make something from, on a file system that syncs at once, with data keys unwrapped in this process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator

import msgspec
import pytest

from ebscrypt.config import PathSettings, Settings
from ebscrypt.control import faultpoints, storing
from ebscrypt.control.copy_snapshot import CopyRequest
from ebscrypt.control.site import Site
from ebscrypt.model import Snapshot
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import At, UnwrapsHere


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


@pytest.fixture
def unwraps_here(site: Site) -> Iterator[UnwrapsHere]:
    """Data keys are unwrapped in this process, which is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        yield UnwrapsHere(site, patch)


@pytest.fixture
def source(site: Site, unwraps_here: UnwrapsHere) -> Snapshot:
    """A completed snapshot under the AWS managed key."""
    del unwraps_here
    return contents.snapshot_of(site, contents.filled_volume(site, "alias/aws/ebs"))


@pytest.fixture
def request_other(source: Snapshot, new_key: str) -> CopyRequest:
    """Asks for a copy that turns every block."""
    return CopyRequest(source_snapshot_id=source.snapshot_id, encrypted=True, kms_key_id=new_key)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Have something happen at a fault point, once."""

    def register(point: str, action: Callable[[], object]) -> None:
        waiting = [action]

        def reach(name: str) -> None:
            if name == point and waiting:
                waiting.pop()()

        monkeypatch.setattr(faultpoints, "reach", reach)

    return register

"""Re-encryption in the process of the test: the data is turned when the test says so, keys are unwrapped here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator

import msgspec
import pytest

from ebscrypt.config import PathSettings, Settings
from ebscrypt.control import faultpoints, reencrypting
from ebscrypt.control.site import Site
from ebscrypt.model import Volume
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import UnwrapsHere


class Interrupted(BaseException):
    """The process ends here, as far as it can in a process that lives on."""


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """The state is in memory: on a disk that others write to, each of the many syncs would wait for them."""
    state = tempfile.mkdtemp(prefix="ebscrypt-test-", dir="/dev/shm")
    paths = PathSettings(state=state, runtime=settings.paths.runtime)
    yield msgspec.structs.replace(settings, paths=paths)
    shutil.rmtree(state)


@pytest.fixture(autouse=True)
def unwraps_here(site: Site) -> Iterator[UnwrapsHere]:
    with pytest.MonkeyPatch.context() as patch:
        yield UnwrapsHere(site, patch)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Volumes for which the process was started, which does not start."""
    volumes: list[str] = []
    monkeypatch.setattr(reencrypting, "start", lambda _site, volume_id: volumes.append(volume_id))
    return volumes


@pytest.fixture
def filled(site: Site) -> Volume:
    """An encrypted volume that holds `contents.PIECES`, never attached."""
    return contents.filled_volume(site, "alias/aws/ebs")


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Have the fault point of that number, counted from 1, end what is under way; the points that are reached."""

    def arm(number: int) -> list[str]:
        points: list[str] = []

        def reach(name: str) -> None:
            points.append(name)
            if len(points) == number:
                raise Interrupted(name)

        monkeypatch.setattr(faultpoints, "reach", reach)
        return points

    return arm

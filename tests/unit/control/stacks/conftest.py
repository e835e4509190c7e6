"""A site whose snapshots are stored in this process, and stacks on it."""

from __future__ import annotations

import pytest

from ebscrypt.control import storing
from ebscrypt.control.site import Site
from tests.unit.control.stacks.deploying import Deployer


@pytest.fixture(autouse=True)
def storing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be done in the background is done in this process, before the call returns."""
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)


@pytest.fixture
def stacks(site: Site) -> Deployer:
    return Deployer(site)

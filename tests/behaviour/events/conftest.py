"""A place for each test, and AWS's services as moto serves them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.behaviour.events.event_place import EventPlace
from tests.contracts.kms_implementations import MOTO, serving


@pytest.fixture
def place() -> Iterator[EventPlace]:
    made = EventPlace()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def aws_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of moto's server."""
    with serving(MOTO, tmp_path_factory.mktemp("moto")) as url:
        yield url

"""A killer at work on a place of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.behaviour.volume.place import Place
from tests.crash.sweep import Killer


@pytest.fixture
def killer() -> Iterator[Killer]:
    place = Place()
    place.do("kms", "describe-key", "alias/aws/ebs")
    made = Killer(place)
    try:
        yield made
    finally:
        made.close()
        place.close()

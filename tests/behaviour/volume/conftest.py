"""A place for each test, and one with a volume in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.behaviour.volume.place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def volume_id(place: Place) -> str:
    """An encrypted volume of 64 MiB, not attached."""
    return place.do("create", "--size", "64M")

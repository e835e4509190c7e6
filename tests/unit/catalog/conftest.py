"""A catalog in a directory of its own, and volumes to put in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.model import GIB, BackingKind, Volume, VolumeState, new_volume_id, utc_now


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "state" / "catalog.db") as opened:
        yield opened


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """A volume as a creation enters it; keywords replace fields."""

    def make(**fields: Any) -> Volume:
        volume_id = fields.pop("volume_id", None) or new_volume_id()
        given: dict[str, Any] = {
            "state": VolumeState.CREATING,
            "size": 10 * GIB,
            "backing": f"/var/lib/ebscrypt/volumes/{volume_id}.luks",
            "backing_kind": BackingKind.FILE,
            "backing_owned": True,
            "encrypted": True,
            "create_time": utc_now(),
        }
        return Volume(volume_id=volume_id, **(given | fields))

    return make

"""Bad input made by hand, and the proof that a refusal changed nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from ebscrypt import luks2
from ebscrypt.catalog.catalog import Catalog
from ebscrypt.luks2 import Header
from tests.behaviour.volume.place import Place

MIB = 1 << 20


def own_key(place: Place) -> str:
    return place.do("kms", "create-key")


def header_of(backing: str) -> Header:
    descriptor = os.open(backing, os.O_RDONLY)
    try:
        return luks2.read_header(descriptor).header
    finally:
        os.close(descriptor)


def rewrite_token(backing: str, **fields: Any) -> None:
    """Put something else in a volume's token, as a tamperer or a mishap would, with good checksums."""
    descriptor = os.open(backing, os.O_RDWR)
    try:
        header = luks2.read_header(descriptor).header
        luks2.write_header(descriptor, header.with_token(msgspec.structs.replace(header.token(), **fields)))
    finally:
        os.close(descriptor)


def damage(backing: str, *offsets: int) -> None:
    with Path(backing).open("r+b") as file:
        for offset in offsets:
            file.seek(offset + 4096 + 20)
            file.write(b"????")


def state(place: Place, volume_id: str) -> tuple[str, bytes]:
    """The volume's row and the bytes of its backing: what a refusal must not change, but for its own reason."""
    shown = place.show(volume_id) | {"AttachFailure": None}
    return json.dumps(shown), Path(shown["Backing"]).read_bytes()


def attach_is_refused(place: Place, volume_id: str, **environ: str) -> str:
    """Attach fails, and afterwards everything is as it was; what it said."""
    before = state(place, volume_id)
    said = place.refused("attach", volume_id, "--export", "socket", **environ)
    assert state(place, volume_id) == before
    assert place.daemons() == []
    assert list(place.runtime.iterdir()) == []
    return said


def events(place: Place) -> list[dict[str, Any]]:
    with Catalog(place.directory / "s" / "catalog.db") as catalog:
        return [event for _, event in catalog.events()]

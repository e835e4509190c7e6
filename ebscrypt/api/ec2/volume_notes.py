"""What EC2 has of a volume and the catalog has not: IOPS, the name of its device, its last modification.

A small file for a volume, ``<state>/api/volumes/<volume id>.json``, where there is something to keep. Nothing depends
on it but what this API shows: a volume without it has the values of its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ebscrypt import durable
from ebscrypt.control import locks

if TYPE_CHECKING:
    from ebscrypt.config import Settings


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """What a modification can change. ``size`` in GiB."""

    size: int
    volume_type: str
    iops: int | None = None
    throughput: int | None = None


class Modification(msgspec.Struct, frozen=True, kw_only=True):
    """The last modification of a volume; it was done when its request was answered."""

    original: Values
    target: Values
    start_time: datetime
    end_time: datetime


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """``iops`` and ``throughput`` as they were asked for, ``device`` as AttachVolume named it."""

    iops: int | None = None
    throughput: int | None = None
    device: str | None = None
    auto_enable_io: bool = False
    modification: Modification | None = None


def read(settings: Settings, volume_id: str) -> Note:
    """The note of a volume; an empty one where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(_path(settings, volume_id).read_bytes(), type=Note)
    except (FileNotFoundError, msgspec.DecodeError):
        return Note()


def change(settings: Settings, volume_id: str, **values: object) -> Note:
    """Put other values into the note of a volume. Requests at the same time are all heard."""
    with _held(settings, volume_id):
        changed = msgspec.structs.replace(read(settings, volume_id), **values)
        path = _path(settings, volume_id)
        durable.make_directory(path.parent)
        durable.write_file(path, msgspec.json.encode(changed))
        return changed


def forget(settings: Settings, volume_id: str) -> None:
    """Remove the note of a volume that is gone."""
    with _held(settings, volume_id):
        durable.remove_file(_path(settings, volume_id))


@contextmanager
def _held(settings: Settings, volume_id: str) -> Iterator[None]:
    """A lock of its own, which leaves no file: that of the volume is held for as long as its commands take."""
    name = f"note-{volume_id}"
    with locks.held(settings, name, "api serve"):
        yield
        locks.forget(settings, name)


def _path(settings: Settings, volume_id: str) -> Path:
    return settings.api_dir / "volumes" / f"{volume_id}.json"

"""The sidecar of a plain volume: a small JSON file beside the volumes that says what the raw bytes are.

An encrypted volume describes itself in its header; a plain one has none, so ``rebuild-catalog`` reads this instead:

    {"Version": 1, "VolumeId": "vol-…", "Size": bytes, "SectorSize": 4096, "Backing": "/path", "BackingKind": "file",
     "BackingOwned": true, "VolumeType": "gp3", "CreateTime": "2024-01-02T03:04:05.000Z"}

It is written before the volume is available and follows each resize. Tags are in the catalog only.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.errors import HeaderDamaged, HeaderUnsupported, InvalidParameter
from ebscrypt.model import BackingKind, Volume, VolumeState, check_volume_id, check_volume_size

VERSION: Final = 1


class Sidecar(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The fields of version 1. A reader ignores those that it does not know."""

    version: int
    volume_id: str
    size: int
    sector_size: int
    backing: str
    backing_kind: BackingKind
    backing_owned: bool
    volume_type: str
    create_time: datetime


def sidecar_path(settings: Settings, volume_id: str) -> Path:
    return settings.volumes_dir / f"{volume_id}.json"


def write_sidecar(settings: Settings, volume: Volume) -> None:
    """Write what the catalog has of a plain volume, durably."""
    record = Sidecar(
        version=VERSION,
        volume_id=volume.volume_id,
        size=volume.size,
        sector_size=volume.sector_size,
        backing=volume.backing,
        backing_kind=volume.backing_kind,
        backing_owned=volume.backing_owned,
        volume_type=volume.volume_type,
        create_time=volume.create_time,
    )
    durable.make_directory(settings.volumes_dir)
    durable.write_file(sidecar_path(settings, volume.volume_id), msgspec.json.encode(record) + b"\n")


def remove_sidecar(settings: Settings, volume_id: str) -> None:
    if settings.volumes_dir.is_dir():
        durable.remove_file(sidecar_path(settings, volume_id))


def read_sidecar(path: Path) -> Volume:
    """The volume that a sidecar describes, as available. Raises `HeaderDamaged` or `HeaderUnsupported`, OSError."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Sidecar)
        check_volume_id(record.volume_id)
        check_volume_size(record.size, record.sector_size)
    except (msgspec.DecodeError, ValueError, InvalidParameter) as error:
        raise HeaderDamaged(f"the sidecar {path} is corrupted or tampered with: {error}") from error
    if record.version != VERSION:
        raise HeaderUnsupported(
            f"the sidecar {path} has version {record.version}; this ebscrypt reads {VERSION}",
            hint="use the ebscrypt that wrote it, or a later one",
        )
    return Volume(
        volume_id=record.volume_id,
        state=VolumeState.AVAILABLE,
        size=record.size,
        backing=record.backing,
        backing_kind=record.backing_kind,
        backing_owned=record.backing_owned,
        encrypted=False,
        sector_size=record.sector_size,
        volume_type=record.volume_type,
        create_time=record.create_time,
    )

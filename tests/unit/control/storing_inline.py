"""Snapshots in the process of the test: volumes with known blocks, and the storing done when the test says so."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.control import storing
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.model import Snapshot, Volume
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import Manifest, decode
from ebscrypt.stores.names import BLOCK_SIZE
from ebscrypt.stores.store import Store
from ebscrypt.stores.witness import Witness


def block(number: int) -> bytes:
    """512 KiB that look like ciphertext, the same for the same number."""
    return hashlib.shake_256(b"%d" % number).digest(BLOCK_SIZE)


def write_blocks(volume: Volume, blocks: Mapping[int, bytes]) -> None:
    """Put stored bytes behind a detached volume's header: index → content."""
    offset = luks2.DATA_OFFSET if volume.encrypted else 0
    with Path(volume.backing).open("r+b") as file:
        for index, content in blocks.items():
            file.seek(offset + index * BLOCK_SIZE)
            file.write(content)


def stored_bytes(volume: Volume) -> bytes:
    """All stored bytes of a detached volume."""
    with Path(volume.backing).open("rb") as file:
        file.seek(luks2.DATA_OFFSET if volume.encrypted else 0)
        return file.read(volume.size)


@contextlib.contextmanager
def opened(site: Site, name: str | None = None) -> Iterator[Store]:
    with contextlib.closing(open_store(site.settings, name, create=False)) as store:
        yield store


def manifest_of(site: Site, snapshot: Snapshot) -> Manifest:
    """The manifest, vouched for by the catalog."""
    assert snapshot.digest is not None
    with opened(site, snapshot.store) as store:
        raw = store.get_manifest(snapshot.snapshot_id)
    return decode(raw, snapshot.snapshot_id, Witness(digest=bytes.fromhex(snapshot.digest)))


def snapshot_bytes(site: Site, snapshot: Snapshot) -> bytes:
    """All bytes that a snapshot has, holes as zeros."""
    content = bytearray(snapshot.volume_size)
    with opened(site, snapshot.store) as store:
        for index, name in manifest_of(site, snapshot).blocks:
            part = store.get_block(name)
            content[index * BLOCK_SIZE : index * BLOCK_SIZE + len(part)] = part
    return bytes(content)


def take(site: Site, volume: Volume, **options: str) -> Snapshot:
    """A snapshot, completed by this process."""
    snapshot = create_snapshot(site, volume.volume_id, **options)  # type: ignore[arg-type]
    storing.settle_snapshot(site, snapshot.snapshot_id)
    return site.catalog.snapshots.get(snapshot.snapshot_id)


def unreleased_pins(site: Site) -> set[str]:
    """Folders of the pins that still keep blocks from being swept."""
    parts: dict[str, set[str]] = {}
    with opened(site) as store:
        for folder, _, part in store.list_pins():
            parts.setdefault(folder, set()).add(part)
    return {folder for folder, found in parts.items() if "released" not in found}


def block_files(site: Site) -> list[Path]:
    return [path for path in (site.settings.snapshots_dir / "blocks").rglob("*") if path.is_file()]


class Started:
    """In place of the processes that store blocks: which snapshots one was started for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.snapshot_ids: list[str] = []
        patch.setattr(storing, "start_storing", lambda _, snapshot_id: self.snapshot_ids.append(snapshot_id))


def age(site: Site) -> None:
    """Make every block old enough to be swept."""
    for path in block_files(site):
        os.utime(path, (0, 0))

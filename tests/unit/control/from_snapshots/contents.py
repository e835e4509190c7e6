"""What is in volumes and snapshots, in plaintext: written, made into a snapshot, read back. All in this process."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import pytest

from ebscrypt import config, luks2
from ebscrypt.control import data_key, headers
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshot_source import witness_of
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.core import Device, SecretMemory
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import KIB, MIB, Snapshot, SnapshotState, Volume
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import Manifest, decode
from ebscrypt.stores.names import BLOCK_SIZE

At: TypeAlias = Callable[[str, Callable[[], object]], None]
"""Has something happen when a fault point is reached first."""

SIZE: Final = 4 * MIB + 36 * KIB
"""Eight blocks and a short one."""


def noise(length: int, seed: int = 1) -> bytes:
    """Bytes that are the same in each run."""
    return random.Random(seed).randbytes(length)  # noqa: S311 - see above


DATA: Final = 4 * BLOCK_SIZE + 36 * KIB
"""Bytes of the blocks that `PIECES` are in."""
PIECES: Final[Mapping[int, bytes]] = {
    0: noise(BLOCK_SIZE, 1),
    2 * BLOCK_SIZE + 8 * KIB: noise(12 * KIB, 2),
    5 * BLOCK_SIZE: noise(BLOCK_SIZE, 3),
    6 * BLOCK_SIZE: noise(BLOCK_SIZE, 1),
    SIZE - 4 * KIB: noise(4 * KIB, 4),
}
"""A volume's data, by offset: whole blocks, two of them equal, a piece with holes around it, the end of a short one."""


def expected(size: int = SIZE, pieces: Mapping[int, bytes] = PIECES) -> bytes:
    """A volume of ``size`` bytes with these pieces in it."""
    content = bytearray(size)
    for offset, piece in pieces.items():
        content[offset : offset + len(piece)] = piece
    return bytes(content)


class UnwrapsHere:
    """In place of the unwrap process, which takes half a second each: KMS's answer, in this process."""

    def __init__(self, site: Site, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, str]] = []
        """The contexts of the data keys that were unwrapped."""
        self._kms = {site.settings.paths.state: KmsClient(site.settings)}
        patch.setattr("ebscrypt.kms.unwrap.unwrap_key", self.unwrap)

    def unwrap(
        self,
        blob: bytes,
        context: Mapping[str, str],
        key_arn: str,
        memory: SecretMemory,
        *,
        deadline: float,
        environ: Mapping[str, str],
    ) -> list[str]:
        assert deadline > 0
        self.asked.append(dict(context))
        settings = config.load(environ)
        kms = self._kms.setdefault(settings.paths.state, KmsClient(settings))
        memory.fill(kms.decrypt(blob, context, expected_key_arn=key_arn).plaintext)
        return []


@contextlib.contextmanager
def opened(site: Site, volume: Volume) -> Iterator[Device]:
    """The volume's plaintext, as its daemon would serve it."""
    descriptor = os.open(volume.backing, os.O_RDWR | os.O_CLOEXEC)
    try:
        with contextlib.ExitStack() as stack:
            key, offset = None, 0
            if volume.encrypted:
                header = headers.read(volume).header
                key, offset = stack.enter_context(data_key.unwrapped(site, header.token())), luks2.DATA_OFFSET
                assert not header.token().sealed or data_key.matches(key, header.digest())
            device = Device(descriptor, size=volume.size, data_offset=offset, sector_size=volume.sector_size, key=key)
            stack.callback(device.close)
            yield device
    finally:
        os.close(descriptor)


def write(site: Site, volume: Volume, pieces: Mapping[int, bytes] = PIECES) -> None:
    with opened(site, volume) as device:
        for offset, piece in pieces.items():
            device.pwrite(piece, offset)
        device.flush()


def read(site: Site, volume: Volume) -> bytes:
    with opened(site, volume) as device:
        return device.pread(volume.size, 0)


def filled_volume(site: Site, kms_key_id: str | None, **changes: Any) -> Volume:
    """An available volume that holds `PIECES`; without a key a plain one."""
    fields: dict[str, Any] = {"size": SIZE, "encrypted": kms_key_id is not None, "kms_key_id": kms_key_id}
    volume = create_volume(site, VolumeRequest(**fields | changes))
    write(site, volume)
    return volume


def snapshot_of(site: Site, volume: Volume, **options: Any) -> Snapshot:
    """A completed snapshot of the volume."""
    made = create_snapshot(site, volume.volume_id, **options)
    snapshot = site.catalog.snapshots.get(made.snapshot_id)
    assert snapshot.state is SnapshotState.COMPLETED, snapshot.state_message
    return snapshot


def manifest_of(site: Site, snapshot: Snapshot) -> Manifest:
    """The snapshot's manifest, which the catalog's digest vouches for."""
    with contextlib.closing(open_store(site.settings, snapshot.store, create=False)) as store:
        raw = store.get_manifest(snapshot.snapshot_id)
        return decode(raw, snapshot.snapshot_id, witness_of(site, snapshot))


def read_snapshot(site: Site, snapshot: Snapshot) -> bytes:
    """The plaintext of a snapshot: its blocks under the data key that KMS unwraps for its context."""
    manifest = manifest_of(site, snapshot)
    header, wrapping = manifest.header, manifest.header.encryption
    descriptor = os.memfd_create("snapshot", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, header.volume_size)
        with contextlib.closing(open_store(site.settings, snapshot.store, create=False)) as store:
            for index, name in manifest.blocks:
                os.pwrite(descriptor, store.get_block(name), index * BLOCK_SIZE)
        with contextlib.ExitStack() as stack:
            key = None if wrapping is None else stack.enter_context(data_key.unwrapped(site, wrapping))
            device = Device(descriptor, size=header.volume_size, sector_size=header.sector_size, key=key)
            stack.callback(device.close)
            return device.pread(header.volume_size, 0)
    finally:
        os.close(descriptor)


def pins_in(site: Site, store: str = "local") -> list[str]:
    """The owners of the pins that nobody has released."""
    with contextlib.closing(open_store(site.settings, store, create=False)) as opened_store:
        pins: dict[str, list[str]] = {}
        owners: dict[str, str] = {}
        for folder, owner, part in opened_store.list_pins():
            pins.setdefault(folder, []).append(part)
            owners[folder] = owner
    return [owners[folder] for folder, parts in pins.items() if "released" not in parts]


def blocks_in(site: Site, store: str = "local") -> int:
    """How many blocks a store has."""
    with contextlib.closing(open_store(site.settings, store, create=False)) as opened_store:
        return sum(1 for _ in opened_store.list_blocks())


def last_event(site: Site) -> dict[str, Any]:
    """The newest event."""
    return site.catalog.events()[-1][1]

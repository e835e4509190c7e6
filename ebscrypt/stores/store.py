"""A store: blocks, manifests, pins and sweeps' markers, over whatever keeps bytes at paths.

    store = open_store(settings)
    store.put_block(block_name(content), content)          # quick; durable with the next manifest, pin or sync
    store.get_block(name)                                  # checked: these bytes, or an error that names the block

Putting is idempotent, and no order of calls by any number of writers, readers and sweepers loses a block, if
snapshots are made by `publish`, read under `hold` and removed by `sweep`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from ebscrypt.errors import (
    BlockDamaged,
    BlockMissing,
    ManifestDamaged,
    ManifestExists,
    SnapshotNotFound,
    StoreNotFound,
    StoreUnsupported,
)
from ebscrypt.stores import names
from ebscrypt.stores.block_list import NAME_SIZE, split_names
from ebscrypt.stores.manifest import largest_manifest
from ebscrypt.stores.names import BLOCK_SIZE, BlockName, Content
from ebscrypt.stores.objects import Entry, Objects

VERSION: Final = 1
_ABOUT: Final = msgspec.json.encode({"BlockSize": BLOCK_SIZE, "Format": "ebscrypt-store", "Version": VERSION})
_BATCH: Final = 1000
"""Names that are asked for or deleted at once: S3's limit for one DeleteObjects."""
LARGEST_PIN: Final = 1 << 16
"""Names in one part of a pin: 2 MiB."""


class StoredBlock(NamedTuple):
    """A block of a listing; ``size`` in bytes, ``modified`` in seconds by the store's clock."""

    name: BlockName
    size: int
    modified: float


class Store:
    """Every method raises `StoreError` of the fitting kind. Safe for use from several threads."""

    def __init__(self, objects: Objects, *, create: bool = True) -> None:
        """Open the store in ``objects``, or with ``create`` make one, if there is nothing at all in it."""
        self._objects = objects
        about = objects.get(names.ABOUT, 4096)
        if about is None:
            if not create or not objects.is_empty():
                raise StoreNotFound(
                    f"there is no store in {objects.url}, "
                    + ("but something else" if create else "and none may be made"),
                    hint="name a store, or a place that is empty; is its file system mounted?",
                )
            objects.put(names.ABOUT, _ABOUT, sha256=hashlib.sha256(_ABOUT).digest())
        elif about != _ABOUT:
            raise StoreUnsupported(
                f"{objects.url} is not a store of version {VERSION}",
                hint="use the ebscrypt that made it, or a later one",
            )

    @property
    def url(self) -> str:
        """The address, as messages and listings show it."""
        return self._objects.url

    def put_block(self, name: BlockName, content: Content, *, replace: bool = False) -> bool:
        """Keep a block of 1 byte to 512 KiB under the name that `block_name` gave it. Returns whether it was put.

        A block that is there already is left alone, unless ``replace`` says that it is damaged. Durable after `sync`.
        """
        if not 0 < len(content) <= BLOCK_SIZE:
            raise ValueError(f"a block has 1 to {BLOCK_SIZE} bytes, not {len(content)}")
        return self._objects.put(names.block_path(name), content, sha256=name, replace=replace, durable=False)

    def get_block(self, name: BlockName) -> bytes:
        """The bytes of a block. Raises `BlockMissing`, or `BlockDamaged` if they are not those that were put."""
        content = self._objects.get(names.block_path(name), BLOCK_SIZE)
        if content is None:
            raise BlockMissing(
                f"block {name.hex()} is not in {self.url}",
                hint="`ebscrypt snapshot verify` names the snapshots concerned",
            )
        if len(content) > BLOCK_SIZE or names.block_name(content) != name:
            raise BlockDamaged(
                f"block {name.hex()} in {self.url} is corrupted or tampered with",
                hint="`ebscrypt snapshot verify --repair-from STORE` puts it back from another store",
            )
        return content

    def missing(self, wanted: Iterable[BlockName]) -> set[BlockName]:
        """Those of ``wanted`` that are not here, as of now. Looks at names only; reading checks the bytes."""
        absent: set[BlockName] = set()
        rest = iter(wanted)
        while batch := {names.block_path(name): name for name in islice(rest, _BATCH)}:
            here = self._objects.present(list(batch))
            absent.update(name for path, name in batch.items() if path not in here)
        return absent

    def list_blocks(self, shard: int | None = None) -> Iterator[StoredBlock]:
        """Every block, or those whose name begins with the byte ``shard``, in order of their names."""
        prefix = names.BLOCKS if shard is None else f"{names.BLOCKS}{shard:02x}/"
        for entry in self._objects.entries(prefix):
            if (name := names.block_at(entry.path)) is not None:
                yield StoredBlock(name, entry.size, entry.modified)

    def delete_blocks(self, unwanted: Iterable[BlockName]) -> None:
        """Remove blocks; for `sweep` alone, which knows that nobody needs them."""
        rest = iter(unwanted)
        while batch := [names.block_path(name) for name in islice(rest, _BATCH)]:
            self._objects.delete(batch)

    def put_manifest(self, snapshot_id: str, raw: bytes) -> None:
        """Make everything put before durable, then the manifest. Again with the same bytes is fine.

        Raises `ManifestExists` when the snapshot has another one. For `publish`: alone it is not safe beside a sweep.
        """
        path = names.manifest_path(snapshot_id)
        self._objects.sync()
        put = self._objects.put(path, raw, sha256=hashlib.sha256(raw).digest())
        if not put and self._objects.get(path, len(raw)) != raw:
            raise ManifestExists(
                f"{snapshot_id} has another manifest in {self.url} already", hint="a snapshot is never overwritten"
            )

    def replace_manifest(self, snapshot_id: str, raw: bytes) -> None:
        """Put a manifest of the same blocks in the place of the present one, durably and whole.

        For a caller who keeps others from deleting the snapshot meanwhile; its blocks are listed all the while.
        """
        self._objects.put(names.manifest_path(snapshot_id), raw, sha256=hashlib.sha256(raw).digest(), replace=True)

    def get_manifest(self, snapshot_id: str, largest: int | None = None) -> bytes:
        """A manifest's bytes, for `manifest.decode`. Raises `SnapshotNotFound`, or `ManifestDamaged` when too long."""
        limit = largest_manifest() if largest is None else largest
        raw = self._objects.get(names.manifest_path(snapshot_id), limit)
        if raw is None:
            raise SnapshotNotFound(
                f"there is no snapshot {snapshot_id} in {self.url}", hint="`ebscrypt snapshot ls` lists what there is"
            )
        if len(raw) > limit:
            raise ManifestDamaged(f"the manifest of {snapshot_id} is longer than any: corrupted or tampered with")
        return raw

    def has_manifest(self, snapshot_id: str) -> bool:
        """Whether the snapshot is in this store, as of now."""
        return bool(self._objects.present([names.manifest_path(snapshot_id)]))

    def list_manifests(self) -> Iterator[str]:
        """The ids of all snapshots in this store."""
        found = (names.manifest_at(entry.path) for entry in self._objects.entries(names.MANIFESTS))
        return (snapshot_id for snapshot_id in found if snapshot_id is not None)

    def delete_manifest(self, snapshot_id: str) -> None:
        """Remove a snapshot, if it is here. Its blocks stay until a sweep finds that nobody needs them."""
        self._objects.delete([names.manifest_path(snapshot_id)])

    def put_pin(self, pin: str, part: int, packed: bytes) -> None:
        """Keep the names in ``packed`` from being swept, durably. See `publish.Pin`."""
        body = packed + hashlib.sha256(packed).digest()
        self._objects.put(f"{pin}{part:08x}", body, sha256=hashlib.sha256(body).digest())

    def release_pin(self, pin: str) -> None:
        """Say that a pin is not needed any more. A sweep removes it; nobody else may (decision 0040)."""
        self._objects.put(f"{pin}{names.RELEASED}", b"", sha256=hashlib.sha256(b"").digest())

    def list_pins(self) -> Iterator[tuple[str, str, str]]:
        """Folder, owner and part (or ``released``) of all that is pinned."""
        found = (names.pin_at(entry.path) for entry in self._objects.entries(names.PINS))
        return (pin for pin in found if pin is not None)

    def get_pin(self, pin: str, part: str) -> set[BlockName]:
        """The names in a part of a pin; none when it is gone. Raises `ManifestDamaged`, so that no sweep guesses."""
        body = self._objects.get(pin + part, LARGEST_PIN * NAME_SIZE + 32)
        if body is None:
            return set()
        packed, digest = body[:-32], body[-32:]
        if len(packed) % NAME_SIZE or hashlib.sha256(packed).digest() != digest:
            raise ManifestDamaged(
                f"the pin {pin}{part} in {self.url} is corrupted or tampered with",
                hint="remove it if its owner no longer exists: until then nothing is swept",
            )
        return set(split_names(packed))

    def remove_pin(self, pin: str, parts: Iterable[str]) -> None:
        """Remove a released pin; for `sweep` alone. What says that it is released goes last."""
        self._objects.delete([pin + part for part in parts if part != names.RELEASED])
        self._objects.delete([pin + names.RELEASED])

    def put_marker(self, marker: str) -> None:
        """Say that a sweep is under way."""
        self._objects.put(marker, b"", sha256=hashlib.sha256(b"").digest())

    def has_marker(self, marker: str) -> bool:
        return bool(self._objects.present([marker]))

    def list_markers(self) -> list[Entry]:
        """The sweeps under way, and those that died."""
        return list(self._objects.entries(names.SWEEPS))

    def remove_marker(self, marker: str) -> None:
        self._objects.delete([marker])

    def sync(self) -> None:
        """Return once every block put before is durable."""
        self._objects.sync()

    def clean_up(self) -> int:
        """Remove what killed writers left half-done. Returns how many pieces went."""
        return self._objects.clean_up()

    def close(self) -> None:
        self._objects.close()

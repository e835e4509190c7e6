"""`DirectAccess`: what a server keeps between two requests of the EBS direct APIs, and which snapshots they may read.

Nothing here is needed for a request to be right: with another server, or after a restart, everything is found again in
the catalog, the store and the upload's folder. It saves opening stores, unwrapping keys and reading manifests.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from ebscrypt.control import data_key
from ebscrypt.control.block_tokens import Tokens
from ebscrypt.control.key_cache import KeyCache
from ebscrypt.control.snapshot_source import largest, witness_of
from ebscrypt.control.turning import BlockCipher
from ebscrypt.errors import InvalidBlockRequest, SnapshotNotFound
from ebscrypt.model import GIB, Snapshot, SnapshotState, check_snapshot_id
from ebscrypt.stores.addresses import open_store, store_url
from ebscrypt.stores.manifest import Manifest, Wrapping, decode
from ebscrypt.stores.names import BLOCK_SIZE

if TYPE_CHECKING:
    from ebscrypt.config import Settings
    from ebscrypt.control.site import Site
    from ebscrypt.control.upload_puts import UploadPuts
    from ebscrypt.stores.store import Store

MOST_MANIFESTS: Final = 4
"""Manifests kept while they are listed: 1 TiB of data has one of 64 MiB."""
MOST_UPLOADS: Final = 256


class DirectAccess:
    """What requests on one state directory share. Safe for use from several threads; to be closed, when none runs."""

    def __init__(self, settings: Settings, *, keys: KeyCache | None = None) -> None:
        self._settings = settings
        self.keys = keys or KeyCache()
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}
        self._manifests: OrderedDict[tuple[str, str | None], Manifest] = OrderedDict()
        self._uploads: OrderedDict[str, UploadPuts] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wipe the keys and close the stores."""
        self.keys.close()
        with self._lock:
            while self._stores:
                self._stores.popitem()[1].close()

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(Path(self._settings.paths.state) / "direct.key")

    def store(self, name: str) -> Store:
        """The store of that name or URL. Raises `StoreError`."""
        url = store_url(self._settings, name)
        with self._lock:
            if url not in self._stores:
                self._stores[url] = open_store(self._settings, url, create=False)
            return self._stores[url]

    def manifest(self, site: Site, snapshot: Snapshot) -> Manifest:
        """The manifest of a completed snapshot. Raises `StoreError`."""
        key = (snapshot.snapshot_id, snapshot.digest)
        with self._lock:
            if (known := self._manifests.get(key)) is not None:
                self._manifests.move_to_end(key)
                return known
        raw = self.store(snapshot.store).get_manifest(snapshot.snapshot_id, largest(snapshot))
        manifest = decode(raw, snapshot.snapshot_id, witness_of(site, snapshot))
        with self._lock:
            self._manifests[key] = manifest
            while len(self._manifests) > MOST_MANIFESTS:
                self._manifests.popitem(last=False)
        return manifest

    @contextmanager
    def cipher(self, site: Site, snapshot: Snapshot, wrapping: Wrapping | None = None) -> Iterator[BlockCipher]:
        """The blocks of an encrypted snapshot, ciphered: of a completed one, or of an upload with its ``wrapping``.

        Raises as `data_key.unwrapped` does, `KeyMismatch`, `StoreError`.
        """

        def unwrap() -> BlockCipher:
            with data_key.unwrapped(site, wrapping or self._wrapping(site, snapshot)) as key:
                return BlockCipher(snapshot.volume_size, snapshot.sector_size, key)

        # A rewrap gives another digest, and then what is kept of the old wrapped key serves nobody.
        with self.keys.cipher((snapshot.snapshot_id, snapshot.digest), unwrap) as cipher:
            yield cipher

    def _wrapping(self, site: Site, snapshot: Snapshot) -> Wrapping:
        wrapping = self.manifest(site, snapshot).header.encryption
        if wrapping is None:
            raise InvalidBlockRequest(f"snapshot {snapshot.snapshot_id} is encrypted, and its manifest is not")
        return wrapping

    def puts(self, snapshot_id: str) -> UploadPuts:
        """Where the blocks that are being put into a pending snapshot meet."""
        from ebscrypt.control.upload_puts import UploadPuts  # noqa: PLC0415 - it needs what is here

        with self._lock:
            found = self._uploads.setdefault(snapshot_id, UploadPuts(snapshot_id))
            self._uploads.move_to_end(snapshot_id)
            while len(self._uploads) > MOST_UPLOADS:
                self._uploads.popitem(last=False)
            return found


def readable(site: Site, snapshot_id: str) -> Snapshot:
    """A completed snapshot, whose blocks can be read.

    Raises `SnapshotNotFound`, also for one that is being deleted or has failed, and `InvalidBlockRequest` for one that
    is pending and for what is no id.
    """
    snapshot = existing(site, snapshot_id)
    if snapshot.state is SnapshotState.PENDING:
        raise InvalidBlockRequest(
            f"snapshot {snapshot_id} is pending: its blocks can be read once it is completed",
            reason="INVALID_SNAPSHOT_ID",
        )
    return snapshot


def existing(site: Site, snapshot_id: str) -> Snapshot:
    """A snapshot that is pending or completed. Raises as `readable` does."""
    snapshot = site.catalog.snapshots.get(check_snapshot_id(snapshot_id))
    if snapshot.deleting or snapshot.state is SnapshotState.ERROR:
        raise SnapshotNotFound(
            f"the snapshot {snapshot_id!r} " + ("is being deleted" if snapshot.deleting else "has failed"),
            hint=f"`ebscrypt snapshot show {snapshot_id}` tells more",
        )
    return snapshot


def size_in_gib(snapshot: Snapshot) -> int:
    """The size that EBS direct tells. Sizes here are bytes: what is missing to the next GiB reads as zeros."""
    return -(-snapshot.volume_size // GIB)


def block_count(snapshot: Snapshot) -> int:
    """Blocks of a snapshot in the size that `size_in_gib` tells."""
    return size_in_gib(snapshot) * (GIB // BLOCK_SIZE)

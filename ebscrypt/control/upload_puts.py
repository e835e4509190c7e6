"""`UploadPuts`: blocks that clients put into one pending snapshot at the same time, made to stay together.

A block is acknowledged once three things are durable: it is in the store, it is pinned there against sweeps, and the
log names it. Each takes a sync, which costs the same for one block as for many. So of the requests that wait, one does
it for all; those that come meanwhile are the next batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ebscrypt.control import faultpoints, locks, upload
from ebscrypt.control.upload_log import Record
from ebscrypt.errors import InvalidBlockRequest, SnapshotNotFound
from ebscrypt.model import SnapshotState
from ebscrypt.stores.names import BLOCK_SIZE, BlockName
from ebscrypt.stores.publish import Pin, secure

if TYPE_CHECKING:
    from ebscrypt.control.site import Site
    from ebscrypt.stores.store import Store

COMMAND: Final = "snapshot put"
MOST_PARTS: Final = 256
"""Parts of a pin, one for each batch, before they are joined: a sweep reads each of them."""
_NOTED: Final = 1.0
"""Seconds between two notes of the progress in the catalog: each is a transaction."""


@dataclass(eq=False, slots=True)
class _Put:
    record: Record
    stored: bytes
    done: bool = False
    error: BaseException | None = None


class UploadPuts:
    """The batches of one upload in this process. Other processes may have theirs: the snapshot's lock orders them."""

    def __init__(self, snapshot_id: str) -> None:
        self._snapshot_id = snapshot_id
        self._turn = threading.Condition()
        self._waiting: list[_Put] = []
        self._busy = False
        self._under_way: dict[int, tuple[bytes, int]] = {}
        self._pins: _Pins | None = None
        self._noted = 0.0

    @contextmanager
    def claimed(self, index: int, digest: bytes) -> Iterator[None]:
        """Be one of those who put this block with this content. Raises `InvalidBlockRequest` while another content is.

        One after the other they may: the last one counts.
        """
        with self._turn:
            known, others = self._under_way.get(index, (digest, 0))
            if known != digest:
                raise InvalidBlockRequest(
                    f"block {index} of {self._snapshot_id} is being written with other data at this moment",
                    reason="CONFLICTING_BLOCK_UPDATE",
                )
            self._under_way[index] = (digest, others + 1)
        try:
            yield
        finally:
            with self._turn:
                known, others = self._under_way.pop(index)
                if others > 1:
                    self._under_way[index] = (known, others - 1)

    def put(self, site: Site, store: Store, record: Record, stored: bytes) -> None:
        """Return once the block, which was put into the store, is there to stay. Raises what kept it from that."""
        mine = _Put(record, stored)
        with self._turn:
            self._waiting.append(mine)
            self._turn.wait_for(lambda: mine.done or not self._busy)
            if not mine.done:
                self._busy = True
        if not mine.done:
            self._lead(site, store)
        if mine.error is not None:
            raise mine.error

    def _lead(self, site: Site, store: Store) -> None:
        with self._turn:
            batch, self._waiting = self._waiting, []
        failure: BaseException | None = None
        try:
            self._make_stay(site, store, batch)
        except BaseException as error:  # noqa: BLE001 - each of the batch raises it
            failure = error
        with self._turn:
            for one in batch:
                one.done, one.error = True, failure
            self._busy = False
            self._turn.notify_all()

    def _make_stay(self, site: Site, store: Store, batch: list[_Put]) -> None:
        contents = {one.record.name: one.stored for one in batch if one.record.name is not None}

        def put_again(absent: set[BlockName]) -> None:
            for name in absent:
                store.put_block(name, contents[name])

        with locks.held(site.settings, self._snapshot_id, COMMAND):
            check_open(site, self._snapshot_id)
            if contents:
                if self._pins is None:
                    self._pins = _Pins(store, self._snapshot_id)
                secure(store, contents.keys(), pin=self._pins.next(contents.keys()), put_again=put_again)
            faultpoints.reach("upload.secured")
            log = upload.log_of(site.settings, self._snapshot_id)
            log.append(one.record for one in batch)
            faultpoints.reach("upload.logged")
            now = time.monotonic()
            if now - self._noted >= _NOTED:
                self._noted = now
                size = site.catalog.snapshots.get(self._snapshot_id).volume_size
                site.catalog.snapshots.progress(self._snapshot_id, min(size, log.records() * BLOCK_SIZE), size)


class _Pins:
    """The pin of the next batch. Now and then many small parts are joined to one."""

    def __init__(self, store: Store, owner: str) -> None:
        self._store, self._owner = store, owner
        self._joined, self._recent = Pin(store, owner), Pin(store, owner)
        self._names: list[set[BlockName]] = []

    def next(self, names: Iterable[BlockName]) -> Pin:
        if len(self._names) >= MOST_PARTS:
            self._joined.add(set().union(*self._names))
            self._recent.release()
            self._recent, self._names = Pin(self._store, self._owner), []
        self._names.append(set(names))
        return self._recent


def check_open(site: Site, snapshot_id: str) -> None:
    """Raise `InvalidBlockRequest` or `SnapshotNotFound` unless blocks may be put into this snapshot now."""
    snapshot = site.catalog.snapshots.get(snapshot_id)
    if snapshot.deleting:
        raise SnapshotNotFound(f"the snapshot {snapshot_id!r} is being deleted")
    is_pending = snapshot.state is SnapshotState.PENDING and upload.is_open(site, snapshot)
    if not is_pending or not upload.log_of(site.settings, snapshot_id).exists():
        raise not_pending(snapshot_id)


def not_pending(snapshot_id: str) -> InvalidBlockRequest:
    return InvalidBlockRequest(
        f"snapshot {snapshot_id} takes no blocks: it is not a pending one that StartSnapshot made, or was completed, "
        "or its time is up",
        reason="INVALID_SNAPSHOT_ID",
    )

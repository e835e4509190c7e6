"""`finish_deletion`: all of a snapshot's deletion after its note in the catalog.

The manifest is removed and the pins are released, then the row goes: nothing is left in a store that no row tells of.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

from ebscrypt.control import attached_source, faultpoints, locks, upload
from ebscrypt.control.site import Site
from ebscrypt.errors import StoreError
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.publish import release_pins

_POLL: Final = 0.05


def finish_deletion(site: Site, snapshot: Snapshot, *, force: bool = False) -> None:
    """The rest of a deletion that was noted; safe to repeat. The caller holds the snapshot's lock."""
    if snapshot.state is SnapshotState.PENDING and snapshot.copied_from is None:
        attached_source.give_up(site.settings, snapshot.volume_id, snapshot.snapshot_id)
    _wait_for_builders(site, snapshot)
    try:
        _remove_from_store(site, snapshot)
    except StoreError as error:
        if not force:
            raise type(error)(
                f"the deletion of {snapshot.snapshot_id} cannot be finished now: {error.message}",
                hint="delete it again later; --force forgets it, and leaves what is in the store",
            ) from error
        site.notes.append(f"what the store has of {snapshot.snapshot_id} is left there: {error.message}")
    faultpoints.reach("snapshot.unlisted")
    upload.forget(site.settings, snapshot.snapshot_id)
    site.catalog.snapshots.remove(snapshot.snapshot_id)
    faultpoints.reach("snapshot.forgotten")
    locks.forget(site.settings, snapshot.snapshot_id)


def _wait_for_builders(site: Site, snapshot: Snapshot) -> None:
    """Let a snapshot that builds on this one, and has just begun, pin its blocks first: some tenths of a second.

    No other can begin to build on it, since its deletion is noted. One that nobody works on is not waited for.
    """
    deadline = time.monotonic() + site.settings.attach.start_timeout
    while time.monotonic() < deadline:
        pending = site.catalog.snapshots.list(SnapshotState.PENDING, volume_id=snapshot.volume_id)
        builders = (other for other in pending if other.parent == snapshot.snapshot_id and other.bytes_total == 0)
        if not any(attached_source.is_of_attachment(site, builder) for builder in builders):
            return
        time.sleep(_POLL)


def _remove_from_store(site: Site, snapshot: Snapshot) -> None:
    with contextlib.closing(open_store(site.settings, snapshot.store, create=False)) as store:
        store.delete_manifest(snapshot.snapshot_id)
        faultpoints.reach("snapshot.manifest")
        release_pins(store, snapshot.snapshot_id)

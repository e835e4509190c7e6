"""`finish_deletion`: all of a snapshot's deletion after its note in the catalog.

The manifest is removed and the pins are released, then the row goes: nothing is left in a store that no row tells of.
"""

from __future__ import annotations

import contextlib

from ebscrypt.control import attached_source, faultpoints, locks, upload
from ebscrypt.control.site import Site
from ebscrypt.errors import StoreError
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.publish import release_pins


def finish_deletion(site: Site, snapshot: Snapshot, *, force: bool = False) -> None:
    """The rest of a deletion that was noted; safe to repeat. The caller holds the snapshot's lock.

    While another snapshot builds on it nothing is removed, and a note says so: `storing` goes on when that one has
    ended, as does any later command.
    """
    if snapshot.state is SnapshotState.PENDING and snapshot.copied_from is None:
        attached_source.give_up(site.settings, snapshot.volume_id, snapshot.snapshot_id)
    if (builder := builder_on(site, snapshot)) is not None:
        site.notes.append(f"{snapshot.snapshot_id} goes when {builder.snapshot_id}, which builds on it, is stored")
        return
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


def builder_on(site: Site, snapshot: Snapshot) -> Snapshot | None:
    """The pending snapshot that may need this one's manifest: what did not change in between is only listed there.

    Its storing process may die and another begin anew, so it needs it to its end. No other can begin to build on a
    snapshot whose deletion is noted.
    """
    pending = site.catalog.snapshots.list(SnapshotState.PENDING, volume_id=snapshot.volume_id)
    builders = (other for other in pending if other.parent == snapshot.snapshot_id and not other.deleting)
    return next((other for other in builders if attached_source.is_of_attachment(site, other)), None)


def _remove_from_store(site: Site, snapshot: Snapshot) -> None:
    with contextlib.closing(open_store(site.settings, snapshot.store, create=False)) as store:
        store.delete_manifest(snapshot.snapshot_id)
        faultpoints.reach("snapshot.manifest")
        release_pins(store, snapshot.snapshot_id)

"""Snapshots that are neither completed nor failed: who must wait for them, and who goes on with them after a crash.

`settle_snapshots` costs one query where there is nothing to do. What it finds goes on, ends, or is finished:

    pending, of a volume     a process is started that goes on with it
    pending, uploaded        left alone until its client completes it or its time is up, then the same
    being deleted            a process is started that finishes it
    pending, of a snapshot   a copy that was asked for in the background goes on in another process; any other ends in
                             ``error``: what made it was the command itself
    being rewrapped          the catalog follows what the store's manifest says

One whose lock is held is in the hands of a living process and is left alone.
"""

from __future__ import annotations

from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError, NotFound, StateError
from ebscrypt.model import Snapshot, SnapshotState, Volume, VolumeState


def refuse_while_read(site: Site, volume: Volume, wanted: str) -> None:
    """Raise `StateError` while a snapshot of a detached volume is made: ``wanted`` would change what it reads.

    One that was made while the volume was attached has lost its instant with the daemon: it ends in ``error``. Where
    the process that made it has died, the volume comes first: the snapshot ends in ``error``. The caller holds
    the volume's lock.
    """
    snapshot = site.catalog.snapshots.being_made(volume.volume_id)
    if snapshot is None or volume.state is not VolumeState.AVAILABLE:
        return
    from ebscrypt.control import attached_source, storing  # noqa: PLC0415 - rarely needed

    if not attached_source.is_of_attachment(site, snapshot) and storing.is_stored_now(site, snapshot.snapshot_id):
        raise StateError(
            f"volume {volume.volume_id} cannot be {wanted}: {snapshot.snapshot_id} is being made of it",
            hint=f"wait for it: `ebscrypt snapshot show {snapshot.snapshot_id} --wait`",
        )
    reason = StateError(f"the snapshot was interrupted, and its volume {wanted} before it could go on")
    storing.fail_snapshot(site, snapshot.snapshot_id, reason)
    site.notes.append(f"snapshot {snapshot.snapshot_id} has failed: {reason.message}")


def refuse_while_kept(site: Site, volume: Volume) -> None:
    """Raise `StateError` while the daemon of an attached volume keeps the instant of a snapshot that is being made."""
    snapshot = site.catalog.snapshots.being_made(volume.volume_id)
    if snapshot is None:
        return
    from ebscrypt.control import attached_source  # noqa: PLC0415 - rarely needed

    if attached_source.under_way(site.settings, volume.volume_id) == snapshot.snapshot_id:
        raise StateError(
            f"volume {volume.volume_id} cannot be detached: {snapshot.snapshot_id} is being made of it",
            hint=f"wait for it: `ebscrypt snapshot show {snapshot.snapshot_id} --wait`; --force ends it in an error",
        )


def end_with_attachment(site: Site, volume_id: str) -> None:
    """Let a snapshot end in ``error`` whose instant was kept by a daemon that is gone. The caller has the lock."""
    snapshot = site.catalog.snapshots.being_made(volume_id)
    if snapshot is None:
        return
    from ebscrypt.control import attached_source, storing  # noqa: PLC0415 - rarely needed

    if attached_source.is_of_attachment(site, snapshot):
        reason = StateError("the volume was detached, or its daemon died, before the snapshot was complete")
        storing.fail_snapshot(site, snapshot.snapshot_id, reason)
        site.notes.append(f"snapshot {snapshot.snapshot_id} has failed: {reason.message}")


def settle_snapshots(site: Site) -> None:
    """Take up what no living process works on. What cannot be done now becomes a note, never an error."""
    for snapshot in site.catalog.snapshots.unsettled():
        try:
            _settle(site, snapshot)
        except (EbscryptError, OSError) as error:
            site.notes.append(f"snapshot {snapshot.snapshot_id} could not be put in order yet: {error}")


def _settle(site: Site, snapshot: Snapshot) -> None:
    # Imported when there is something to do: it is what every command would wait for otherwise.
    from ebscrypt.control import copy_undone, locks, rewrap_snapshot, snapshot_deletion, storing, upload  # noqa: PLC0415

    snapshot_id = snapshot.snapshot_id
    if storing.is_stored_now(site, snapshot_id):
        return
    if snapshot.state is SnapshotState.PENDING and not snapshot.deleting and upload.is_open(site, snapshot):
        return
    if snapshot.deleting and snapshot_deletion.builder_on(site, snapshot) is not None:
        return
    if snapshot.deleting or (snapshot.state is SnapshotState.PENDING and _goes_on(site, snapshot)):
        storing.start_storing(site, snapshot_id)
        return
    with locks.held(site.settings, snapshot_id, "recover", timeout=0):
        try:
            now = site.catalog.snapshots.get(snapshot_id)
        except NotFound:
            locks.forget(site.settings, snapshot_id)
            return
        if now.state is SnapshotState.COMPLETED and not now.deleting:
            rewrap_snapshot.settle_rewrap(site, snapshot_id)
        elif now.state is SnapshotState.PENDING and not now.deleting:
            copy_undone.undo_interrupted_copy(site, now)


def _goes_on(site: Site, snapshot: Snapshot) -> bool:
    """Whether a pending snapshot is one that a process of its own works on."""
    from ebscrypt.control.copy_undone import copy_job  # noqa: PLC0415 - rarely needed

    if snapshot.copied_from is None:
        return True
    job = copy_job(site, snapshot)
    return job is not None and job.in_background

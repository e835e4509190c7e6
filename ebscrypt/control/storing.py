"""`settle_snapshot`: the work behind a pending snapshot, in a process of its own that outlives command and login.

    ebscrypt snapshot settle SNAP        started by `create_snapshot`, and by `recover` when it died

It holds the snapshot's lock while it works, so there is one at most. When the blocks and the manifest are in the store
(`BlockStoring`), one transaction has the state ``completed``, the digest and the event. Whatever fails ends in
``error``; a deletion is noticed when the progress is noted next. A deletion that was interrupted is finished by such a
process as well: no other command shall wait for a store that does not answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec

from ebscrypt.catalog.events import SnapshotEvent
from ebscrypt.control import attached_source, background, faultpoints, locks, upload
from ebscrypt.control.block_source import Job
from ebscrypt.control.block_storing import BlockStoring, Published
from ebscrypt.control.causes import event_cause, failure_text
from ebscrypt.control.site import Site
from ebscrypt.control.snapshot_deletion import finish_deletion
from ebscrypt.control.upload import UploadJob
from ebscrypt.control.upload_storing import UploadStoring
from ebscrypt.errors import EbscryptError, NotFound, StateError, StoreError
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import decode, largest_manifest
from ebscrypt.stores.names import BLOCK_SIZE
from ebscrypt.stores.publish import release_pins
from ebscrypt.stores.store import Store
from ebscrypt.stores.witness import Witness, load_manifest_key

COMMAND: Final = "snapshot settle"
"""What holds a snapshot's lock while its blocks are stored."""


def start_storing(site: Site, snapshot_id: str) -> None:
    """Have a process of its own do the work, without waiting for it. It ends at once if another is at it.

    Raises `StateError` when no process can be started: the next command tries again.
    """
    background.start(
        site,
        [*COMMAND.split(), snapshot_id],
        description=f"Blocks of {snapshot_id}",
        purpose=f"stores the blocks of {snapshot_id}",
    )


def is_stored_now(site: Site, snapshot_id: str) -> bool:
    """Whether a process holds the snapshot's lock: it is storing blocks, or deleting them."""
    return locks.holder(site.settings, snapshot_id) is not None


def settle_snapshot(site: Site, snapshot_id: str) -> None:
    """Do the work of a pending snapshot to its end, whichever that is. Nothing where it is done, or another does it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(site.settings, snapshot_id, COMMAND, timeout=0))
        except StateError:
            return
        try:
            snapshot = site.catalog.snapshots.get(snapshot_id)
        except NotFound:
            locks.forget(site.settings, snapshot_id)
            return
        if snapshot.deleting:
            finish_deletion(site, snapshot)
        elif snapshot.state is SnapshotState.PENDING and snapshot.copied_from is not None:
            from ebscrypt.control.start_copy import continue_copy  # noqa: PLC0415 - it imports us

            continue_copy(site, snapshot)
        elif snapshot.state is SnapshotState.PENDING and not upload.is_open(site, snapshot):
            store_snapshot(site, snapshot)
            stack.callback(_finish_parent, site, snapshot)


def _finish_parent(site: Site, snapshot: Snapshot) -> None:
    """Go on with the deletion of the snapshot that this one was built on, if that has been waiting for its end."""
    for other in site.catalog.snapshots.unsettled():
        if other.deleting and other.snapshot_id == snapshot.parent:
            with contextlib.suppress(StateError):  # the next command starts it
                start_storing(site, other.snapshot_id)


def store_snapshot(site: Site, snapshot: Snapshot) -> None:
    """The work of `settle_snapshot` on a pending snapshot, for who holds its lock."""
    try:
        job = _job(site, snapshot)
        with contextlib.closing(open_store(site.settings, job.store_url)) as store:
            try:
                done = _published(site, snapshot, store)
                if done is None:
                    done = _storing(site, snapshot, job, store).run()
                elif isinstance(job, Job) and job.stamp is None:
                    attached_source.complete(site.settings, snapshot.volume_id, snapshot.snapshot_id)
            finally:
                # Also those of a process that died at this work. What was stored stays for a while, as any young block.
                _release(store, snapshot.snapshot_id)
    except Exception as error:
        # Whatever it is, it must not be tried again by every command from now on.
        fail_snapshot(site, snapshot.snapshot_id, error)
        if not isinstance(error, EbscryptError | OSError):
            raise
        return
    faultpoints.reach("snapshot.released")
    _complete(site, snapshot, done)


def _storing(site: Site, snapshot: Snapshot, job: Job | UploadJob, store: Store) -> BlockStoring | UploadStoring:
    if isinstance(job, UploadJob):
        return UploadStoring(site, snapshot, job, store)
    return BlockStoring(site, snapshot, job, store)


def _release(store: Store, snapshot_id: str) -> None:
    """A store that does not answer now has told so already; deleting the snapshot releases what is left."""
    with contextlib.suppress(StoreError):
        release_pins(store, snapshot_id)


def _job(site: Site, snapshot: Snapshot) -> Job | UploadJob:
    if (uploading := upload.upload_job(site, snapshot.snapshot_id)) is not None:
        return uploading
    raw = site.catalog.snapshots.job(snapshot.snapshot_id)
    if raw is None:
        raise StateError(f"snapshot {snapshot.snapshot_id} was interrupted, and nothing says how it goes on")
    return msgspec.json.decode(raw, type=Job)


def _complete(site: Site, snapshot: Snapshot, done: Published) -> None:
    with contextlib.suppress(StateError, NotFound):  # deleted in the last moment
        site.catalog.snapshots.change_state(
            snapshot.snapshot_id,
            SnapshotState.PENDING,
            SnapshotState.COMPLETED,
            site.snapshot_event(SnapshotEvent.CREATE, "succeeded", snapshot, end_time=done.completion_time),
            completion_time=done.completion_time,
            digest=done.digest.hex(),
        )
        faultpoints.reach("snapshot.completed")
    upload.forget(site.settings, snapshot.snapshot_id)


def fail_snapshot(site: Site, snapshot_id: str, error: BaseException) -> None:
    """Let a pending snapshot end in ``error``, with its reason and event. Nothing where it is not pending any more."""
    with contextlib.suppress(StateError, NotFound):
        snapshot = site.catalog.snapshots.get(snapshot_id)
        if attached_source.is_of_attachment(site, snapshot):
            attached_source.give_up(site.settings, snapshot.volume_id, snapshot_id)
        kind = SnapshotEvent.CREATE if snapshot.copied_from is None else SnapshotEvent.COPY
        site.catalog.snapshots.change_state(
            snapshot_id,
            SnapshotState.PENDING,
            SnapshotState.ERROR,
            site.snapshot_event(kind, "failed", snapshot, cause=event_cause(error)),
            state_message=failure_text(error, str(error) or "the snapshot was interrupted"),
        )
        faultpoints.reach("snapshot.failed")
    upload.forget(site.settings, snapshot_id)


def _published(site: Site, snapshot: Snapshot, store: Store) -> Published | None:
    """The manifest that a process wrote which died before it could say so; None where there is none."""
    if not store.has_manifest(snapshot.snapshot_id):
        return None
    witness = Witness(keys=(load_manifest_key(site.settings.manifest_key_path),))
    limit = largest_manifest(-(-snapshot.volume_size // BLOCK_SIZE))
    manifest = decode(store.get_manifest(snapshot.snapshot_id, limit), snapshot.snapshot_id, witness)
    return Published(manifest.digest, manifest.header.completion_time)


def wait_for_snapshot(
    site: Site, snapshot_id: str, progress: Callable[[Snapshot], None] | None = None, *, poll: float = 0.2
) -> Snapshot:
    """The snapshot once it is not pending any more. Who waits also sees to it that somebody is at work on it.

    ``progress`` is called with what is known of it, every ``poll`` seconds. Raises `SnapshotNotFound` when it was
    deleted meanwhile.
    """
    idle = time.monotonic()
    while True:
        snapshot = site.catalog.snapshots.get(snapshot_id)
        if progress is not None:
            progress(snapshot)
        if snapshot.state is not SnapshotState.PENDING:
            return snapshot
        if is_stored_now(site, snapshot_id) or upload.is_open(site, snapshot):
            idle = time.monotonic()
        elif time.monotonic() - idle > site.settings.attach.start_timeout:
            raise StateError(
                f"nothing stores the blocks of {snapshot_id}", hint="each command tries to start it: look at `dmesg`"
            )
        time.sleep(poll)

"""What is left of a copy that failed or died: nothing in the stores, and a row that says why.

`copy_snapshot` calls it for its own failures, `unfinished` for a copy whose process is gone.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ebscrypt.catalog.events import SnapshotEvent
from ebscrypt.control import faultpoints, regions, snapshot_source
from ebscrypt.control.causes import event_cause, failure_text
from ebscrypt.errors import (
    ConfigError,
    EbscryptError,
    InvalidParameter,
    KmsAccessDenied,
    KmsInvalidKeyUsage,
    KmsKeyNotFound,
    KmsKeyUnusable,
    SnapshotNotFound,
    StateError,
)
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.publish import release_pins

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

_KEY_NOT_ACCESSIBLE: Final = "Given key ID is not accessible"
"""How EC2 begins the message of a copy that a KMS key stood in the way of (facts §1.7); clients look for it."""
_ABOUT_A_KEY: Final = (KmsAccessDenied, KmsInvalidKeyUsage, KmsKeyNotFound, KmsKeyUnusable)


class CopyJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a copy under way besides its row: the Region of its source.

    With ``in_background`` no command is waiting for it, and a process goes on with it (`start_copy`); ``kms_key_id`` is
    then the name of its key, None for the AWS managed one.
    """

    source_region: str
    in_background: bool = False
    kms_key_id: str | None = None


def copy_job(site: Site, copy: Snapshot) -> CopyJob | None:
    """The job of a pending copy; None for one within a Region that a command makes."""
    job = site.catalog.snapshots.job(copy.snapshot_id)
    return None if job is None else msgspec.json.decode(job, type=CopyJob)


def undo_interrupted_copy(site: Site, copy: Snapshot) -> None:
    """`undo_copy` for one whose process has died. What it pinned in a Region that is unknown by now stays pinned."""
    error, job = StateError("the copy was interrupted"), copy_job(site, copy)
    if job is None:
        undo_copy(site, copy, error)
        return
    region = job.source_region
    try:
        with regions.site_of(site, region) as source_site:
            undo_copy(site, copy, error, source_site=source_site)
    except (ConfigError, InvalidParameter) as failure:
        site.notes.append(f"the blocks that {copy.snapshot_id} needed stay pinned in {region}: {failure.message}")
        undo_copy(site, copy, error)


def undo_copy(
    site: Site,
    copy: Snapshot,
    error: BaseException,
    *,
    source_site: Site | None = None,
    began: datetime | None = None,
) -> None:
    """Take back a failed or interrupted copy, and keep the record with its reason.

    One that was completed in the last moment stays. The record of one that is being deleted is left to its deletion.
    """
    now = _row_now(site, copy)
    if now is not None and now.state is not SnapshotState.PENDING:
        return
    at = source_site or site
    reason = failure_text(error, "the copy was interrupted")
    if isinstance(error, _ABOUT_A_KEY):
        reason = f"{_KEY_NOT_ACCESSIBLE}: {reason}"
    try:
        remove_from_store(site, copy)
    except EbscryptError as failure:
        reason += f"; and the store {copy.store} could not be cleaned: {failure.message}"
    if copy.copied_from is not None:
        snapshot_source.let_go(at, copy.copied_from, copy.snapshot_id)
    faultpoints.reach("copy.undone")
    if now is None or now.deleting:
        return
    site.catalog.snapshots.change_state(
        copy.snapshot_id,
        SnapshotState.PENDING,
        SnapshotState.ERROR,
        copy_event(
            site,
            copy,
            "failed",
            began or copy.start_time,
            source_region=at.settings.kms.region,
            cause=event_cause(error),
        ),
        state_message=reason,
    )


def remove_from_store(site: Site, copy: Snapshot) -> None:
    """Take back the manifest of a copy and its pins there, if there are any. Raises `StoreError`."""
    with contextlib.closing(open_store(site.settings, copy.store, create=False)) as store:
        store.delete_manifest(copy.snapshot_id)
        release_pins(store, copy.snapshot_id)


def _row_now(site: Site, copy: Snapshot) -> Snapshot | None:
    try:
        return site.catalog.snapshots.get(copy.snapshot_id)
    except SnapshotNotFound:
        return None


def copy_event(
    site: Site,
    copy: Snapshot,
    result: str,
    began: datetime,
    *,
    source_region: str,
    cause: str = "",
    incremental: bool | None = None,
) -> dict[str, Any]:
    """The row's start time is that of the data, an event's that of the copy."""
    told = msgspec.structs.replace(copy, start_time=began)
    return site.snapshot_event(
        SnapshotEvent.COPY, result, told, cause=cause, incremental=incremental, source_region=source_region
    )

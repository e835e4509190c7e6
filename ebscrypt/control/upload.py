"""A snapshot that a client uploads block by block: what its row's job says, and its folder below the state directory.

    uploads/snap-…/log               every block that was acknowledged; see `upload_log`
    uploads/snap-…/parent.manifest   the blocks that it builds on, pinned for it

It is pending until CompleteSnapshot seals the log. With no block for the time that the client asked for, it ends in
``error``: `recover` and every use look at that. No process works on it, so nothing has to be resumed after a crash.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from ebscrypt import durable
from ebscrypt.control.upload_log import UploadLog
from ebscrypt.stores.manifest import Wrapping

if TYPE_CHECKING:
    from ebscrypt.config import Settings
    from ebscrypt.control.site import Site
    from ebscrypt.model import Snapshot

NO_VOLUME: Final = "vol-fffffffffffffffff"
"""The volume of a snapshot that was made of none; EC2 shows vol-ffffffff for it."""


class UploadJob(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="upload"):
    """What is fixed when an upload starts, besides what the catalog's row says.

    ``store_url`` is where its store lay then. ``encryption`` is the wrapped data key, None for a plain snapshot.
    ``timeout`` (seconds) is how long it may stay without another block.
    """

    store_url: str
    region: str
    encryption: Wrapping | None = None
    timeout: int


class _AnyJob(msgspec.Struct, frozen=True):
    kind: str = "volume"


def upload_job(site: Site, snapshot_id: str) -> UploadJob | None:
    """The job of a pending upload; None for a snapshot that is made in another way or not pending."""
    raw = site.catalog.snapshots.job(snapshot_id)
    if raw is None or msgspec.json.decode(raw, type=_AnyJob).kind != "upload":
        return None
    return msgspec.json.decode(raw, type=UploadJob)


def folder(settings: Settings, snapshot_id: str) -> Path:
    return Path(settings.paths.state) / "uploads" / snapshot_id


def log_of(settings: Settings, snapshot_id: str) -> UploadLog:
    return UploadLog(folder(settings, snapshot_id) / "log", snapshot_id)


def parent_path(settings: Settings, snapshot_id: str) -> Path:
    return folder(settings, snapshot_id) / "parent.manifest"


def expires_at(site: Site, snapshot: Snapshot, job: UploadJob) -> float:
    """When the upload ends if no block comes, in seconds since 1970."""
    try:
        last = log_of(site.settings, snapshot.snapshot_id).modified()
    except FileNotFoundError:
        # Its start was interrupted.
        last = snapshot.start_time.timestamp()
    return last + job.timeout


def is_open(site: Site, snapshot: Snapshot) -> bool:
    """Whether a pending snapshot is an upload that still waits for its client."""
    job = upload_job(site, snapshot.snapshot_id)
    if job is None or time.time() >= expires_at(site, snapshot, job):
        return False
    try:
        return not log_of(site.settings, snapshot.snapshot_id).is_sealed()
    except FileNotFoundError:
        return True


def forget(settings: Settings, snapshot_id: str) -> None:
    """Remove what is kept of an upload that has ended. Nothing for any other snapshot."""
    path = folder(settings, snapshot_id)
    if path.exists():
        shutil.rmtree(path)
        durable.sync_directory(path.parent)

"""Snapshots: made, tagged and deleted. `storing` has the work behind it, `verify_snapshots` the check.

The instant of a snapshot is that of the call. A detached volume stays as it is until its blocks are stored, since
nothing of ours attaches or deletes it before: `unfinished.refuse_while_read`. Of an attached one the daemon keeps the
instant: `attached_source`. No key and no KMS is needed for any of this.

Blocks that no snapshot needs any more are swept, once they are older than ``stores.grace``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ebscrypt.catalog.reading import snapshot_limit
from ebscrypt.control import attached_source, block_source, faultpoints, freezing, headers, locks, storing
from ebscrypt.control.attach import refuse_unless_served
from ebscrypt.control.block_source import Job
from ebscrypt.control.fill_job import refuse_while_filling
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshot_deletion import finish_deletion
from ebscrypt.control.tags import check_tags
from ebscrypt.errors import InvalidParameter, StateError
from ebscrypt.model import (
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
    check_snapshot_id,
    data_encryption_key_id,
    new_snapshot_id,
    utc_now,
)
from ebscrypt.stores.addresses import open_store, store_url
from ebscrypt.stores.manifest import Wrapping
from ebscrypt.stores.names import BLOCK_SIZE
from ebscrypt.stores.sweep import Swept, sweep

LONGEST_DESCRIPTION: Final = 255
_DELETE: Final = "snapshot delete"


def create_snapshot(
    site: Site,
    volume_id: str,
    *,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    store: str | None = None,
    freeze: bool = False,
) -> Snapshot:
    """Make a snapshot of the volume as it is now, and return it ``pending``: its blocks are stored in the background.

    ``store`` is a name of the settings or a URL, None the default. Of an attached volume all writes that completed
    before the instant are in it, and none that came after; with ``freeze`` the file systems that are mounted of it are
    frozen until the instant is fixed (`freezing`). Raises `VolumeNotFound`, `SnapshotLimit` while another is
    made of this volume, `StateError` where its daemon has died or notes no changes, `DaemonError`, `HeaderError`,
    `BackingError`, and `StoreError` when the store cannot be opened. Then nothing has been made.
    """
    checked = check_tags(tags or {})
    check_description(description)
    name = store or site.settings.stores.default
    url = store_url(site.settings, name)
    open_store(site.settings, url).close()
    with on_volume(site, volume_id, "snapshot create"):
        volume = site.catalog.volume(volume_id)
        refuse_while_filling(site, volume_id, "snapshotted")
        written = _check(site, volume)
        offset, wrapping = _header(volume)
        planned = _planned(site, volume, wrapping, store=name, description=description, tags=checked)
        job = Job(store_url=url, region=site.settings.kms.region, encryption=wrapping, offset=offset)
        if written:
            snapshot = _enter_attached(site, volume, planned, job, freeze=freeze)
        else:
            snapshot = _enter_still(site, volume, planned, job)
            if freeze:
                site.notes.append(f"nothing was frozen: nobody can write to volume {volume_id}")
        faultpoints.reach("snapshot.entered")
    storing.start_storing(site, snapshot.snapshot_id)
    faultpoints.reach("snapshot.started")
    return snapshot


def check_description(text: str) -> str:
    """Return ``text`` if a snapshot may have it as its description, else raise `InvalidParameter`."""
    if len(text) > LONGEST_DESCRIPTION:
        raise InvalidParameter(f"the description has {len(text)} characters, over {LONGEST_DESCRIPTION}")
    if not text.isprintable():
        raise InvalidParameter("the description has a character that cannot be printed")
    return text


def _check(site: Site, volume: Volume) -> bool:
    """Refuse what has no state to keep; whether the volume is attached in such a way that it may be written to."""
    if volume.state is VolumeState.IN_USE:
        return not refuse_unless_served(site, volume.volume_id).read_only
    if volume.state is not VolumeState.AVAILABLE:
        raise StateError(f"volume {volume.volume_id} is {volume.state}", hint=f"see `ebscrypt show {volume.volume_id}`")
    return False


def _enter_still(site: Site, volume: Volume, planned: Snapshot, job: Job) -> Snapshot:
    """Of a volume that nobody writes to the instant is the backing as it is now."""
    with block_source.claimed_for_reading(volume) as descriptor:
        job = msgspec.structs.replace(job, stamp=block_source.stamp_of(descriptor))
        _enter(site, planned, job)
    return planned


def _enter_attached(site: Site, volume: Volume, planned: Snapshot, job: Job, *, freeze: bool) -> Snapshot:
    """Of one that is written to the daemon keeps the instant, also if this process dies before anybody knows of it."""
    volume_id, snapshot_id = volume.volume_id, planned.snapshot_id
    if (other := site.catalog.snapshots.being_made(volume_id)) is not None:
        raise snapshot_limit(other)
    since = _base(site, volume, planned.parent)
    attachment = refuse_unless_served(site, volume_id)
    try:
        with freezing.frozen(site, attachment) if freeze else contextlib.nullcontext():
            begun = attached_source.begin(site, volume_id, snapshot_id, since=since)
            snapshot = msgspec.structs.replace(planned, volume_size=begun.size, start_time=utc_now())
        faultpoints.reach("snapshot.begun")
        _enter(site, snapshot, job)
    except BaseException:
        attached_source.give_up(site.settings, volume_id, snapshot_id)
        raise
    return snapshot


def _enter(site: Site, snapshot: Snapshot, job: Job) -> None:
    site.catalog.snapshots.add(snapshot, job=msgspec.json.encode(job).decode(), alone=True)


def _base(site: Site, volume: Volume, parent: str | None) -> str | None:
    """The snapshot that an incremental one can build on.

    Where the volume grew behind a short last block that one is longer now, though nobody wrote to it.
    """
    if parent is None:
        return None
    size = site.catalog.snapshots.get(parent).volume_size
    return None if size % BLOCK_SIZE and size != volume.size else parent


def _header(volume: Volume) -> tuple[int, Wrapping | None]:
    """Where the data begins in the backing, and the wrapped data key as the header has it; None for a plain volume."""
    if not volume.encrypted:
        return 0, None
    header = headers.read(volume).header
    token = header.token()
    headers.check_token(volume, token)
    wrapping = Wrapping(
        kms_key_arn=token.kms_key_arn,
        wrapped_key=token.wrapped_key,
        encryption_context=token.encryption_context,
        data_encryption_key_id=data_encryption_key_id(volume.volume_id, token.data_encryption_key_id),
    )
    return header.segment().data_offset, wrapping


def _planned(
    site: Site,
    volume: Volume,
    wrapping: Wrapping | None,
    *,
    store: str,
    description: str,
    tags: Mapping[str, str],
) -> Snapshot:
    """The row of the snapshot to be. Its parent is the newest one of this volume in the same store."""
    older = [
        snapshot
        for snapshot in site.catalog.snapshots.list(SnapshotState.COMPLETED, volume_id=volume.volume_id, store=store)
        if snapshot.copied_from is None and not snapshot.deleting
    ]
    return Snapshot(
        snapshot_id=new_snapshot_id(),
        volume_id=volume.volume_id,
        state=SnapshotState.PENDING,
        volume_size=volume.size,
        sector_size=volume.sector_size,
        encrypted=volume.encrypted,
        kms_key_arn=None if wrapping is None else wrapping.kms_key_arn,
        data_encryption_key_id=None if wrapping is None else wrapping.data_encryption_key_id,
        description=description,
        start_time=utc_now(),
        store=store,
        parent=older[-1].snapshot_id if older else None,
        tags=dict(tags),
    )


def tag_snapshot(site: Site, snapshot_id: str, tags: Mapping[str, str], *, remove: Iterable[str] = ()) -> Snapshot:
    """Set ``tags`` and remove the keys in ``remove``, as `tag_volume` does. Raises `SnapshotNotFound`."""
    check_tags(tags)
    gone = frozenset(remove)

    def merge(old: Mapping[str, str]) -> dict[str, str]:
        return check_tags({key: value for key, value in old.items() if key not in gone} | dict(tags))

    return site.catalog.snapshots.change_tags(check_snapshot_id(snapshot_id), merge)


def delete_snapshot(site: Site, snapshot_id: str, *, force: bool = False) -> Snapshot:
    """Delete a snapshot, in whichever state it is; returns what it was. One that is pending is given up.

    Other snapshots and volumes made from it lose nothing. With ``force`` it is forgotten even if its store cannot be
    reached. Raises `SnapshotNotFound`, `StoreError`, and `StateError` when the process that stores its blocks does not
    take notice in time; the deletion is finished later then, by `recover` or by deleting again.
    """
    snapshot = site.catalog.snapshots.begin_deletion(check_snapshot_id(snapshot_id))
    faultpoints.reach("snapshot.deleting")
    with locks.held(site.settings, snapshot_id, _DELETE):
        finish_deletion(site, snapshot, force=force)
    return snapshot


def sweep_store(site: Site, name: str) -> Swept:
    """Free what no snapshot needs in the store of that name or URL. Raises `StoreError`."""
    with contextlib.closing(open_store(site.settings, name, create=False)) as store:
        return sweep(store, grace=site.settings.stores.grace)

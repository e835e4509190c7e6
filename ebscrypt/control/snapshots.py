"""Snapshots: made, described, tagged and deleted. `storing` has the work behind it, `verify_snapshots` the check.

The instant of a snapshot is that of the call. A detached volume stays as it is until its blocks are stored, since
nothing of ours attaches or deletes it before: `unfinished.refuse_while_read`. No key and no KMS is needed for any of
this.

Blocks that no snapshot needs any more are swept, once they are older than ``stores.grace``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ebscrypt.control import block_source, faultpoints, headers, locks, storing
from ebscrypt.control.block_source import Job
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshot_deletion import finish_deletion
from ebscrypt.control.tags import check_tags
from ebscrypt.errors import InvalidParameter, StateError, VolumeInUse
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
) -> Snapshot:
    """Make a snapshot of the volume as it is now, and return it ``pending``: its blocks are stored in the background.

    ``store`` is a name of the settings or a URL, None the default. Raises `VolumeNotFound`, `SnapshotLimit` while
    another is made of this volume, `VolumeInUse` for one that is attached, `HeaderError`, `BackingError`, and
    `StoreError` when the store cannot be opened. Then nothing has been made.
    """
    checked = check_tags(tags or {})
    check_description(description)
    name = store or site.settings.stores.default
    url = store_url(site.settings, name)
    open_store(site.settings, url).close()
    with on_volume(site, volume_id, "snapshot create"):
        volume = site.catalog.volume(volume_id)
        _check(volume)
        with block_source.claimed_for_reading(volume) as descriptor:
            offset, wrapping = _header(volume)
            job = Job(
                store_url=url,
                region=site.settings.kms.region,
                encryption=wrapping,
                offset=offset,
                stamp=block_source.stamp_of(descriptor),
            )
            snapshot = _planned(site, volume, wrapping, store=name, description=description, tags=checked)
            site.catalog.snapshots.add(snapshot, job=msgspec.json.encode(job).decode(), alone=True)
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


def _check(volume: Volume) -> None:
    if volume.state is VolumeState.IN_USE:
        raise VolumeInUse(
            f"volume {volume.volume_id} is attached, and snapshots are made of detached volumes",
            hint=f"detach it first: `ebscrypt detach {volume.volume_id}`",
        )
    if volume.state is not VolumeState.AVAILABLE:
        raise StateError(f"volume {volume.volume_id} is {volume.state}", hint=f"see `ebscrypt show {volume.volume_id}`")


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


def describe_snapshots(site: Site, *, volume_id: str | None = None) -> list[Snapshot]:
    """All snapshots, or those of a volume, oldest first."""
    return site.reading.snapshots.list(volume_id=volume_id)


def describe_snapshot(site: Site, snapshot_id: str) -> Snapshot:
    """One snapshot. Raises `InvalidParameter` for what is no id, `SnapshotNotFound`."""
    return site.reading.snapshots.get(check_snapshot_id(snapshot_id))


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

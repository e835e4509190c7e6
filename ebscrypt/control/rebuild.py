"""`rebuild_catalog`: the catalog from the volumes themselves, should it be lost or damaged, or a backing have moved.

Every encrypted volume says in its header what it is, every plain one in its sidecar. Looked at are the volumes in the
state directory and the paths that were given (files, devices, or directories of files). A row that is there stays,
except that a volume found elsewhere than the catalog says is moved there. Tags are in the catalog alone and are lost
with it. So are the grants of attachments, which KMS is asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from ebscrypt import durable, luks2
from ebscrypt.control import backing, faultpoints, fill_job, grants, remains, runtime, sidecar
from ebscrypt.control.site import Site
from ebscrypt.errors import BackingError, CatalogDamaged, EbscryptError, VolumeNotFound
from ebscrypt.model import BackingKind, Volume, VolumeState


class Outcome(StrEnum):
    ADDED = "added"
    KNOWN = "known"
    MOVED = "moved"
    REFUSED = "refused"


class Found(msgspec.Struct, frozen=True, rename="pascal"):
    """What became of one place that was looked at."""

    path: str
    result: Outcome
    volume_id: str | None = None
    message: str | None = None
    snapshot_id: str | None = None


def rebuild_catalog(site: Site, paths: Sequence[str] = ()) -> list[Found]:
    """Enter every volume that is found and not in the catalog. A damaged catalog is set aside first, never removed."""
    _set_aside_if_damaged(site)
    found = []
    for path in _places(site, paths):
        try:
            found.append(_take_in(site, path, _read(site, path)))
        except EbscryptError as error:
            found.append(Found(str(path), Outcome.REFUSED, message=error.message))
        faultpoints.reach("rebuild.entered")
    entered = [place.volume_id for place in found if place.volume_id and place.result is not Outcome.REFUSED]
    grants.note_grants(site, map(site.catalog.volume, entered))
    return found


def _set_aside_if_damaged(site: Site) -> None:
    path = site.settings.catalog_path
    try:
        site.catalog.volumes()
    except CatalogDamaged as error:
        site.forget_catalog()
        aside = f"{path}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        for suffix in ("", "-wal", "-shm"):
            if Path(f"{path}{suffix}").exists():
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
        durable.sync_directory(path.parent)
        site.notes.append(f"{error.message}: it was renamed to {aside}")


def _places(site: Site, paths: Sequence[str]) -> Iterator[Path]:
    """Files and devices to look at, each once."""
    seen = set()
    for path in [site.settings.volumes_dir, *map(Path, paths)]:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        for place in inside if path.exists() or path != site.settings.volumes_dir else []:
            name = backing.canonical(str(place))
            hidden = place.name.startswith(".") or (path.is_dir() and not _may_be(place))
            if name not in seen and not hidden:
                seen.add(name)
                yield Path(name)


def _may_be(place: Path) -> bool:
    """Whether a directory's entry is worth a look: sidecars, and whatever is a file or device but no raw data."""
    mode = place.lstat().st_mode
    return (stat.S_ISREG(mode) or stat.S_ISBLK(mode)) and place.suffix != ".raw"


def _read(site: Site, path: Path) -> Volume:
    """The volume at ``path``: a sidecar, or a backing with our header. Raises `EbscryptError` for anything else."""
    if path.suffix == ".json":
        with backing.translated(str(path), "read"):
            volume = sidecar.read_sidecar(path)
        found = backing.find(volume.backing)
        if found is None or found.size < volume.size:
            raise BackingError(f"the backing {volume.backing} of {volume.volume_id} is not there, or too short")
        # What a sidecar from elsewhere says must never let `delete` remove a file from elsewhere.
        owned = volume.backing_owned and _is_in_volumes_dir(site, Path(volume.backing))
        return _with_state(site, msgspec.structs.replace(volume, backing_owned=owned))
    found = backing.find(str(path))
    if found is None:
        raise BackingError(f"{path} is not there")
    with backing.translated(str(path), "read"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Of a volume that is being re-encrypted the old data key's side: `reencrypt` goes on from there.
            header = luks2.reencryption.before(luks2.read_header(descriptor, reencrypting=True).header)
            _refuse_half(site, path, header)
            changed = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
    token, segment = header.token(), header.segment()
    volume = Volume(
        volume_id=token.volume_id,
        state=VolumeState.AVAILABLE,
        size=segment.size_on(found.size),
        backing=str(path),
        backing_kind=found.kind,
        backing_owned=found.kind is BackingKind.FILE and _is_in_volumes_dir(site, path),
        encrypted=True,
        sector_size=segment.sector_size,
        kms_key_arn=token.kms_key_arn,
        create_time=datetime.fromtimestamp(int(changed), UTC),
    )
    return _with_state(site, volume)


def _refuse_half(site: Site, path: Path, header: luks2.Header) -> None:
    """Raise `BackingError` for a volume that lacks blocks of its snapshot, if nobody knows any more which."""
    volume_id = header.token().volume_id
    if header.filling and not fill_job.is_filling(site.settings, volume_id):
        raise BackingError(
            f"{path} does not have all blocks of the snapshot that {volume_id} was made from",
            hint="make another volume from the snapshot",
        )


def _is_in_volumes_dir(site: Site, path: Path) -> bool:
    return path.parent == site.settings.volumes_dir.resolve()


def _with_state(site: Site, volume: Volume) -> Volume:
    attached = runtime.attachment_state(site.settings, volume.volume_id)
    if attached is None:
        return volume
    return msgspec.structs.replace(volume, state=VolumeState.IN_USE, was_attached=attached.attachment is not None)


def _take_in(site: Site, path: Path, volume: Volume) -> Found:
    try:
        known = site.catalog.volume(volume.volume_id)
    except VolumeNotFound:
        site.catalog.add(volume)
        return Found(str(path), Outcome.ADDED, volume.volume_id)
    if known.state is VolumeState.ERROR or backing.same(known.backing, volume.backing):
        return Found(str(path), Outcome.KNOWN, volume.volume_id)
    if known.state is not VolumeState.AVAILABLE or _is_at(known):
        message = f"the catalog has this volume at {known.backing}: this is a copy, or it is in use there"
        return Found(str(path), Outcome.REFUSED, volume.volume_id, message)
    site.catalog.correct(
        volume.volume_id,
        backing=volume.backing,
        backing_kind=volume.backing_kind.value,
        backing_owned=volume.backing_owned,
    )
    return Found(str(path), Outcome.MOVED, volume.volume_id, f"it was at {known.backing}")


def _is_at(volume: Volume) -> bool:
    """Whether the volume still is where the catalog says."""
    try:
        descriptor = os.open(volume.backing, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not volume.encrypted or remains.carries(descriptor, volume.volume_id)
    finally:
        os.close(descriptor)

"""What `ls` and `show` tell of volumes and snapshots: the catalog's row, and how a volume is attached right now.

They must start quickly, so what they need here is a reader of the catalog and the runtime directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ebscrypt.catalog.reading import CatalogReader
from ebscrypt.control import runtime
from ebscrypt.control.key_record import Watched, read_record
from ebscrypt.control.runtime import Attached
from ebscrypt.control.site import Site
from ebscrypt.model import OnKeyUnusable, Snapshot, Volume, VolumeState, check_snapshot_id, check_volume_id

if TYPE_CHECKING:
    from ebscrypt.control.reencrypting import Reencrypting


class VolumeDescription(NamedTuple):
    """A volume with its attachment; ``attached`` is None when there is none."""

    volume: Volume
    attached: Attached | None


def describe_volumes(site: Site) -> list[VolumeDescription]:
    """All volumes, oldest first."""
    return [_described(site, volume) for volume in site.reading.volumes()]


def describe_volume(site: Site, volume_id: str) -> VolumeDescription:
    """One volume. Raises `InvalidParameter` for what is no id, `VolumeNotFound`."""
    return _described(site, site.reading.volume(check_volume_id(volume_id)))


def describe_snapshots(site: Site, *, volume_id: str | None = None) -> list[Snapshot]:
    """All snapshots, or those of a volume, oldest first."""
    return site.reading.snapshots.list(volume_id=volume_id)


def describe_snapshot(site: Site, snapshot_id: str) -> Snapshot:
    """One snapshot. Raises `InvalidParameter` for what is no id, `SnapshotNotFound`."""
    return site.reading.snapshots.get(check_snapshot_id(snapshot_id))


def reencryptions(site: Site, volumes: Sequence[Volume]) -> dict[str, Reencrypting]:
    """Those of ``volumes`` that are being re-encrypted, and how far they are; by volume id."""
    if isinstance(site.reading, CatalogReader) and not site.reading.is_change_under_way():
        return {}
    from ebscrypt.control import reencrypting  # noqa: PLC0415 - rarely needed

    wanted = site.catalog.keys.rewraps()
    found = {volume.volume_id: reencrypting.noted(site, volume) for volume in volumes if volume.volume_id in wanted}
    return {volume_id: how for volume_id, how in found.items() if how is not None}


def _described(site: Site, volume: Volume) -> VolumeDescription:
    settings, volume_id = site.settings, volume.volume_id
    attached = runtime.attachment_state(settings, volume_id) if volume.state is VolumeState.IN_USE else None
    if attached is not None and volume.on_key_unusable is not OnKeyUnusable.IGNORE:
        from ebscrypt.control import watch  # noqa: PLC0415 - rarely needed

        watched = Watched(watch.is_watched(settings, volume_id), read_record(settings, volume_id))
        attached = attached._replace(watched=watched)
    return VolumeDescription(volume, attached)

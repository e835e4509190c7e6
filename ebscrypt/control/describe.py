"""`describe_volumes`: what `ls` and `show` tell, the catalog's row and how the volume is attached right now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ebscrypt.catalog.reading import CatalogReader
from ebscrypt.control import runtime
from ebscrypt.control.key_record import Watched, read_record
from ebscrypt.control.runtime import Attached
from ebscrypt.control.site import Site
from ebscrypt.model import OnKeyUnusable, Volume, VolumeState, check_volume_id

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

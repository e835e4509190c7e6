"""`describe_volumes`: what `ls` and `show` tell, the catalog's row and how the volume is attached right now."""

from __future__ import annotations

from typing import NamedTuple

from ebscrypt.control import runtime
from ebscrypt.control.key_record import Watched, read_record
from ebscrypt.control.runtime import Attached
from ebscrypt.control.site import Site
from ebscrypt.model import OnKeyUnusable, Volume, VolumeState, check_volume_id


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


def _described(site: Site, volume: Volume) -> VolumeDescription:
    settings, volume_id = site.settings, volume.volume_id
    attached = runtime.attachment_state(settings, volume_id) if volume.state is VolumeState.IN_USE else None
    if attached is not None and volume.on_key_unusable is not OnKeyUnusable.IGNORE:
        from ebscrypt.control import watch  # noqa: PLC0415 - rarely needed

        watched = Watched(watch.is_watched(settings, volume_id), read_record(settings, volume_id))
        attached = attached._replace(watched=watched)
    return VolumeDescription(volume, attached)

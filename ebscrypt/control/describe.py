"""`describe_volumes`: what `ls` and `show` tell, the catalog's row and how the volume is attached right now."""

from __future__ import annotations

from typing import NamedTuple

from ebscrypt.control import runtime
from ebscrypt.control.runtime import Attached
from ebscrypt.control.site import Site
from ebscrypt.model import Volume, VolumeState, check_volume_id


class VolumeDescription(NamedTuple):
    """A volume with its attachment; ``attached`` is None when there is none."""

    volume: Volume
    attached: Attached | None


def describe_volumes(site: Site) -> list[VolumeDescription]:
    """All volumes, oldest first."""
    return [_described(site, volume) for volume in site.catalog.volumes()]


def describe_volume(site: Site, volume_id: str) -> VolumeDescription:
    """One volume. Raises `InvalidParameter` for what is no id, `VolumeNotFound`."""
    return _described(site, site.catalog.volume(check_volume_id(volume_id)))


def _described(site: Site, volume: Volume) -> VolumeDescription:
    in_use = volume.state is VolumeState.IN_USE
    return VolumeDescription(volume, runtime.attachment_state(site.settings, volume.volume_id) if in_use else None)

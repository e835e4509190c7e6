"""`forget_failed`: for who tells of a failed creation itself, so that no record in ``error`` need stay to tell it."""

from __future__ import annotations

from ebscrypt.control import create, locks, remains
from ebscrypt.control.site import Site
from ebscrypt.errors import StateError, VolumeNotFound
from ebscrypt.model import VolumeState


def forget_failed(site: Site, volume_id: str) -> None:
    """Remove the record of a volume whose creation failed or was interrupted. Nothing where there is none, or a volume.

    There is no event: that the creation failed was one, and no volume is deleted. The caller knows that nobody is at
    creating it any more.
    """
    with locks.held(site.settings, volume_id, "forget"):
        try:
            volume = site.catalog.volume(volume_id)
        except VolumeNotFound:
            locks.forget(site.settings, volume_id)
            return
        create.undo_creation(site, volume, StateError("the creation was interrupted"))
        volume = site.catalog.volume(volume_id)
        if volume.state is not VolumeState.ERROR:
            return
        site.catalog.change_state(volume_id, VolumeState.ERROR, VolumeState.DELETING)
        remains.remove_traces(site, volume)
        site.catalog.remove(volume_id)
        locks.forget(site.settings, volume_id)

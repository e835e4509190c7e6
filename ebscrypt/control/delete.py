"""`delete_volume`: the record goes last, so that a crash leaves something that `recover` can finish.

Deleting destroys the data, as in EBS. The header is overwritten, which takes the wrapped key and with it the only way
to the data key; then the file is removed. On a block device or a file that the user named only the header goes.
"""

from __future__ import annotations

from ebscrypt.catalog.events import VolumeEvent
from ebscrypt.control import backing, faultpoints, locks, reencrypting, remains, runtime
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.control.unfinished import refuse_while_read
from ebscrypt.errors import StateError, VolumeInUse
from ebscrypt.model import Volume, VolumeState


def delete_volume(site: Site, volume_id: str) -> None:
    """Delete a volume that is available, or the record of one whose creation failed.

    Raises `VolumeNotFound`, `VolumeInUse`, `StateError`, `BackingInUse` (then nothing has changed), and
    `BackingError` when the backing cannot be erased (then the volume stays in ``deleting``; delete it again).
    """
    with on_volume(site, volume_id, "delete"):
        volume = site.catalog.volume(volume_id)
        _check(site, volume)
        refuse_while_read(site, volume, "deleted")
        if volume.state is not VolumeState.DELETING:
            volume = site.catalog.change_state(volume_id, volume.state, VolumeState.DELETING)
            faultpoints.reach("delete.entered")
        finish_deletion(site, volume)


def _check(site: Site, volume: Volume) -> None:
    if volume.state is VolumeState.IN_USE or runtime.attachment_state(site.settings, volume.volume_id) is not None:
        raise VolumeInUse(
            f"volume {volume.volume_id} is attached", hint=f"detach it first: `ebscrypt detach {volume.volume_id}`"
        )
    if volume.state is VolumeState.CREATING:
        raise StateError(f"volume {volume.volume_id} is still being created", hint="wait, then try again")
    found = backing.find(volume.backing)
    if found is not None and (volume.backing_owned or volume.encrypted):
        backing.refuse_if_used(found)
        with backing.claimed(found.path, found.kind):
            pass


def finish_deletion(site: Site, volume: Volume) -> None:
    """The rest of a deletion, from the state ``deleting`` on; safe to repeat. The caller holds the volume's lock."""
    remains.remove_traces(site, volume)
    faultpoints.reach("delete.removed")
    site.catalog.remove(volume.volume_id, site.event(VolumeEvent.DELETE, "deleted", volume.volume_id))
    faultpoints.reach("delete.forgotten")
    runtime.remove(site.settings, volume.volume_id)
    reencrypting.forget_note(site.settings, volume.volume_id)
    locks.forget(site.settings, volume.volume_id)

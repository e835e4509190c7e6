"""`recover`: at the start of every command, what a crash interrupted is finished or undone.

    creating   taken back, and kept as a record in ``error``
    deleting   finished
    resizing   finished, or taken back where there is no room
    rewrapping the catalog has the KMS key that the header names
    re-encrypting  a process is started that goes on
    modifying  an attached volume has the catalog's mode, and the watch over its key that this asks for
    in-use     available again if nothing of the attachment is left: after a reboot, or a start that was killed; its
               grant is retired
    filling    a volume that waits for blocks of its snapshot has a process that fetches them; see `filler`
    snapshots  one that is pending goes on, its deletion is finished; see `snapshots` and `storing`

A volume whose lock is held is in the hands of another command and is left alone. An attachment whose daemon died stays
``in-use`` and is shown as lost: `attach` takes it up again, `detach` ends it. Usually there is nothing to do, and
`settled` says so without any of this.
"""

from __future__ import annotations

from collections.abc import Callable

from ebscrypt.control import attach, create, delete, grants, leftovers, locks, modify, resize, rewrap, runtime, systemd
from ebscrypt.control.filler import settle_fills
from ebscrypt.control.settled import is_watch_settled
from ebscrypt.control.site import Site
from ebscrypt.control.unfinished import settle_snapshots
from ebscrypt.errors import EbscryptError, StateError
from ebscrypt.model import Volume, VolumeState


def recover(site: Site) -> None:
    """Finish or undo what no living command works on. What cannot be done now becomes a note, never an error."""
    for volume in site.catalog.volumes(VolumeState.CREATING, VolumeState.DELETING, VolumeState.IN_USE):
        if volume.state is not VolumeState.IN_USE or _is_stale(site, volume.volume_id):
            _under_lock(site, volume.volume_id, _settle)
        elif not is_watch_settled(site, volume):
            _under_lock(site, volume.volume_id, modify.settle)
    for volume_id in site.catalog.resizes():
        _under_lock(site, volume_id, _settle_resize)
    for volume_id in site.catalog.keys.rewraps():
        _under_lock(site, volume_id, _settle_key)
    settle_snapshots(site)
    settle_fills(site)


def _under_lock(site: Site, volume_id: str, settle: Callable[[Site, Volume], object]) -> None:
    """Call ``settle`` for the volume as it is once we have the lock; nothing while another command has it."""
    if locks.holder(site.settings, volume_id) is not None:
        return
    try:
        with locks.held(site.settings, volume_id, "recover", timeout=0):
            settle(site, site.catalog.volume(volume_id))
    except (EbscryptError, OSError) as error:
        site.notes.append(f"volume {volume_id} could not be put in order yet: {error}")


def _settle(site: Site, volume: Volume) -> None:
    match volume.state:
        case VolumeState.CREATING:
            create.undo_creation(site, volume, StateError("the creation was interrupted"))
            site.notes.append(f"the creation of {volume.volume_id} was interrupted: it was taken back")
        case VolumeState.DELETING:
            delete.finish_deletion(site, volume)
            site.notes.append(f"the deletion of {volume.volume_id} was interrupted: it was finished")
        case VolumeState.IN_USE if _is_stale(site, volume.volume_id):
            leftovers.remove_leftovers(site, volume.volume_id)
            grants.end_grants(site, volume.volume_id)
            site.catalog.change_state(volume.volume_id, VolumeState.IN_USE, VolumeState.AVAILABLE)


def _is_stale(site: Site, volume_id: str) -> bool:
    """Whether a volume that the catalog has in use is not: no attachment, no daemon, none being started."""
    if runtime.attachment_state(site.settings, volume_id) is not None:
        return False
    return not (systemd.is_used(site.settings) and systemd.is_active(volume_id))


def _settle_key(site: Site, volume: Volume) -> None:
    """Of a rewrap and a re-encryption the catalog knows the same; the header tells them apart."""
    from ebscrypt.control import reencrypting  # noqa: PLC0415 - rarely needed

    if not reencrypting.take_up(site, volume):
        rewrap.settled(site, volume)


def _settle_resize(site: Site, volume: Volume) -> None:
    target = site.catalog.resizes().get(volume.volume_id)
    if target is None:
        return
    in_use = volume.state is VolumeState.IN_USE
    attachment = attach.refuse_unless_served(site, volume.volume_id) if in_use else None
    try:
        resize.finish_resize(site, volume, attachment, target)
    except EbscryptError:
        resize.undo_resize(site, volume)
        raise
    site.notes.append(f"the resize of {volume.volume_id} was interrupted: it was finished")

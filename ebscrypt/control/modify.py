"""`modify_volume`: what becomes of a volume when its KMS key cannot be used, changed whether it is attached or not.

For an attached volume three places say it: the catalog, spec.json for the daemon's next life and the watch, and the
kernel, whose I/O timeout a suspension must outlast. Towards a mode that watches the catalog comes first, towards
``ignore`` it comes last; so after a crash the catalog has the mode to go on with, and `settle` makes the rest follow.
"""

from __future__ import annotations

import msgspec

from ebscrypt.control import faultpoints, key_action, runtime, watch
from ebscrypt.control.attach import refuse_unless_served
from ebscrypt.control.key_mode import allowed_mode
from ebscrypt.control.operation import on_volume
from ebscrypt.control.settled import is_watch_settled
from ebscrypt.control.site import Site
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.exports.waiting import set_io_timeout
from ebscrypt.errors import StateError
from ebscrypt.model import Access, Attachment, ExportKind, OnKeyUnusable, Volume, VolumeState


def modify_volume(site: Site, volume_id: str, *, on_key_unusable: OnKeyUnusable) -> Volume:
    """Give a volume another ``on_key_unusable``. An attached one is watched from now on, or not any more.

    What was done on account of an unusable key is taken back by ``ignore``: where the volume is suspended that needs
    the key, and raises KMS's refusal. Raises `MissingDependency` for a plain volume, `StateError`, `DaemonError`; then
    the volume has its old mode.
    """
    with on_volume(site, volume_id, "modify"):
        volume = site.catalog.volume(volume_id)
        attachment = _check(site, volume, on_key_unusable)
        if attachment is None:
            return site.catalog.correct(volume_id, on_key_unusable=on_key_unusable.value)
        if on_key_unusable is OnKeyUnusable.IGNORE:
            watch.stop(site.settings, volume_id)
            try:
                key_action.lift(site, volume_id)
            except BaseException:
                watch.start_if_wanted(site, volume_id)
                raise
            faultpoints.reach("modify.lifted")
            _apply(site, attachment, on_key_unusable)
            faultpoints.reach("modify.applied")
            changed = site.catalog.correct(volume_id, on_key_unusable=on_key_unusable.value)
        else:
            changed = site.catalog.correct(volume_id, on_key_unusable=on_key_unusable.value)
            faultpoints.reach("modify.noted")
            _apply(site, attachment, on_key_unusable)
        faultpoints.reach("modify.done")
        return changed


def settle(site: Site, volume: Volume) -> None:
    """Let an attached volume have the catalog's mode, and its watch: after a crash of `modify` or of the watch."""
    if is_watch_settled(site, volume):
        return
    attachment = refuse_unless_served(site, volume.volume_id)
    spec = runtime.directory(site.settings, volume.volume_id).read_spec()
    if spec.on_key_unusable is volume.on_key_unusable:
        watch.start(site, volume.volume_id)
    else:
        _apply(site, attachment, volume.on_key_unusable)


def _check(site: Site, volume: Volume, mode: OnKeyUnusable) -> Attachment | None:
    """Refuse what cannot be; the attachment, where the volume has one."""
    volume_id = volume.volume_id
    allowed_mode(mode, encrypted=volume.encrypted)
    if volume.state is VolumeState.AVAILABLE:
        return None
    if volume.state is not VolumeState.IN_USE:
        raise StateError(
            f"volume {volume_id} is {volume.state}: it cannot be modified", hint=f"see `ebscrypt show {volume_id}`"
        )
    attachment = refuse_unless_served(site, volume_id)
    with DaemonClient(runtime.directory(site.settings, volume_id).control_socket) as daemon:
        status = daemon.call("status")
    if mode is OnKeyUnusable.READ_ONLY and status["access"] == Access.SUSPENDED:
        raise StateError(
            f"volume {volume_id} is suspended, and cannot become read-only without its key",
            hint="make the KMS key usable again, or detach the volume with --force",
        )
    connections = int(status["connections"])
    if mode is OnKeyUnusable.SUSPEND and attachment.export is ExportKind.NBD and connections > 1:
        raise StateError(
            f"{attachment.device} of volume {volume_id} has {connections} connections: the kernel lets requests wait "
            "without end only where there is one",
            hint="detach the volume, modify it, and attach it again: it will have one then",
        )
    return attachment


def _apply(site: Site, attachment: Attachment, mode: OnKeyUnusable) -> None:
    """Kernel, spec.json and watch get the mode; safe to repeat. The new watch begins with a check."""
    volume_id, settings = attachment.volume_id, site.settings
    watch.stop(settings, volume_id)
    # A suspended volume's requests must go on waiting: what `detach` is about to end needs no timeout.
    if mode is not OnKeyUnusable.DETACH:
        set_io_timeout(attachment, settings.attach, mode)
    spec = runtime.directory(settings, volume_id).read_spec()
    runtime.write_spec(settings, msgspec.structs.replace(spec, on_key_unusable=mode))
    watch.start_if_wanted(site, volume_id)

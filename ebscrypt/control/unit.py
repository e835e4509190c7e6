"""What the systemd unit ``ebscrypt@.service`` calls around the daemon: prepare, commit, stop, clean.

    ExecStartPre    prepare   as `attach` does before it starts the daemon
    ExecStartPost   commit    as `attach` does after
    ExecStop        stop      as `detach` does; nothing when the daemon is dead, for a restart shall find its device
    ExecStopPost    clean     the records, if the device is gone too

While `attach` or `detach` waits for systemd it holds the volume's lock and does all this itself; then these do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ebscrypt.control import attach, runtime
from ebscrypt.control.detach import finish_detachment, take_down
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.daemon.exports.teardown import is_gone
from ebscrypt.errors import DaemonLost, StateError
from ebscrypt.model import VolumeState

_PARENTS: Final = ("attach", "detach")


def prepare(site: Site, volume_id: str) -> None:
    """Make everything ready for the daemon, with the settings' export."""
    attach.prepare_attachment(site, volume_id, key_may_be_kept=True)


def commit(site: Site, volume_id: str) -> None:
    """Finish an attachment whose daemon is ready."""
    attach.commit_attachment(site, volume_id)


def stop(site: Site, volume_id: str) -> None:
    """Take a living attachment down. Raises `VolumeInUse` while it is mounted: then only the daemon can be stopped."""
    attachment = runtime.read_attachment(site.settings, volume_id)
    if attachment is not None and runtime.is_served(site.settings, volume_id):
        take_down(site, attachment, alive=True, force=False)


def clean(site: Site, volume_id: str) -> None:
    """After the daemon's end, however it came: forget the attachment, unless its device is there to be taken up.

    A device that nobody was told of is not: its daemon ended before the attachment was committed.
    """
    if runtime.is_served(site.settings, volume_id):
        raise StateError(f"the daemon of volume {volume_id} is still there")
    volume = site.catalog.volume(volume_id)
    if volume.state is not VolumeState.IN_USE:
        return
    attachment = runtime.read_attachment(site.settings, volume_id)
    there = attachment is not None and not is_gone(attachment)
    lost = attachment if there and volume.was_attached else None
    failure = runtime.read_failure(site.settings, volume_id)
    if there and lost is None and failure is None:
        failure = DaemonLost(f"the daemon of volume {volume_id} ended while it started")
    if failure is not None:
        attach.give_up(site, volume_id, lost, failure)
    elif lost is None:
        finish_detachment(site, volume_id, was_attached=volume.was_attached)


STEPS: Final[dict[str, Callable[[Site, str], None]]] = {
    "prepare": prepare,
    "commit": commit,
    "stop": stop,
    "clean": clean,
}


def run_step(site: Site, step: str, volume_id: str) -> None:
    """Run one of `STEPS` under the volume's lock; nothing when `attach` or `detach` holds it and does the work."""
    with on_volume(site, volume_id, step, on_behalf_of=_PARENTS) as ours:
        if ours:
            STEPS[step](site, volume_id)

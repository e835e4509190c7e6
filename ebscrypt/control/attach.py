"""`attach_volume`: from an available volume to a device that answers.

    prepare   the volume is in-use, KMS has a grant for it, and spec.json says what the daemon shall do
    start     systemd starts the volume's unit, or we start the daemon
    commit    the device has its name under /dev/disk/by-id

The unit calls `prepare_attachment` and `commit_attachment` itself around the daemon, so that `systemctl start` is the
same thing; for those calls, see `ebscrypt.control.unit`. A daemon that died is noticed in *prepare*: /dev/nbdN is taken
up again where the kernel still waits for it, anything else is taken down first.
"""

from __future__ import annotations

import socket
from typing import Final

from ebscrypt.catalog.events import VolumeEvent
from ebscrypt.control import (
    backing,
    faultpoints,
    fill_job,
    grants,
    holders,
    leftovers,
    links,
    process,
    rewrap,
    runtime,
    systemd,
)
from ebscrypt.control.causes import event_cause, failure_text
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.control.unfinished import refuse_while_read
from ebscrypt.control.watch import start_if_wanted
from ebscrypt.daemon.exports import nbd_device
from ebscrypt.daemon.exports.teardown import is_gone, teardown
from ebscrypt.errors import (
    BackingMissing,
    DaemonLost,
    EbscryptError,
    KmsError,
    KmsThrottled,
    KmsUnreachable,
    StateError,
    VolumeInUse,
)
from ebscrypt.model import (
    Attachment,
    AttachmentSpec,
    AttachmentState,
    ExportKind,
    Volume,
    VolumeState,
)

_HOST: Final = socket.gethostname()


def attach_volume(
    site: Site, volume_id: str, *, export: ExportKind | None = None, read_only: bool | None = None
) -> Attachment:
    """Attach a volume and return how it is reached; its device answers by then.

    ``export`` and ``read_only`` are the settings' and False where not given, or what they were when a daemon that died
    is replaced. Raises `VolumeInUse` saying who has it, whatever the daemon could not do, and for refusals of KMS
    leaves an event. After an error the volume is as it was, and its ``attach_failure`` says why.
    """
    with on_volume(site, volume_id, "attach"):
        lost = prepare_attachment(site, volume_id, export=export, read_only=read_only)
        try:
            if systemd.is_used(site.settings):
                _start_unit(site, volume_id)
            else:
                process.start(site.settings, volume_id)
            faultpoints.reach("attach.started")
            attachment = commit_attachment(site, volume_id)
        except BaseException as error:
            give_up(site, volume_id, lost, error)
            raise
        faultpoints.reach("attach.committed")
        if attachment.key_memory is not None:
            grants.retire_overdue(site)
        return attachment


def prepare_attachment(
    site: Site,
    volume_id: str,
    *,
    export: ExportKind | None = None,
    read_only: bool | None = None,
    key_may_be_kept: bool = False,
) -> Attachment | None:
    """Everything before the daemon starts; the lost attachment that it takes up, if that is what it does.

    ``key_may_be_kept`` says that systemd may have the data key of a daemon that died: then it is left to the daemon
    whether KMS must be asked, and a KMS that cannot make a grant now is no reason not to start it.
    """
    volume = rewrap.settled(site, site.catalog.volume(volume_id))
    lost = _check(site, volume)
    refuse_while_read(site, volume, "attached")
    token = None if lost is None else grants.present_token(site, volume)
    if lost is not None:
        lost = _take_up(site, lost, export)
    if volume.state is VolumeState.AVAILABLE:
        site.catalog.change_state(volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
        faultpoints.reach("attach.entered")
    try:
        if volume.kms_key_arn is not None:
            grants.refuse_foreign_key(site, volume.kms_key_arn)
        token = grants.begin_grant(site, volume, present=token, key_may_be_kept=key_may_be_kept)
        runtime.write_spec(site.settings, _spec(site, volume, lost, token, export=export, read_only=read_only))
    except BaseException as error:
        give_up(site, volume_id, lost, error)
        raise
    faultpoints.reach("attach.prepared")
    return lost


def _spec(
    site: Site,
    volume: Volume,
    lost: Attachment | None,
    token: str | None,
    *,
    export: ExportKind | None,
    read_only: bool | None,
) -> AttachmentSpec:
    settings = site.settings.attach
    return AttachmentSpec(
        volume_id=volume.volume_id,
        backing=volume.backing,
        backing_kind=volume.backing_kind,
        encrypted=volume.encrypted,
        size=volume.size,
        kms_key_arn=volume.kms_key_arn,
        export=export or (settings.export if lost is None else lost.export),
        read_only=lost.read_only if lost is not None else bool(read_only),
        cache=settings.cache,
        discard=settings.discard,
        nbd_index=None if lost is None else lost.nbd_index,
        on_key_unusable=volume.on_key_unusable,
        grant_token=token,
        fill_file=_fill_file(site, volume.volume_id),
    )


def _fill_file(site: Site, volume_id: str) -> str | None:
    """Where it is noted which blocks are still to come; None where all are there. A plain volume has no other mark."""
    path = fill_job.fill_path(site.settings, volume_id)
    if path.exists():
        return str(path)
    job = fill_job.load(site.settings, volume_id)
    if job is not None and not job.finishing:
        raise StateError(
            f"volume {volume_id} does not have all blocks of its snapshot, and its fill file is gone",
            hint="make another volume from the snapshot, and delete this one",
        )
    return None


def _check(site: Site, volume: Volume) -> Attachment | None:
    """Refuse what cannot be attached; the attachment of a daemon that died, if there is one."""
    volume_id = volume.volume_id
    if volume.state not in (VolumeState.AVAILABLE, VolumeState.IN_USE):
        told = f": {volume.state_message}" if volume.state_message else ""
        raise StateError(f"volume {volume_id} is {volume.state}{told}", hint=f"see `ebscrypt show {volume_id}`")
    if runtime.is_served(site.settings, volume_id):
        raise in_use(site, volume_id)
    if backing.find(volume.backing) is None:
        raise BackingMissing(
            f"the backing {volume.backing} of volume {volume_id} is not there",
            hint="is its disk mounted, or plugged in? If it moved: `ebscrypt rebuild-catalog PATH`",
        )
    return runtime.read_attachment(site.settings, volume_id)


def in_use(site: Site, volume_id: str) -> VolumeInUse:
    """The refusal that tells who has the volume, where and since when."""
    attachment = runtime.read_attachment(site.settings, volume_id)
    hint = f"`ebscrypt detach {volume_id}` ends it"
    if attachment is None:
        return VolumeInUse(f"volume {volume_id} is being attached by another process on {_HOST}", hint=hint)
    return VolumeInUse(
        f"volume {volume_id} is attached as {attachment.device} by process {attachment.pid} "
        f"({holders.command(attachment.pid)}) on {_HOST} since {attachment.attach_time:%Y-%m-%dT%H:%M:%SZ}",
        hint=hint,
    )


def _take_up(site: Site, lost: Attachment, export: ExportKind | None) -> Attachment | None:
    """What to do with the device of a daemon that died: None when it is taken down and a fresh one is to be made.

    A /dev/nbdN that the kernel still keeps is taken up again with all that it had: a file system may be mounted on it.
    """
    volume_id = lost.volume_id
    if lost.nbd_index is not None and nbd_device.belongs_to(lost.nbd_index, volume_id):
        if export not in (None, ExportKind.AUTO, ExportKind.NBD):
            raise StateError(
                f"{lost.device} of volume {volume_id} waits for a new daemon: it cannot become a {export} export",
                hint=f"detach it first: `ebscrypt detach {volume_id}`",
            )
        site.notes.append(f"the daemon of {volume_id} had died: {lost.device} is taken up again")
        return lost
    if not is_gone(lost):
        if uses := [use for use in holders.of_attachment(lost) if use.kind != "open"]:
            raise VolumeInUse(
                f"the daemon of volume {volume_id} died, and {lost.device} is still {', '.join(map(str, uses[:5]))}",
                hint="unmount it (it can only give errors), then attach again",
            )
        teardown(lost, force=True)
    # Its records are about to go: from then on only the catalog knows that this is no first attachment.
    site.catalog.correct(volume_id, was_attached=True)
    site.notes.append(f"the daemon of {volume_id} had died: what it left was taken down")
    runtime.remove(site.settings, volume_id)
    links.remove_link(volume_id)
    return None


def _start_unit(site: Site, volume_id: str) -> None:
    if systemd.start(volume_id):
        return
    failure = runtime.read_failure(site.settings, volume_id)
    raise failure or DaemonLost(
        f"the unit {systemd.unit(volume_id)} did not start", hint=f"see `journalctl -u {systemd.unit(volume_id)}`"
    )


def commit_attachment(site: Site, volume_id: str) -> Attachment:
    """What is left to do when the device answers."""
    attachment = runtime.read_attachment(site.settings, volume_id)
    if attachment is None or not runtime.is_process(attachment.pid, attachment.pid_start):
        raise DaemonLost(f"the daemon of volume {volume_id} was ready, but is gone", hint="try again")
    links.make_link(attachment)
    site.catalog.correct(volume_id, was_attached=True, attach_failure=None)
    start_if_wanted(site, volume_id)
    site.notes.extend(attachment.notes)
    return attachment


def give_up(site: Site, volume_id: str, lost: Attachment | None, error: BaseException) -> None:
    """After a failure: back to available, or to the lost attachment that was to be taken up; an event if KMS refused.

    The kernel keeps a lost /dev/nbdN waiting, so the next `attach` may yet save what is mounted on it; its grant stays.
    """
    if lost is None:
        if (attachment := runtime.read_attachment(site.settings, volume_id)) is not None:
            _take_down_quietly(site, attachment)
        leftovers.remove_leftovers(site, volume_id)
        if not isinstance(error, (KmsUnreachable, KmsThrottled)):
            grants.end_grants(site, volume_id)
    volume = site.catalog.volume(volume_id)
    event = None
    if isinstance(error, KmsError):
        kind = VolumeEvent.REATTACH if volume.was_attached else VolumeEvent.ATTACH
        event = site.event(kind, "failed", volume_id, cause=event_cause(error), key_arn=volume.kms_key_arn)
    why = failure_text(error, "the attachment was interrupted")
    faultpoints.reach("attach.undone")
    if lost is None and volume.state is VolumeState.IN_USE:
        site.catalog.change_state(volume_id, VolumeState.IN_USE, VolumeState.AVAILABLE, event, attach_failure=why)
    else:
        site.catalog.correct(volume_id, event, attach_failure=why)


def _take_down_quietly(site: Site, attachment: Attachment) -> None:
    """The error that led here matters more than one of the clean-up, which becomes a note."""
    try:
        teardown(attachment, force=True)
    except EbscryptError as failure:
        site.notes.append(failure.message)
    # What failed may have come after the daemon was ready: it has the key, and nobody would know of it.
    process.end_daemon(attachment)
    links.remove_link(attachment.volume_id)


def refuse_unless_served(site: Site, volume_id: str) -> Attachment:
    """The attachment of a volume whose daemon lives. Raises `StateError` for any other."""
    attached = runtime.attachment_state(site.settings, volume_id)
    if attached is None or attached.attachment is None or attached.state is AttachmentState.LOST:
        raise StateError(
            f"the daemon of volume {volume_id} has died",
            hint=f"`ebscrypt attach {volume_id}` starts another, `ebscrypt detach {volume_id}` clears up",
        )
    return attached.attachment

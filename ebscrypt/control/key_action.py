"""What follows from a check of a volume's KMS key: `turn`, one check with its consequences.

    KMS is asked               without the volume's lock, for it may take long
    something to do?           from here on under the lock, as for any command
    event checkKey             first, so that a crash repeats it rather than loses it
    daemon                     read-only, or suspended and its key wiped; or detached, by a process that outlives it
    event changeAccess

The daemon knows what its users may do now, so each step is safe to repeat, and a turn that is killed is finished by the
next one.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec

from ebscrypt import luks2
from ebscrypt.catalog.key_events import KeyEvent, key_event
from ebscrypt.control import faultpoints, key_check, runtime
from ebscrypt.control.key_record import KeyRecord, forget_record, read_record, write_record
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.daemon.client import DEFAULT_TIMEOUT, DaemonClient
from ebscrypt.daemon.exports.teardown import FLUSH_TIMEOUT
from ebscrypt.errors import EbscryptError, NotPermitted
from ebscrypt.model import Access, Attachment, AttachmentSpec, AttachmentState, OnKeyUnusable, Volume, utc_now

_WANTED: Final = {OnKeyUnusable.READ_ONLY: Access.READ_ONLY, OnKeyUnusable.SUSPEND: Access.SUSPENDED}
_log = logging.getLogger(__name__)


class _Watched:
    """A volume during one turn: what was asked of its daemon, how it is reached, and what is known."""

    def __init__(self, site: Site, spec: AttachmentSpec, attachment: Attachment) -> None:
        self.site = site
        self.spec = spec
        self.attachment = attachment
        self.record = read_record(site.settings, spec.volume_id) or KeyRecord(checked=utc_now())

    @property
    def volume_id(self) -> str:
        return self.spec.volume_id

    def remember(self, **changes: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)
        write_record(self.site.settings, self.volume_id, self.record)

    def event(self, event: KeyEvent, result: str, cause: str) -> dict[str, Any]:
        """The record of an event, which is also told in the log."""
        _log.warning("%s %s %s%s", self.volume_id, event, result, f": {cause}" if cause else "")
        kms, spec = self.site.settings.kms, self.spec
        return key_event(
            event,
            result,
            volume_id=self.volume_id,
            region=kms.region,
            account=kms.account,
            mode=spec.on_key_unusable,
            cause=cause,
            key_arn=spec.kms_key_arn,
        )

    def tell(self, event: KeyEvent, result: str, cause: str) -> None:
        self.site.catalog.add_event(self.event(event, result, cause))

    def access(self) -> Access:
        """What the daemon lets its users do now."""
        return Access(self.daemon("status", timeout=DEFAULT_TIMEOUT)["access"])

    def daemon(self, op: str, *, timeout: float = FLUSH_TIMEOUT, **parameters: Any) -> dict[str, Any]:
        path = runtime.directory(self.site.settings, self.volume_id).control_socket
        with DaemonClient(path) as client:
            return client.call(op, timeout=timeout, **parameters)


def turn(site: Site, volume_id: str) -> bool:
    """Check the KMS key of an attached volume, and do what its ``on_key_unusable`` says; whether it is to be detached.

    Nothing where the volume is not attached. Raises what kept it from checking or acting; the next turn tries again.
    """
    watched = _find(site, volume_id)
    if watched is None:
        return False
    doubt = watched.record.usable is not False
    verdict = key_check.check_key(site, watched.spec, doubt=doubt)
    now = utc_now()
    if verdict.usable is None:
        if watched.record.unknown_cause != verdict.cause:
            _log.warning("%s: nothing is known of its key now: %s", volume_id, verdict.cause)
        since = watched.record.unknown_since or now
        watched.remember(checked=now, unknown_since=since, unknown_cause=verdict.cause)
        return False
    watched.remember(checked=now, unknown_since=None, unknown_cause="")
    if not _is_work(watched, usable=verdict.usable):
        if watched.record.usable is None:
            watched.remember(usable=True, since=now)
        return False
    key_arn = watched.spec.kms_key_arn
    with on_volume(site, volume_id, "watch"):
        # Detached, modified or started anew while KMS was asked? After a rewrap the verdict is about another key.
        watched = _find(site, volume_id)
        if watched is None or watched.spec.kms_key_arn != key_arn:
            return False
        return _act(watched, verdict)


def _find(site: Site, volume_id: str) -> _Watched | None:
    attached = runtime.attachment_state(site.settings, volume_id)
    if attached is None or attached.attachment is None or attached.state is not AttachmentState.ATTACHED:
        return None
    return _Watched(site, runtime.directory(site.settings, volume_id).read_spec(), attached.attachment)


def _is_work(watched: _Watched, *, usable: bool) -> bool:
    record, spec, access = watched.record, watched.spec, watched.access()
    if usable:
        return record.usable is False or record.access is not None or _is_limited(spec, access)
    if record.usable is not False or spec.on_key_unusable is OnKeyUnusable.DETACH:
        return True
    is_reached = access in (_WANTED.get(spec.on_key_unusable, access), Access.SUSPENDED)
    return not is_reached or record.access is not _limited(spec, access)


def _limited(spec: AttachmentSpec, access: Access) -> Access | None:
    """``access`` where it lets users do less than they were attached for."""
    return access if _is_limited(spec, access) else None


def _is_limited(spec: AttachmentSpec, access: Access) -> bool:
    """Whether users may do less than they were attached for."""
    return access is Access.SUSPENDED or (access is Access.READ_ONLY and not spec.read_only)


def _act(watched: _Watched, verdict: key_check.Verdict) -> bool:
    usable = verdict.usable is True
    if watched.record.usable is not usable:
        if not (usable and watched.record.usable is None):
            watched.tell(KeyEvent.CHECK_KEY, "usable" if usable else "unusable", verdict.cause)
        faultpoints.reach("watch.told")
        watched.remember(usable=usable, since=utc_now(), cause=verdict.cause)
    if not usable and watched.spec.on_key_unusable is OnKeyUnusable.DETACH:
        return True
    try:
        cause = _restore(watched) if usable else _restrict(watched)
    except EbscryptError as error:
        _tell_failure(watched, error)
        raise
    faultpoints.reach("watch.acted")
    now = watched.access()
    limited = _limited(watched.spec, now)
    if watched.record.access is not limited:
        watched.tell(KeyEvent.CHANGE_ACCESS, now, cause)
    watched.remember(access=limited, failed="")
    return False


def _tell_failure(watched: _Watched, error: EbscryptError) -> None:
    """One event for one reason, however often it is tried."""
    if watched.record.failed != error.message:
        watched.tell(KeyEvent.CHANGE_ACCESS, "failed", error.message)
        watched.remember(failed=error.message)


def _restrict(watched: _Watched) -> str:
    """Let users do no more than the volume's mode allows; why."""
    cause, access = watched.record.cause, watched.access()
    mode = watched.spec.on_key_unusable
    if mode is OnKeyUnusable.READ_ONLY and access is Access.READ_WRITE:
        watched.daemon("set_access", access=Access.READ_ONLY.value)
    elif (
        mode is OnKeyUnusable.SUSPEND
        and access is not Access.SUSPENDED
        and not watched.daemon("suspend").get("flushed", True)
    ):
        cause += " The last flush failed: writes since the flush before it may be lost."
    return cause


def _restore(watched: _Watched) -> str:
    restore_access(watched.site, watched.spec, watched.access())
    return ""


def restore_access(site: Site, spec: AttachmentSpec, access: Access) -> None:
    """Let users do again what the volume was attached for. From a suspension that takes its data key, and so KMS.

    Raises `KmsError`, `KeyMismatch`, `DaemonError`; then nothing has changed.
    """
    with DaemonClient(runtime.directory(site.settings, spec.volume_id).control_socket) as daemon:
        if access is Access.SUSPENDED:
            access = _resume(site, spec, daemon, key_check.read_token(site, spec))
        # It may have been read-only before it was suspended.
        if _is_limited(spec, access):
            daemon.call("set_access", access=Access.READ_WRITE.value)


def lift(site: Site, volume_id: str) -> None:
    """Take back what was done on account of the volume's key: it is not to be watched any more.

    Raises what `restore_access` raises; then nothing has changed.
    """
    watched = _find(site, volume_id)
    if watched is None:
        return
    access = watched.access()
    if _is_limited(watched.spec, access):
        restore_access(site, watched.spec, access)
        watched.tell(KeyEvent.CHANGE_ACCESS, watched.access(), "on-key-unusable was set to ignore")
    forget_record(site.settings, volume_id)


def _resume(site: Site, spec: AttachmentSpec, daemon: DaemonClient, token: luks2.KmsToken) -> Access:
    """Have KMS unwrap the data key into secret memory, and hand that to the daemon: no process but it has it then."""
    from ebscrypt.core import SecretMemory  # noqa: PLC0415 - the compiled core, which few turns need
    from ebscrypt.kms.unwrap import unwrap_key  # noqa: PLC0415 - the same

    try:
        key = SecretMemory()
    except OSError as error:
        raise NotPermitted(
            f"no memory can be locked for the data key: {error.strerror}", hint="raise RLIMIT_MEMLOCK (`ulimit -l`)"
        ) from error
    try:
        unwrap_key(
            token.wrapped_key,
            token.encryption_context,
            token.kms_key_arn,
            key,
            deadline=time.monotonic() + site.settings.kms.deadline,
            grant_token=spec.grant_token if token.kms_key_arn == spec.kms_key_arn else None,
        )
        answer = daemon.call("resume", timeout=FLUSH_TIMEOUT, descriptor=key.fileno())
    except BaseException:
        key.wipe()
        raise
    # On success it is the daemon's to wipe, or to keep with systemd: wiping it here would wipe it there.
    return Access(answer["access"])


def detach_unusable(site: Site, volume_id: str) -> Volume:
    """Detach a volume by force, because its key cannot be used; one transaction with its event, which says why.

    Nothing where that is not so any more: since a turn asked for it the key may be back, or the mode another.
    """
    from ebscrypt.control.detach import detach_held  # noqa: PLC0415 - it imports us by way of the watch

    watched = _find(site, volume_id)
    if watched is None:
        return site.catalog.volume(volume_id)
    try:
        with on_volume(site, volume_id, "detach"):
            if not _is_to_be_detached(site, volume_id):
                return site.catalog.volume(volume_id)
            told = watched.event(KeyEvent.CHANGE_ACCESS, "detached", watched.record.cause)
            return detach_held(site, volume_id, force=True, event=told)
    except EbscryptError as error:
        _tell_failure(watched, error)
        raise


def _is_to_be_detached(site: Site, volume_id: str) -> bool:
    """Whether it is attached, has that mode, and its key is still known to be unusable. The caller holds the lock."""
    if runtime.read_attachment(site.settings, volume_id) is None:
        return False
    spec, record = runtime.directory(site.settings, volume_id).read_spec(), read_record(site.settings, volume_id)
    return spec.on_key_unusable is OnKeyUnusable.DETACH and record is not None and record.usable is False

"""A re-encryption that has begun: the process that turns the data, how far it is, and who waits for it.

    ebscrypt reencrypting VOL            started by `reencrypt_volume`, and by `recover` when it died

It holds the volume's lock and its backing from its beginning to its end, and asks KMS for both data keys once. What it
fails of is noted, so that not every command tries again; `ebscrypt reencrypt VOL` does.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from ebscrypt import durable, luks2
from ebscrypt.config import Settings
from ebscrypt.control import background, backing, data_key, faultpoints, headers, locks
from ebscrypt.control.causes import failure_text
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError, HeaderDamaged, KeyMismatch, NotPermitted, StateError
from ebscrypt.luks2 import journal, reencryption
from ebscrypt.model import MIB, Volume, VolumeState

if TYPE_CHECKING:
    from ebscrypt.core import Device

COMMAND: Final = "reencrypting"
"""What holds a volume's lock while its data is turned."""
_STEP: Final = 4 * MIB
"""Bytes that count at most for one step where the rate is limited: a hole is passed for nothing."""


class Reencrypting(msgspec.Struct, frozen=True, rename="pascal"):
    """A re-encryption under way. ``bytes_done`` of ``bytes_total`` have the new data key."""

    volume_id: str
    target_kms_key_id: str
    bytes_done: int
    bytes_total: int
    failure: str | None = None


class Note(msgspec.Struct, frozen=True):
    """What is known of a re-encryption besides header and journal. Nothing is lost with it but this.

    ``throttle``: the most bytes a second. ``failure``: why it does not go on by itself.
    """

    throttle: int | None = None
    failure: str | None = None


def describe(site: Site, volume: Volume) -> Reencrypting | None:
    """How far the volume is; None where no re-encryption is under way, or its backing is not there."""
    if not volume.encrypted or volume.state not in (VolumeState.AVAILABLE, VolumeState.IN_USE):
        return None
    with headers.opened_anyhow(volume) as (descriptor, reading):
        wanted = reencryption.find(reading.header)
        if wanted is None:
            return None
        done = journal.boundary(descriptor, reencryption.journal_area(reading.header), wanted.id)
    return Reencrypting(
        volume_id=volume.volume_id,
        target_kms_key_id=wanted.token.kms_key_arn,
        bytes_done=done or 0,
        bytes_total=volume.size,
        failure=read_note(site.settings, volume.volume_id).failure,
    )


def noted(site: Site, volume: Volume) -> Reencrypting | None:
    """The same for whoever lists volumes: only of those that the catalog knows of, and None where it cannot be read."""
    if volume.volume_id in site.catalog.keys.rewraps():
        with suppress(EbscryptError):
            return describe(site, volume)
    return None


def described(site: Site, volume: Volume) -> Reencrypting:
    """The same where one was under way a moment ago: at its end by now, if it is no more."""
    found = describe(site, volume)
    if found is not None:
        return found
    return Reencrypting(volume.volume_id, volume.kms_key_arn or "", volume.size, volume.size)


def is_at_work(site: Site, volume_id: str) -> bool:
    """Whether the process is there that turns the data."""
    holder = locks.holder(site.settings, volume_id)
    return holder is not None and holder.command == COMMAND


def start(site: Site, volume_id: str) -> None:
    """Have a process of its own do the work, without waiting for it. Raises `StateError` when none can be started."""
    background.start(
        site,
        [COMMAND, volume_id],
        description=f"Re-encryption of {volume_id}",
        purpose=f"re-encrypts volume {volume_id}",
    )


def take_up(site: Site, volume: Volume) -> bool:
    """Whether a re-encryption is under way; one that was interrupted goes on. The caller holds the volume's lock."""
    found = describe(site, volume)
    if found is None:
        return False
    if found.failure is None and volume.state is VolumeState.AVAILABLE:
        start(site, volume.volume_id)
    return True


def settle_reencryption(site: Site, volume_id: str) -> None:
    """Turn what is left of a volume, to its end. Nothing where there is nothing to do, or another does it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.held(site.settings, volume_id, COMMAND))
        except StateError:
            return
        volume = site.catalog.volume(volume_id)
        if volume.state is not VolumeState.AVAILABLE or describe(site, volume) is None:
            return
        try:
            _finish(site, volume)
        except (EbscryptError, OSError) as error:
            why = failure_text(error, str(error) or "it was interrupted")
            note = read_note(site.settings, volume_id)
            write_note(site.settings, volume_id, msgspec.structs.replace(note, failure=why))


def _finish(site: Site, volume: Volume) -> None:
    volume_id = volume.volume_id
    claimed = backing.claimed(volume.backing, volume.backing_kind)
    with claimed as descriptor, backing.translated(volume.backing, "re-encrypt"):
        luks2.repair_header(descriptor, volume_id=volume_id, reencrypting=True)
        header = luks2.read_header(descriptor, volume_id=volume_id, reencrypting=True).header
        wanted = reencryption.find(header)
        if wanted is None:
            raise StateError(f"the header of volume {volume_id} was changed meanwhile", hint="run the command again")
        reencryption.before(header).token().check_binding(volume_id, volume.kms_key_arn)
        wanted.token.check_binding(volume_id, site.catalog.keys.rewraps().get(volume_id))
        area = reencryption.journal_area(header)
        if journal.boundary(descriptor, area, wanted.id) != volume.size:
            _turn(site, volume, descriptor, header, wanted)
        faultpoints.reach("reencrypt.turned")
        luks2.write_header(descriptor, reencryption.ended(header))
        faultpoints.reach("reencrypt.ended")
        journal.clear(descriptor, area)
        faultpoints.reach("reencrypt.cleared")
    site.catalog.keys.end_rewrap(volume_id, wanted.token.kms_key_arn)
    faultpoints.reach("reencrypt.done")
    forget_note(site.settings, volume_id)


def _turn(site: Site, volume: Volume, descriptor: int, header: luks2.Header, wanted: luks2.Reencryption) -> None:
    """Turn every sector that has the old data key, durably."""
    throttle = read_note(site.settings, volume.volume_id).throttle
    device = _opened(site, volume, descriptor, header, wanted)
    try:
        began, turned, done = time.monotonic(), 0, device.reencrypted or 0
        while done < device.size:
            faultpoints.reach("reencrypt.zone")
            before, done = done, device.reencrypt_next()
            turned += min(done - before, _STEP)
            if throttle is not None:
                time.sleep(max(0.0, turned / throttle - (time.monotonic() - began)))
    finally:
        device.close()


def _opened(site: Site, volume: Volume, descriptor: int, header: luks2.Header, wanted: luks2.Reencryption) -> Device:
    """The volume with both keys, each sector's own; what its journal says was begun is finished by then."""
    from ebscrypt.core import Device  # noqa: PLC0415 - the compiled core, which few commands need

    old = reencryption.before(header)
    segment = old.segment()
    offset, length = reencryption.journal_area(header)
    with (
        data_key.unwrapped(site, old.token()) as old_key,
        data_key.unwrapped(site, wanted.token) as new_key,
        ExitStack() as undo,
    ):
        if not (data_key.matches(old_key, old.digest()) and data_key.matches(new_key, wanted.digest)):
            raise KeyMismatch(
                f"KMS unwrapped a data key that is not that of {volume.volume_id}: its header is corrupted or tampered "
                "with",
                hint="bring the header back from a backup that was made during this re-encryption",
            )
        try:
            device = Device(
                descriptor,
                size=segment.size_on(luks2.backing_size(descriptor)),
                data_offset=segment.data_offset,
                sector_size=segment.sector_size,
                key=old_key,
            )
            undo.callback(device.close)
            device.begin_reencryption(
                descriptor, new_key, journal_offset=offset, journal_length=length, journal_id=wanted.id
            )
        except ValueError as error:
            raise KeyMismatch(f"the data keys of volume {volume.volume_id} cannot be ones: {error}") from error
        except OSError as error:
            raise _told(volume, error) from error
        undo.pop_all()
    return device


def _told(volume: Volume, error: OSError) -> Exception:
    """What it means that the volume cannot be opened with both keys; the error itself where it is the backing's."""
    if error.errno == errno.EUCLEAN:
        return HeaderDamaged(
            f"the journal of the re-encryption of volume {volume.volume_id} is not there: corrupted or tampered with",
            hint="nobody knows which part has which data key: bring the whole backing back from a copy",
        )
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return NotPermitted(
            f"no memory can be locked for the cipher: {error.strerror}", hint="raise RLIMIT_MEMLOCK (`ulimit -l`)"
        )
    return error


def wait_for(
    site: Site, volume_id: str, progress: Callable[[Reencrypting], None] | None = None, *, poll: float = 0.2
) -> Reencrypting:
    """Return when the volume has the new data key alone. ``progress`` is called every ``poll`` seconds.

    Raises `StateError` when the process failed, or nothing does the work.
    """
    idle = time.monotonic()
    while True:
        found = describe(site, site.catalog.volume(volume_id))
        if found is None and not is_at_work(site, volume_id):
            return described(site, site.catalog.volume(volume_id))
        if found is not None and progress is not None:
            progress(found)
        if is_at_work(site, volume_id):
            idle = time.monotonic()
        elif found is not None and found.failure is not None:
            raise StateError(
                f"the re-encryption of volume {volume_id} has stopped: {found.failure}",
                hint=f"when that is mended `ebscrypt reencrypt {volume_id}` goes on; nothing is lost",
            )
        elif time.monotonic() - idle > site.settings.attach.start_timeout:
            raise StateError(
                f"nothing re-encrypts volume {volume_id}", hint="each command tries to start it: look at `dmesg`"
            )
        time.sleep(poll)


def _note_path(settings: Settings, volume_id: str) -> Path:
    return Path(settings.paths.state) / "reencryptions" / f"{volume_id}.json"


def read_note(settings: Settings, volume_id: str) -> Note:
    """What is noted; an empty note where nothing is."""
    try:
        return msgspec.json.decode(_note_path(settings, volume_id).read_bytes(), type=Note)
    except (FileNotFoundError, msgspec.DecodeError):
        return Note()


def write_note(settings: Settings, volume_id: str, note: Note) -> None:
    path = _note_path(settings, volume_id)
    durable.make_directory(path.parent)
    durable.write_file(path, msgspec.json.encode(note))


def forget_note(settings: Settings, volume_id: str) -> None:
    durable.remove_file(_note_path(settings, volume_id))

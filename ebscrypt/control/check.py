"""`check_volume`: is everything that a volume needs there, and do its parts agree? Looks, and mends only when told to.

catalog     the volume is in a state that can be used
attachment  its daemon lives
backing     is there, and long enough
header      both copies are sound and the same
token       says what the catalog says
key         KMS knows the key and would use it now
unwrap      KMS opens the wrapped key, and it is the volume's (only on request: it is a Decrypt in the audit trail)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from ebscrypt import luks2
from ebscrypt.control import backing, data_key, faultpoints, runtime
from ebscrypt.control.create import data_offset
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import BackingMissing, EbscryptError, KeyMismatch
from ebscrypt.model import AttachmentState, Volume, VolumeState, encryption_context


class Result(StrEnum):
    """``bad`` needs somebody's help, ``repairable`` can be mended by ``check --repair``, ``repaired`` just was."""

    OK = "ok"
    REPAIRED = "repaired"
    REPAIRABLE = "repairable"
    BAD = "bad"


class Finding(msgspec.Struct, frozen=True, rename="pascal"):
    """What one look found."""

    check: str
    result: Result
    message: str
    hint: str | None = None


def check_volume(site: Site, volume_id: str, *, repair: bool = False, unwrap: bool = False) -> list[Finding]:
    """All findings about a volume, in the order above. Raises `VolumeNotFound` only: what fails is a finding."""
    with on_volume(site, volume_id, "check"):
        volume = site.catalog.volume(volume_id)
        return list(_look(site, volume, repair=repair, unwrap=unwrap))


def _look(site: Site, volume: Volume, *, repair: bool, unwrap: bool) -> Iterator[Finding]:
    yield _catalog(volume)
    if volume.state not in (VolumeState.AVAILABLE, VolumeState.IN_USE):
        return
    if volume.state is VolumeState.IN_USE:
        yield _attachment(site, volume)
    try:
        yield _backing(volume)
        if not volume.encrypted:
            return
        reading, finding = _header(site, volume, repair=repair)
        yield finding
        yield _token(site, volume, reading.header, repair=repair)
    except EbscryptError as error:
        yield _bad("backing" if isinstance(error, BackingMissing) else "header", error)
        return
    yield _key(site, reading.header.token())
    if unwrap:
        yield _unwrap(site, volume, reading.header)


def _bad(check: str, error: EbscryptError) -> Finding:
    return Finding(check, Result.BAD, error.message, error.hint)


def _catalog(volume: Volume) -> Finding:
    if volume.state in (VolumeState.AVAILABLE, VolumeState.IN_USE):
        return Finding("catalog", Result.OK, f"the volume is {volume.state}")
    why = f": {volume.state_message}" if volume.state_message else ""
    return Finding("catalog", Result.BAD, f"the volume is {volume.state}{why}", f"ebscrypt delete {volume.volume_id}")


def _attachment(site: Site, volume: Volume) -> Finding:
    attached = runtime.attachment_state(site.settings, volume.volume_id)
    if attached is None or attached.state is AttachmentState.LOST:
        hint = f"`ebscrypt attach {volume.volume_id}` takes it up again, `ebscrypt detach {volume.volume_id}` ends it"
        return Finding("attachment", Result.BAD, "the daemon has died", hint)
    where = "" if attached.attachment is None else f" as {attached.attachment.device}"
    return Finding("attachment", Result.OK, f"the volume is {attached.state}{where}")


def _backing(volume: Volume) -> Finding:
    found = backing.find(volume.backing)
    if found is None:
        raise BackingMissing(
            f"the backing {volume.backing} is not there",
            hint="is its disk mounted, or plugged in? If it moved: `ebscrypt rebuild-catalog PATH`",
        )
    needed = data_offset(encrypted=volume.encrypted) + volume.size
    if found.size < needed:
        message = f"{volume.backing} has {found.size} bytes, and the volume needs {needed}: it was cut off"
        return Finding("backing", Result.BAD, message, "bring the whole backing back from a copy")
    return Finding("backing", Result.OK, f"{volume.backing} has {found.size} bytes")


def _header(site: Site, volume: Volume, *, repair: bool) -> tuple[luks2.Reading, Finding]:
    """Raises `HeaderError` when no copy is sound, or the header is another volume's."""
    with backing.translated(volume.backing, "read"):
        descriptor = os.open(volume.backing, os.O_RDONLY | os.O_CLOEXEC)
    try:
        reading = luks2.read_header(descriptor, volume_id=volume.volume_id)
    finally:
        os.close(descriptor)
    if reading.repair is None:
        return reading, Finding("header", Result.OK, f"both copies are sound, in state {reading.header.seqid}")
    if not repair:
        hint = f"`ebscrypt check {volume.volume_id} --repair` writes it again from the good copy"
        return reading, Finding("header", Result.REPAIRABLE, reading.repair, hint)
    if runtime.is_served(site.settings, volume.volume_id):
        hint = "detach the volume, then check it again"
        return reading, Finding("header", Result.REPAIRABLE, f"{reading.repair}; its daemon has the header", hint)
    with backing.claimed(volume.backing, volume.backing_kind) as writable, backing.translated(volume.backing, "repair"):
        luks2.repair_header(writable, volume_id=volume.volume_id)
    faultpoints.reach("check.repaired")
    return reading, Finding("header", Result.REPAIRED, f"{reading.repair}; it was written again from the good copy")


def _token(site: Site, volume: Volume, header: luks2.Header, *, repair: bool) -> Finding:
    """The header is what the volume is; where the catalog says something else, the catalog is wrong."""
    token, segment = header.token(), header.segment()
    if token.encryption_context != encryption_context(volume.volume_id):
        message = "the encryption context in the header is not this volume's: KMS would refuse the wrapped key"
        return Finding(
            "token", Result.BAD, message, "bring the header back from a backup: cryptsetup luksHeaderRestore"
        )
    if token.region != site.settings.kms.region:
        message = f"the key is in Region {token.region}, and ebscrypt is set to {site.settings.kms.region}"
        return Finding("token", Result.BAD, message, f"set EBSCRYPT_REGION={token.region}")
    said = {"size": segment.size, "sector_size": segment.sector_size, "kms_key_arn": token.kms_key_arn}
    wrong = {name: value for name, value in said.items() if value is not None and getattr(volume, name) != value}
    if not wrong:
        return Finding(
            "token", Result.OK, f"the catalog agrees with it; sealed: {'yes' if token.sealed else 'not yet'}"
        )
    told = ", ".join(f"{name} {getattr(volume, name)} and not {value}" for name, value in wrong.items())
    if not repair:
        hint = f"`ebscrypt check {volume.volume_id} --repair` takes over what the header says"
        return Finding("token", Result.REPAIRABLE, f"the catalog has {told}", hint)
    site.catalog.correct(volume.volume_id, **wrong)
    faultpoints.reach("check.corrected")
    return Finding("token", Result.REPAIRED, f"the catalog had {told}; it has now what the header says")


def _key(site: Site, token: luks2.KmsToken) -> Finding:
    try:
        key = site.kms.describe_key(token.kms_key_arn)
    except EbscryptError as error:
        return _bad("key", error)
    if key.state == "Enabled":
        return Finding("key", Result.OK, f"{key.arn} is enabled")
    gone = f", and will be gone on {key.deletion_date:%Y-%m-%d}" if key.deletion_date else ""
    hint = "an attached volume works on; the next attachment will fail until the key is enabled"
    return Finding("key", Result.BAD, f"{key.arn} is {key.state}{gone}", hint)


def _unwrap(site: Site, volume: Volume, header: luks2.Header) -> Finding:
    """Have KMS open the wrapped key, in the unwrap process and into secret memory, as an attachment would."""
    token = header.token()
    try:
        with data_key.unwrapped(site, token) as key:
            if token.sealed and not data_key.matches(key, header.digest()):
                raise KeyMismatch(
                    f"KMS unwrapped a data key that is not volume {volume.volume_id}'s: corrupted or tampered with",
                    hint="bring the header back from a backup",
                )
    except EbscryptError as error:
        return _bad("unwrap", error)
    return Finding(
        "unwrap", Result.OK, "KMS unwraps the data key" + (", and it is the volume's" if token.sealed else "")
    )

"""`rewrap_volume`: a new wrapped key for the same data key, by another KMS key or by the same one's newest material.

    KMS        ReEncrypt gives the new wrapped key; the data key never leaves KMS for that
    proof      the new one is unwrapped as for an attachment, and must give the volume's data key
    catalog    the KMS key that we are on the way to is noted
    grant      an attachment that has one gets one on the new KMS key
    header     the new wrapped key in the place of the old one, by the two-copy sequence
    spec.json  the new KMS key and the new grant's token, for the watch and for the next daemon of this attachment
    catalog    the volume has that KMS key, and no rewrap is under way
    grant      the one on the old KMS key is retired

No data moves, and a daemon that serves the volume is not concerned: it has the data key. Until the header's second copy
is durable the old wrapped key counts, from then on the new one, and both work until the end; so a crash at any point
leaves a volume that opens, and `settle_rewrap` lets the catalog, spec.json and the grants follow what the header says.
EBS has no event for this (the audit trail has the ReEncrypt), and neither do we.

rewrap_snapshot.py does the same for snapshots.
"""

from __future__ import annotations

import msgspec

from ebscrypt import luks2
from ebscrypt.control import data_key, faultpoints, grants, headers, runtime
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError, KeyMismatch, StateError
from ebscrypt.model import AttachmentSpec, AttachmentState, Volume


def rewrap_volume(site: Site, volume_id: str, kms_key_id: str, *, dry_run: bool = False) -> Volume:
    """Have the data key of a volume wrapped by ``kms_key_id`` (id, ARN, alias or alias ARN), attached or not.

    The key it has already is allowed: after a rotation its newest material does the wrapping. ``dry_run`` checks all
    that can be checked and changes nothing. ``site.notes`` then say what a rewrap does not protect against.

    Raises `StateError` for a plain volume and one that starts or was lost, `InvalidParameter` and `KmsInvalidKeyUsage`
    for a key that no volume may have, `KmsError`, `KeyMismatch` when the new wrapped key is not one of the volume's
    data key, `HeaderError`, `BackingError`. Then the volume has its old key, or by misfortune the new one, and opens.
    """
    with on_volume(site, volume_id, "rewrap"):
        volume = settled(site, site.catalog.volume(volume_id))
        headers.check_settled(site, volume, "a rewrap")
        header = headers.read(volume).header
        headers.check_token(volume, header.token())
        key = site.kms.resolve_key(kms_key_id)
        if dry_run:
            site.kms.dry_run("ReEncrypt", key.arn, **data_key.reencrypt_request(header.token(), key.arn))
            return volume
        token = reencrypted(site, header.token(), key.arn)
        _prove(site, header, token)
        faultpoints.reach("rewrap.proven")
        return _replace(site, volume, header, token)


def reencrypted(site: Site, token: luks2.KmsToken, key_arn: str) -> luks2.KmsToken:
    """``token`` with a wrapped key by the KMS key ``key_arn``, for the same encryption context; not proven yet."""
    wrapped = data_key.wrapped_anew(site, token, key_arn, token.encryption_context)
    return msgspec.structs.replace(token, kms_key_arn=wrapped.key_arn, wrapped_key=wrapped.blob)


def _prove(site: Site, header: luks2.Header, token: luks2.KmsToken) -> None:
    """Raise unless KMS unwraps the volume's data key from ``token``: only then may the old wrapped key be given up.

    The digest of a sealed header tells. Where it is not sealed yet, the old wrapped key is unwrapped to compare.
    """
    with data_key.unwrapped(site, token) as new:
        if token.sealed:
            proven = data_key.matches(new, header.digest())
        else:
            with data_key.unwrapped(site, header.token()) as old:
                proven = data_key.matches(new, data_key.digest_of(old))
    if not proven:
        raise KeyMismatch(
            f"the wrapped key that KMS made for {token.volume_id} opens, but not to the volume's data key",
            hint=f"nothing has been changed; check the volume (`ebscrypt check {token.volume_id} --unwrap`) and what "
            "answers at kms.endpoint",
        )


def _replace(site: Site, volume: Volume, header: luks2.Header, token: luks2.KmsToken) -> Volume:
    """Header and catalog get the new wrapped key and its KMS key, or both keep the old one."""
    volume_id, old = volume.volume_id, header.token()
    site.catalog.keys.begin_rewrap(volume_id, token.kms_key_arn)
    faultpoints.reach("rewrap.noted")
    try:
        spec = _spec_under(site, volume, token.kms_key_arn)
        _write(volume, header, token)
        faultpoints.reach("rewrap.described")
        if spec is not None:
            runtime.write_spec(site.settings, spec)
            faultpoints.reach("rewrap.told")
    except BaseException:
        _settle_quietly(site, volume)
        raise
    site.catalog.keys.end_rewrap(volume_id, token.kms_key_arn)
    faultpoints.reach("rewrap.done")
    grants.end_grants(site, volume_id, but_on=token.kms_key_arn)
    site.notes.append(_not_protected(old.kms_key_arn, token.kms_key_arn))
    return site.catalog.volume(volume_id)


def _spec_under(site: Site, volume: Volume, key_arn: str) -> AttachmentSpec | None:
    """The spec of an attachment that is served, for ``key_arn``; None where that needs no change.

    One that has a grant has it made anew, on that key, by the rules of an attachment that begins.
    """
    attached = runtime.attachment_state(site.settings, volume.volume_id)
    if attached is None or attached.state is not AttachmentState.ATTACHED:
        return None
    spec = runtime.directory(site.settings, volume.volume_id).read_spec()
    if spec.kms_key_arn == key_arn:
        return None
    under = msgspec.structs.replace(volume, kms_key_arn=key_arn)
    grant = None if spec.grant_token is None else grants.begin_grant(site, under)
    return msgspec.structs.replace(spec, kms_key_arn=key_arn, grant_token=grant)


def _write(volume: Volume, proven: luks2.Header, token: luks2.KmsToken) -> None:
    """Put ``token`` in the header, unless what the proof was about has changed; others may have added a keyslot."""
    with headers.writable(volume) as descriptor:
        now = luks2.read_header(descriptor, volume_id=volume.volume_id).header
        if (now.token(), now.digest()) != (proven.token(), proven.digest()):
            raise StateError(
                f"the header of volume {volume.volume_id} was changed meanwhile", hint="run the command again"
            )
        luks2.write_header(descriptor, now.with_token(token))


def _not_protected(old_arn: str, new_arn: str) -> str:
    """What people could take a rewrap for, and it is not."""
    whose = "that key" if old_arn == new_arn else f"the old key {old_arn}"
    return (
        f"the data key is the same as before: whoever has it, or has an older copy of the header (a backup, a copy of "
        f"the backing) and may use {whose}, can read the volume still"
    )


def _settle_quietly(site: Site, volume: Volume) -> None:
    """The error that led here matters more than that of a second look at the header; `recover` will look again."""
    try:
        kept = settle_rewrap(site, volume)
    except EbscryptError as error:
        site.notes.append(f"the rewrap of {volume.volume_id} could not be put in order yet: {error.message}")
    else:
        site.notes.append(f"the data key of {volume.volume_id} is wrapped by {kept}")


def settled(site: Site, volume: Volume) -> Volume:
    """The volume, after what an interrupted rewrap left was put in order. The caller holds its lock."""
    kept = settle_rewrap(site, volume)
    if kept is None:
        return volume
    site.notes.append(f"the rewrap of {volume.volume_id} was interrupted: its data key is wrapped by {kept}")
    return site.catalog.volume(volume.volume_id)


def settle_rewrap(site: Site, volume: Volume) -> str | None:
    """Let the catalog have the KMS key that the header names after an interrupted rewrap; None where none was.

    An attachment follows, with its grant; what KMS refuses then is a note. A header that names neither of the two keys
    is left to the daemon, which refuses it: the catalog keeps the old one.
    """
    target = site.catalog.keys.rewraps().get(volume.volume_id)
    if target is None:
        return None
    reading = headers.read(volume)
    kept = target if reading.header.token().kms_key_arn == target else (volume.kms_key_arn or target)
    try:
        if (spec := _spec_under(site, volume, kept)) is not None:
            runtime.write_spec(site.settings, spec)
    except (EbscryptError, OSError) as error:
        site.notes.append(f"the attachment of {volume.volume_id} has no grant on {kept}: {error}")
    site.catalog.keys.end_rewrap(volume.volume_id, kept)
    if reading.repair is not None:
        with headers.writable(volume) as descriptor:
            luks2.repair_header(descriptor, volume_id=volume.volume_id)
    grants.end_grants(site, volume.volume_id, but_on=kept)
    return kept

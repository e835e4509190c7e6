"""`reencrypt_volume`: another data key for a volume, and every sector of it turned. EBS has nothing like it.

    KMS        a new data key, wrapped for this volume (GenerateDataKeyWithoutPlaintext); both are unwrapped as a proof
    catalog    the KMS key that we are on the way to is noted
    journal    begun, in the header's keyslots area
    header     names both wrapped keys, and requires of who opens the volume that he knows of this
    data       turned by a process of its own, zone by zone (reencrypting.py)
    header     has the new wrapped key and digest alone
    catalog    the volume has that KMS key, and no re-encryption is under way

Until the header says that it has begun nothing has changed. From then on there is no way back, only forward: what ends
the process, be it `kill -9` or a power cut, leaves a volume of which the header and the journal say which sector has
which key, and the next command goes on. Meanwhile the volume is detached and stays so.

Whoever has the old data key can read nothing any more: not by an old header, nor by a passphrase made for it, except in
older copies of the data, snapshots among them. EBS has no event for this (the audit trail has KMS's part), nor have we.
"""

from __future__ import annotations

import secrets

import msgspec

from ebscrypt import luks2
from ebscrypt.control import data_key, faultpoints, headers, reencrypting
from ebscrypt.control.fill_job import refuse_while_filling
from ebscrypt.control.operation import on_volume
from ebscrypt.control.reencrypting import Reencrypting
from ebscrypt.control.rewrap import settled
from ebscrypt.control.site import Site
from ebscrypt.control.unfinished import refuse_while_read
from ebscrypt.errors import EbscryptError, KeyMismatch, StateError, VolumeInUse
from ebscrypt.luks2 import journal, reencryption
from ebscrypt.model import Volume, VolumeState, check_volume_id, encryption_context, new_data_encryption_key_id


def reencrypt_volume(
    site: Site, volume_id: str, kms_key_id: str | None = None, *, throttle: int | None = None
) -> Reencrypting:
    """Begin to re-encrypt a detached volume, or have one that was interrupted go on; returns at once.

    ``kms_key_id`` (id, ARN, alias or alias ARN) wraps the new data key; the volume's own KMS key where not given.
    ``throttle`` is the most bytes a second. `reencrypting.wait_for` waits for the end.

    Raises `VolumeInUse` for an attached volume, `StateError` for a plain one, one with keyslots, and one that is on its
    way to another KMS key; `InvalidParameter` and `KmsInvalidKeyUsage` for a key that no volume may have, `KmsError`,
    `KeyMismatch`, `HeaderError`, `BackingError`. Then nothing has changed, or it goes on later.
    """
    volume = site.catalog.volume(check_volume_id(volume_id))
    found = reencrypting.describe(site, volume)
    if found is not None and reencrypting.is_at_work(site, volume_id):
        _check_target(site, found, kms_key_id)
        if throttle is not None:
            site.notes.append(f"volume {volume_id} is being re-encrypted at the rate that was asked for before")
        return found
    with on_volume(site, volume_id, "reencrypt"):
        volume = site.catalog.volume(volume_id)
        found = reencrypting.describe(site, volume)
        if found is None:
            volume = settled(site, volume)
            _begin(site, volume, _checked(site, volume), kms_key_id)
        else:
            _check_target(site, found, kms_key_id)
            site.catalog.keys.begin_rewrap(volume_id, found.target_kms_key_id)
        reencrypting.write_note(site.settings, volume_id, reencrypting.Note(throttle=throttle))
    reencrypting.start(site, volume_id)
    return reencrypting.described(site, site.catalog.volume(volume_id))


def _check_target(site: Site, found: Reencrypting, kms_key_id: str | None) -> None:
    """The KMS key that the header is on the way to is the one that we know of, or that the user names.

    Who can write to the backing must not choose it. A catalog that was rebuilt knows of none.
    """
    volume_id, target = found.volume_id, found.target_kms_key_id
    known = site.catalog.keys.rewraps().get(volume_id) or site.catalog.volume(volume_id).kms_key_arn
    if kms_key_id is None and target != known:
        raise KeyMismatch(
            f"the header of volume {volume_id} is on its way to the KMS key {target}, of which the catalog knows "
            "nothing: it is corrupted or tampered with, or the catalog was made anew meanwhile",
            hint=f"if you had asked for that key: `ebscrypt reencrypt {volume_id} --kms-key-id {target}`",
        )
    if kms_key_id is not None and (wanted := site.kms.resolve_key(kms_key_id).arn) != found.target_kms_key_id:
        raise StateError(
            f"volume {found.volume_id} is being re-encrypted under {found.target_kms_key_id}, not under {wanted}",
            hint=f"let it finish: `ebscrypt reencrypt {found.volume_id} --wait`",
        )


def _checked(site: Site, volume: Volume) -> luks2.Header:
    """The header of a volume that can be re-encrypted now."""
    volume_id = volume.volume_id
    if volume.encrypted and volume.state is VolumeState.IN_USE:
        raise VolumeInUse(
            f"volume {volume_id} is attached, and only detached volumes are re-encrypted",
            hint=f"detach it first: `ebscrypt detach {volume_id}`",
        )
    headers.check_settled(site, volume, "a re-encryption")
    refuse_while_read(site, volume, "re-encrypted")
    refuse_while_filling(site, volume_id, "re-encrypted")
    header = headers.read(volume).header
    headers.check_token(volume, header.token())
    if keyslots := header.metadata["keyslots"]:
        raise StateError(
            f"volume {volume_id} has keyslots ({', '.join(keyslots)}), which hold the old data key and would open "
            "nothing afterwards",
            hint=f"remove them (`ebscrypt recovery remove {volume_id} …`), re-encrypt, then add new ones",
        )
    return header


def _begin(site: Site, volume: Volume, header: luks2.Header, kms_key_id: str | None) -> None:
    """Let the header say that a re-encryption is under way, or nothing be changed."""
    header, wanted = _planned(site, volume, header, kms_key_id)
    begun = reencryption.begun(header, wanted)
    site.catalog.keys.begin_rewrap(volume.volume_id, wanted.token.kms_key_arn)
    faultpoints.reach("reencrypt.noted")
    try:
        with headers.writable(volume) as descriptor:
            journal.begin(descriptor, reencryption.journal_area(header), wanted.id)
            faultpoints.reach("reencrypt.journal")
            luks2.write_header(descriptor, begun, reencrypting=True)
    except BaseException:
        _settle_quietly(site, volume)
        raise
    faultpoints.reach("reencrypt.begun")


def _planned(
    site: Site, volume: Volume, header: luks2.Header, kms_key_id: str | None
) -> tuple[luks2.Header, luks2.Reencryption]:
    """A data key from KMS, proven to open, and the header with the old one's digest where it was not sealed yet."""
    key = site.kms.resolve_key(kms_key_id or volume.kms_key_arn)
    context = encryption_context(volume.volume_id)
    wrapped = site.kms.generate_data_key_without_plaintext(key.arn, context)
    old_token = header.token()
    token = msgspec.structs.replace(
        old_token,
        kms_key_arn=wrapped.key_arn,
        wrapped_key=wrapped.blob,
        encryption_context=context,
        region=site.kms.region,
        data_encryption_key_id=new_data_encryption_key_id(),
    )
    with data_key.unwrapped(site, token) as new, data_key.unwrapped(site, old_token) as old:
        digest = data_key.digest_of(new)
        proven = not old_token.sealed or data_key.matches(old, header.digest())
        if not proven or data_key.matches(old, digest):
            what = "is not the volume's" if not proven else "is the old one again"
            raise KeyMismatch(
                f"the data key that KMS gave for {volume.volume_id} {what}",
                hint=f"nothing has been changed; check the volume (`ebscrypt check {volume.volume_id} --unwrap`) and "
                "what answers at kms.endpoint",
            )
        if not old_token.sealed:
            header = header.with_digest(data_key.digest_of(old))
    sealed = msgspec.structs.replace(token, sealed=True)
    return header, luks2.Reencryption(id=secrets.token_bytes(reencryption.ID_SIZE), token=sealed, digest=digest)


def _settle_quietly(site: Site, volume: Volume) -> None:
    """The error that led here matters more than that of a second look at the header; `recover` will look again."""
    try:
        if reencrypting.describe(site, volume) is None:
            site.catalog.keys.end_rewrap(volume.volume_id, volume.kms_key_arn or "")
    except EbscryptError as error:
        site.notes.append(f"the re-encryption of {volume.volume_id} could not be put in order yet: {error.message}")

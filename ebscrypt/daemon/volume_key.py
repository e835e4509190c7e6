"""The data key of a volume that is being opened: unwrapped by KMS or taken over, proved by the header's digest.

A header that has no digest yet gets one, the first time that somebody who may write has the key.
"""

from __future__ import annotations

import time

from ebscrypt import luks2
from ebscrypt.config import Settings
from ebscrypt.core import SecretMemory
from ebscrypt.daemon.backing import Backing
from ebscrypt.errors import KeyMismatch, NotPermitted
from ebscrypt.kms.unwrap import unwrap_key
from ebscrypt.model import DATA_KEY_SIZE, AttachmentSpec


def data_key(
    spec: AttachmentSpec,
    header: luks2.Header,
    settings: Settings,
    notes: list[str],
    stored_key: SecretMemory | None,
) -> SecretMemory:
    """The volume's data key in secret memory, proved by the header's digest where there is one."""
    if stored_key is not None:
        if header.token().sealed and _matches(stored_key, header):
            return stored_key
        notes.append("the data key kept from an earlier start is not this volume's: it was wiped, and KMS asked")
        stored_key.wipe()
    key = _secret_memory(notes)
    try:
        # The unwrap process lacks what this one lacks: that is said once.
        notes.extend(note for note in _unwrap(spec, header, settings, key) if note not in notes)
    except BaseException:
        key.wipe()
        raise
    return key


def _unwrap(spec: AttachmentSpec, header: luks2.Header, settings: Settings, key: SecretMemory) -> list[str]:
    token = header.token()
    notes = unwrap_key(
        token.wrapped_key,
        token.encryption_context,
        token.kms_key_arn,
        key,
        deadline=time.monotonic() + settings.kms.deadline,
        grant_token=spec.grant_token,
    )
    if token.sealed and not _matches(key, header):
        raise KeyMismatch(
            f"KMS unwrapped a data key that is not that of {token.volume_id}: its header is corrupted or tampered with",
            hint="bring the header back from a backup: `cryptsetup luksHeaderRestore`",
        )
    return notes


def _secret_memory(notes: list[str]) -> SecretMemory:
    try:
        key = SecretMemory(DATA_KEY_SIZE)
    except OSError as error:
        raise NotPermitted(
            f"no memory can be locked for the data key: {error.strerror}",
            hint="raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=)",
        ) from error
    if key.kind != "memfd_secret":
        notes.append("the kernel has no memfd_secret: the data key is in locked memory that root can read")
    if not key.locked:
        notes.append("the data key's memory is not locked: it may reach swap")
    return key


def _matches(key: SecretMemory, header: luks2.Header) -> bool:
    digest = header.digest()
    return key.matches(digest.salt, digest.iterations, digest.hash_name, digest.digest)


def seal(spec: AttachmentSpec, backing: Backing, header: luks2.Header, key: SecretMemory, notes: list[str]) -> None:
    """Give the header the digest of the key, which creation never saw: from now on a wrong key is known as one."""
    if spec.read_only:
        notes.append("the header is not sealed yet: that needs a first attachment that may write")
        return
    salt = luks2.new_digest_salt()
    value = key.digest(salt, luks2.DIGEST_ITERATIONS, luks2.DIGEST_HASH, luks2.DIGEST_SIZE)
    digest = luks2.Digest(salt=salt, digest=value, iterations=luks2.DIGEST_ITERATIONS, hash_name=luks2.DIGEST_HASH)
    luks2.write_header(backing.fd, header.with_digest(digest))

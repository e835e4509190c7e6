"""A volume's data key, for the moment in which a command has to prove it or to hand it on.

It comes as for an attachment: the unwrap process has KMS decrypt it into secret memory, where no Python object ever
holds it, and it is wiped when the block ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ebscrypt import luks2
from ebscrypt.control import process
from ebscrypt.control.site import Site
from ebscrypt.errors import KmsIncorrectKey, NotPermitted

if TYPE_CHECKING:
    from ebscrypt.core import SecretMemory
    from ebscrypt.kms.results import WrappedKey


class Wrapped(Protocol):
    """A wrapped key and what KMS must be told to unwrap it: the token of a volume, or what a manifest has."""

    @property
    def wrapped_key(self) -> bytes: ...
    @property
    def encryption_context(self) -> dict[str, str]: ...
    @property
    def kms_key_arn(self) -> str: ...


@contextmanager
def unwrapped(site: Site, token: Wrapped) -> Iterator[SecretMemory]:
    """The data key that KMS unwraps from ``token``, until the block ends. Nobody has compared it with anything yet.

    Raises `KmsError`, and `NotPermitted` where no memory can be locked for it.
    """
    from ebscrypt.core import SecretMemory  # noqa: PLC0415 - the compiled core, which few commands need
    from ebscrypt.kms.unwrap import unwrap_key  # noqa: PLC0415 - the same

    try:
        key = SecretMemory()
    except OSError as error:
        raise NotPermitted(
            f"no memory can be locked for the data key: {error.strerror}", hint="raise RLIMIT_MEMLOCK (`ulimit -l`)"
        ) from error
    try:
        deadline = time.monotonic() + site.settings.kms.deadline
        notes = unwrap_key(
            token.wrapped_key,
            token.encryption_context,
            token.kms_key_arn,
            key,
            deadline=deadline,
            environ=process.environment(site.settings),
        )
        site.notes.extend(note for note in notes if note not in site.notes)
        yield key
    finally:
        key.wipe()


def wrapped_anew(site: Site, old: Wrapped, key_arn: str, context: dict[str, str]) -> WrappedKey:
    """The data key of ``old`` wrapped by the KMS key ``key_arn`` for ``context`` (ReEncrypt); not proven yet.

    The data key never leaves KMS for it. Raises `KmsError`.
    """
    wrapped = site.kms.re_encrypt(
        old.wrapped_key, old.encryption_context, key_arn, context, source_key_id=old.kms_key_arn
    )
    if wrapped.key_arn != key_arn:
        raise KmsIncorrectKey(
            f"KMS was asked to wrap the data key by {key_arn}, and answered for {wrapped.key_arn}",
            hint="nothing has been changed; check what answers at kms.endpoint",
            key_arn=key_arn,
        )
    return wrapped


def reencrypt_request(old: Wrapped, key_arn: str) -> dict[str, Any]:
    """ReEncrypt's parameters for another wrapped key with the same context, as `KmsClient.re_encrypt` sends them."""
    return {
        "CiphertextBlob": old.wrapped_key,
        "SourceEncryptionContext": old.encryption_context,
        "SourceKeyId": old.kms_key_arn,
        "DestinationKeyId": key_arn,
        "DestinationEncryptionContext": old.encryption_context,
    }


def matches(key: SecretMemory, digest: luks2.Digest) -> bool:
    """Whether ``key`` is the one that the digest is of."""
    return key.matches(digest.salt, digest.iterations, digest.hash_name, digest.digest)


def digest_of(key: SecretMemory) -> luks2.Digest:
    """A new digest of ``key``, with a salt of its own, as a sealed header has it."""
    salt = luks2.new_digest_salt()
    value = key.digest(salt, luks2.DIGEST_ITERATIONS, luks2.DIGEST_HASH, luks2.DIGEST_SIZE)
    return luks2.Digest(salt=salt, digest=value, iterations=luks2.DIGEST_ITERATIONS, hash_name=luks2.DIGEST_HASH)

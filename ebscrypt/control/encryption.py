"""Whether something new is encrypted, and under which KMS key: EBS's two outcome tables, as functions of nothing else.

    volume_outcome   CreateVolume (facts §1.6)
    copy_outcome     CopySnapshot (facts §1.7)

What EBS's sources leave open, or contradict each other in, is decided in docs/decisions/0032-which-key-encrypts.md.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ebscrypt.errors import InvalidCombination, InvalidParameter, MissingDependency


class Outcome(StrEnum):
    """What becomes of a new volume or copy. For the default key see `ebscrypt.control.defaults`."""

    PLAIN = "plain"
    DEFAULT_KEY = "default-key"
    SOURCE_KEY = "source-key"
    GIVEN_KEY = "given-key"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume is made from: a snapshot, which is encrypted or not, and one's own or shared by another account."""

    encrypted: bool
    shared: bool = False


def volume_outcome(
    *, by_default: bool, encrypted: bool | None, key_given: bool, source: Source | None = None
) -> Outcome:
    """How CreateVolume encrypts. ``by_default``: encryption by default is on; ``encrypted`` is None where not said.

    Raises `MissingDependency` for a key without ``encrypted``, and `InvalidCombination` for a plain volume of something
    encrypted. With encryption by default on, "not encrypted" counts like nothing said, as EC2 does it.
    """
    _refuse_key_alone(encrypted=encrypted, key_given=key_given)
    if key_given:
        return Outcome.GIVEN_KEY
    if source is not None and source.encrypted:
        if encrypted is False and not by_default:
            raise InvalidCombination(
                "a volume from an encrypted snapshot cannot be plain: encrypted snapshots must be used to create "
                "encrypted volumes",
                hint="leave out Encrypted; to decrypt data, copy it from one attached volume to another",
            )
        # The owner of a shared snapshot may take his key away at any time: its copy here is under ours.
        return Outcome.DEFAULT_KEY if source.shared else Outcome.SOURCE_KEY
    return Outcome.DEFAULT_KEY if encrypted or by_default else Outcome.PLAIN


def copy_outcome(*, by_default: bool, encrypted: bool | None, key_given: bool, source_encrypted: bool) -> Outcome:
    """How CopySnapshot encrypts; the arguments are as for `volume_outcome`. No copy keeps its source's key by itself.

    Raises `InvalidParameter` for ``encrypted`` False, which EC2 does not take here, and `MissingDependency`.
    """
    _refuse_key_alone(encrypted=encrypted, key_given=key_given)
    if encrypted is False:
        raise InvalidParameter(
            "Encrypted cannot be false for a copy of a snapshot",
            hint="leave it out: the copy of a plain snapshot is plain unless encryption by default is on",
        )
    if key_given:
        return Outcome.GIVEN_KEY
    return Outcome.DEFAULT_KEY if encrypted or by_default or source_encrypted else Outcome.PLAIN


def _refuse_key_alone(*, encrypted: bool | None, key_given: bool) -> None:
    """EC2's rule and text (facts §1.5): even with encryption by default on, a key must come with Encrypted."""
    if key_given and not encrypted:
        raise MissingDependency(
            "the parameter KmsKeyId requires the parameter Encrypted to be set",
            hint="leave out --no-encrypted, or leave out --kms-key-id",
        )

"""Whether something new is encrypted, and under which KMS key: EBS's outcome tables, as functions of nothing else.

    volume_outcome   CreateVolume (facts §1.6)
    copy_outcome     CopySnapshot (facts §1.7)
    upload_outcome   StartSnapshot of the EBS direct APIs (facts §6.7)

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


def upload_outcome(
    *, by_default: bool, encrypted: bool | None, key_given: bool, parent_encrypted: bool | None
) -> Outcome:
    """How StartSnapshot encrypts; ``parent_encrypted`` is None where there is no parent, whose key is the source's.

    Raises `InvalidCombination`. Here, unlike everywhere else, "not encrypted" is refused while encryption by default is
    on, and a key may come without Encrypted.
    """
    if parent_encrypted is not None:
        if encrypted is not None:
            raise InvalidCombination("Encrypted and ParentSnapshotId exclude each other", hint="leave out Encrypted")
        if key_given:
            raise InvalidCombination(
                "KmsKeyArn and ParentSnapshotId exclude each other: a snapshot has its parent's key, or none as it has",
                hint="leave out KmsKeyArn; CopySnapshot changes the key",
            )
        if not parent_encrypted and by_default:
            raise InvalidCombination(
                "the parent is plain, and encryption by default is on",
                hint="leave out ParentSnapshotId, or take an encrypted copy of the parent",
            )
        return Outcome.SOURCE_KEY if parent_encrypted else Outcome.PLAIN
    if encrypted is False and (by_default or key_given):
        why = "KmsKeyArn is given" if key_given else "encryption by default is on"
        raise InvalidCombination(f"Encrypted is false, and {why}", hint="leave out Encrypted")
    if key_given:
        return Outcome.GIVEN_KEY
    return Outcome.DEFAULT_KEY if encrypted or by_default else Outcome.PLAIN


def _refuse_key_alone(*, encrypted: bool | None, key_given: bool) -> None:
    """EC2's rule and text (facts §1.5): even with encryption by default on, a key must come with Encrypted."""
    if key_given and not encrypted:
        raise MissingDependency(
            "the parameter KmsKeyId requires the parameter Encrypted to be set",
            hint="leave out --no-encrypted, or leave out --kms-key-id",
        )

"""What KMS answered, as frozen values, checked before anyone relies on them.

A KMS, or something that poses as one, may answer 200 with nonsense. What is stored in a volume's header, or used as
its key, passes through here first; what cannot be right raises `KmsBadAnswer`, which names the field and the rule
that it breaks, never its content. No ``repr`` here shows a plaintext or a wrapped key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from ebscrypt.errors import KmsBadAnswer
from ebscrypt.kms.names import is_key_arn

LARGEST_BLOB: Final = 6144
"""Bytes of the longest CiphertextBlob (facts §5.1)."""
LONGEST_GRANT_ID: Final = 128
LONGEST_GRANT_TOKEN: Final = 8192
"""Characters (facts §5.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A data key as KMS gave it: only the KMS key ``key_arn``, with the same encryption context, opens ``blob``."""

    blob: bytes = field(repr=False)
    key_arn: str
    material_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKey:
    """A plaintext data key. It may exist in the unwrap process only (design, law 3)."""

    plaintext: bytes = field(repr=False)
    key_arn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Leave to use a KMS key for one attachment. With its ``token`` it is effective at once (facts §5.2)."""

    grant_id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDescription:
    """A KMS key as DescribeKey tells it. ``state`` is one of facts §5.2, ``arn`` always the full key ARN."""

    key_id: str
    arn: str
    state: str
    usage: str
    spec: str
    manager: str
    origin: str
    description: str = ""
    deletion_date: datetime | None = None

    @property
    def encrypts_volumes(self) -> bool:
        """Whether EBS can use it at all: symmetric, and for encryption (facts §1.5)."""
        return self.spec == "SYMMETRIC_DEFAULT" and self.usage == "ENCRYPT_DECRYPT"


# `key` is what was asked about, for the error: the answer itself may not name it.


def wrapped_key(answer: Mapping[str, Any], operation: str, key: str | None) -> WrappedKey:
    """The wrapped key in the answer of GenerateDataKey*, Encrypt or ReEncrypt."""
    blob = answer.get("CiphertextBlob")
    if not isinstance(blob, bytes) or not 1 <= len(blob) <= LARGEST_BLOB:
        raise _bad(operation, f"CiphertextBlob is not 1 to {LARGEST_BLOB} bytes", answer, key)
    material = answer.get("KeyMaterialId") or answer.get("DestinationKeyMaterialId")
    return WrappedKey(blob=blob, key_arn=_key_arn(answer, operation, key), material_id=material)


def data_key(answer: Mapping[str, Any], operation: str, key: str | None, size: int) -> DataKey:
    """The plaintext in the answer of Decrypt, which must have exactly ``size`` bytes."""
    plaintext = answer.get("Plaintext")
    if not isinstance(plaintext, bytes) or len(plaintext) != size:
        raise _bad(operation, f"Plaintext is not {size} bytes", answer, key)
    return DataKey(plaintext=plaintext, key_arn=_key_arn(answer, operation, key))


def grant(answer: Mapping[str, Any], key: str) -> Grant:
    """The grant in the answer of CreateGrant."""
    grant_id, token = answer.get("GrantId"), answer.get("GrantToken")
    if not isinstance(grant_id, str) or not 1 <= len(grant_id) <= LONGEST_GRANT_ID:
        raise _bad("CreateGrant", f"GrantId is not 1 to {LONGEST_GRANT_ID} characters", answer, key)
    if not isinstance(token, str) or not 1 <= len(token) <= LONGEST_GRANT_TOKEN:
        raise _bad("CreateGrant", f"GrantToken is not 1 to {LONGEST_GRANT_TOKEN} characters", answer, key)
    return Grant(grant_id=grant_id, token=token)


def key_description(answer: Mapping[str, Any], key: str | None) -> KeyDescription:
    """The key in the answer of DescribeKey or CreateKey."""
    metadata = answer.get("KeyMetadata")
    if not isinstance(metadata, Mapping) or not is_key_arn(metadata.get("Arn")):
        raise _bad("DescribeKey", "KeyMetadata.Arn is not a key ARN", answer, key)
    # CustomerMasterKeySpec is the name that KeySpec had before 2021; older doubles of KMS know only that.
    spec = metadata.get("KeySpec") or metadata.get("CustomerMasterKeySpec")
    # moto leaves out the usage unless it was given; a symmetric key can only have the one.
    usage = metadata.get("KeyUsage") or ("ENCRYPT_DECRYPT" if spec == "SYMMETRIC_DEFAULT" else None)
    texts = {"KeyState": metadata.get("KeyState"), "KeyUsage": usage, "KeySpec": spec}
    if missing := [name for name, text in texts.items() if not isinstance(text, str) or not text]:
        raise _bad("DescribeKey", f"KeyMetadata has no {' and no '.join(missing)}", answer, key)
    return KeyDescription(
        key_id=str(metadata["Arn"]).rpartition("/")[2],
        arn=metadata["Arn"],
        state=str(texts["KeyState"]),
        usage=str(texts["KeyUsage"]),
        spec=str(spec),
        manager=metadata.get("KeyManager") or "CUSTOMER",
        origin=metadata.get("Origin") or "AWS_KMS",
        description=metadata.get("Description") or "",
        deletion_date=metadata.get("DeletionDate"),
    )


def _key_arn(answer: Mapping[str, Any], operation: str, key: str | None) -> str:
    arn = answer.get("KeyId")
    if not is_key_arn(arn):
        raise _bad(operation, "KeyId is not a key ARN", answer, key)
    return str(arn)


def _bad(operation: str, rule: str, answer: Mapping[str, Any], key: str | None) -> KmsBadAnswer:
    metadata = answer.get("ResponseMetadata")
    request_id = metadata.get("RequestId") if isinstance(metadata, Mapping) else None
    return KmsBadAnswer(
        f"the answer to {operation}{f' with key {key}' if key else ''} cannot be right: {rule}",
        hint="check that kms.endpoint (EBSCRYPT_KMS) is a KMS, and what stands between it and this machine",
        key_arn=key if is_key_arn(key) else None,
        request_id=request_id if isinstance(request_id, str) else None,
    )

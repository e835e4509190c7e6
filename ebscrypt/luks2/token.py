"""The token of type ``ebscrypt-kms``: what KMS needs to give the data key back, kept in the volume's own header.

LUKS2 lets any program keep tokens; cryptsetup shows and preserves those it does not know. The fields are frozen for
version 1 (docs/formats/luks2.md). A reader of version 1 ignores and keeps fields that it does not know; whatever an old
reader must not ignore will raise the version.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final

import msgspec

from ebscrypt.errors import HeaderDamaged, HeaderUnsupported, KeyMismatch
from ebscrypt.model import encryption_context

TOKEN_TYPE: Final = "ebscrypt-kms"  # noqa: S105 - the name of a format, not a secret
TOKEN_VERSION: Final = 1
MAX_WRAPPED_KEY: Final = 6144
"""Bytes of the longest wrapped key: KMS's own limit for a CiphertextBlob."""

_Printable = Annotated[str, msgspec.Meta(pattern=r"\A[!-~]+\Z", max_length=2048)]


class KmsToken(msgspec.Struct, frozen=True, kw_only=True):
    """How the data key of one volume is wrapped.

    ``wrapped_key`` is KMS's CiphertextBlob as it came, ``encryption_context`` what it is bound to, ``kms_key_arn`` the
    KMS key's full ARN. ``sealed`` says that the header's digest is the data key's own; until the first attachment it
    is a placeholder, because a volume is made without anybody ever seeing its key. ``data_encryption_key_id`` names the
    data key beyond this volume: snapshots and volumes of one lineage have the same. None in older headers; see
    `ebscrypt.model.data_encryption_key_id`.
    """

    volume_id: Annotated[str, msgspec.Meta(pattern=r"\Avol-[0-9a-f]{17}\Z")]
    kms_key_arn: Annotated[str, msgspec.Meta(pattern=r"\Aarn:[!-~]+\Z", max_length=2048)]
    wrapped_key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_WRAPPED_KEY)]
    encryption_context: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    region: _Printable
    sealed: bool
    version: int = TOKEN_VERSION
    data_encryption_key_id: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,128}\Z")] | None = None

    def check_binding(self, volume_id: str, kms_key_arn: str | None) -> None:
        """Raise `KeyMismatch` unless this is how KMS is to be asked for that volume's data key.

        Who can write to the backing must choose neither the KMS key nor the encryption context, which is always the
        volume's own (facts §1.2). ``kms_key_arn`` is what the catalog has, None where there is none to compare with.
        """
        hint = f"`ebscrypt check {volume_id}` tells more; a backup brings it back: `cryptsetup luksHeaderRestore`"
        if kms_key_arn is not None and self.kms_key_arn != kms_key_arn:
            raise KeyMismatch(
                f"the header of volume {volume_id} names the KMS key {self.kms_key_arn}, the catalog {kms_key_arn}: "
                "it is corrupted or tampered with",
                hint=hint,
            )
        if self.encryption_context != encryption_context(volume_id):
            raise KeyMismatch(
                f"the encryption context in the header of volume {volume_id} is not the volume's own: "
                "it is corrupted or tampered with",
                hint=hint,
            )

    def to_json(self) -> dict[str, Any]:
        """The token as it stands in the header. Raises `ValueError` when a field is not one that could be read back."""
        fields: dict[str, Any] = {
            "type": TOKEN_TYPE,
            "keyslots": [],
            "version": self.version,
            "volume_id": self.volume_id,
            "kms_key_arn": self.kms_key_arn,
            "wrapped_key": base64.b64encode(self.wrapped_key).decode("ascii"),
            "encryption_context": dict(self.encryption_context),
            "region": self.region,
            "sealed": self.sealed,
        }
        if self.data_encryption_key_id is not None:
            fields["data_encryption_key_id"] = self.data_encryption_key_id
        try:
            read_back = msgspec.convert(fields, KmsToken)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a KMS token: {error}") from None
        if self.version != TOKEN_VERSION or read_back != self:
            raise ValueError(f"a KMS token of version {self.version} cannot be written")
        return fields


def token_from_json(fields: dict[str, Any]) -> KmsToken:
    """The token in ``fields``. Raises `HeaderUnsupported` for a later version, `HeaderDamaged` for what is none."""
    version = fields.get("version")
    if type(version) is int and version > TOKEN_VERSION:
        raise HeaderUnsupported(
            f"the {TOKEN_TYPE} token has version {version}: this ebscrypt reads version {TOKEN_VERSION}",
            hint="attach the volume with the ebscrypt that wrote it, or a later one",
        )
    if type(version) is not int or version != TOKEN_VERSION:
        raise HeaderDamaged(f"the {TOKEN_TYPE} token has no valid version: corrupted or tampered with")
    try:
        return msgspec.convert(fields, KmsToken)
    except msgspec.ValidationError as error:
        raise HeaderDamaged(f"the {TOKEN_TYPE} token is corrupted or tampered with: {error}") from None

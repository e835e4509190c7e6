"""Secrets at rest: key material, and the private keys of pending imports, sealed by AES-256-GCM under the root key.

    u8 version = 1 │ nonce, 12 │ ciphertext, as long as the secret │ tag, 16

Each kind of secret has a *purpose*, which gives it a sealing key of its own, derived from the root key. The additional
data binds the sealed bytes to their place: the purpose, the key's ARN and the secret's id, each behind its length. What
is moved to another row, key or store does not open. Nonces are random: a store would need some 2^32 secrets before that
became a concern (NIST SP 800-38D, 8.3). secrets_kept.py lists where sealed secrets lie.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ebscrypt.errors import KmsError
from ebscrypt.kms.context import sized
from ebscrypt.kms.embedded.root_key import RootKey

MATERIAL_SIZE: Final = 32
"""Bytes of a symmetric key's material (256 bits, as AWS has it)."""
MATERIAL: Final = "ebscrypt kms: key material v1"
"""The purpose of key material."""
IMPORT_KEY: Final = "ebscrypt kms: import key v1"
"""The purpose of the private keys that GetParametersForImport keeps for 24 hours."""

_IMPORTED_ID: Final = b"ebscrypt kms: imported material id v1"
_VERSION: Final = b"\x01"
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16


def new_material_id() -> str:
    """A fresh KeyMaterialId: 64 lower-case hexadecimal digits, as AWS's are."""
    return secrets.token_hex(32)


def imported_material_id(key_id: str, material: bytes) -> str:
    """The KeyMaterialId of imported material, computed from key and material as AWS's is.

    So the same material, imported again, is recognised when nothing else of it is left. It is a one-way function of
    the material: it can confirm a guess, which is why imported material must be random.
    """
    return HKDF(SHA256(), 32, salt=key_id.encode(), info=_IMPORTED_ID).derive(material).hex()


def new_material() -> bytes:
    """Fresh key material of a symmetric key."""
    return os.urandom(MATERIAL_SIZE)


def seal(root: RootKey, arn: str, identity: str, secret: bytes, *, purpose: str = MATERIAL) -> bytes:
    """The form of ``secret`` that is stored, in the row ``identity`` of the key ``arn``."""
    nonce = os.urandom(_NONCE_SIZE)
    sealed = AESGCM(root.derive(purpose)).encrypt(nonce, secret, _bound_to(purpose, arn, identity))
    return _VERSION + nonce + sealed


def unseal(root: RootKey, arn: str, identity: str, sealed: bytes, *, purpose: str = MATERIAL) -> bytes:
    """The secret. Raises `KmsError` when the stored bytes are not what was sealed for this key, place and purpose."""
    if len(sealed) <= 1 + _NONCE_SIZE + _TAG_SIZE or not sealed.startswith(_VERSION):
        raise _tampered(arn)
    nonce, ciphertext = sealed[1 : 1 + _NONCE_SIZE], sealed[1 + _NONCE_SIZE :]
    try:
        return AESGCM(root.derive(purpose)).decrypt(nonce, ciphertext, _bound_to(purpose, arn, identity))
    except InvalidTag:
        raise _tampered(arn) from None


def _tampered(arn: str) -> KmsError:
    return KmsError(
        f"the stored key material of {arn} is corrupted or tampered with",
        hint="restore the embedded KMS's directory, root key and keys.db together, from a backup",
        key_arn=arn,
    )


def _bound_to(purpose: str, arn: str, identity: str) -> bytes:
    return sized(purpose.encode()) + sized(arn.encode()) + sized(identity.encode())

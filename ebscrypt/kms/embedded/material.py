"""Key material at rest: 32 bytes of a KMS key, sealed by AES-256-GCM under a key derived from the root key.

    u8 version = 1 │ nonce, 12 │ ciphertext, 32 │ tag, 16                       61 bytes

The additional data binds the sealed bytes to their place: the key's ARN and the material's id, each behind its length.
Material moved to another row, key or store does not open. Nonces are random: a store would need some 2^32 keys before
that became a concern (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import os
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ebscrypt.errors import KmsError
from ebscrypt.kms.context import sized
from ebscrypt.kms.embedded.root_key import RootKey

MATERIAL_SIZE: Final = 32
_VERSION: Final = b"\x01"
_NONCE_SIZE: Final = 12
_SEALED_SIZE: Final = 1 + _NONCE_SIZE + MATERIAL_SIZE + 16
_PURPOSE: Final = "ebscrypt kms: key material v1"


def new_material_id() -> str:
    """A fresh KeyMaterialId: 64 lower-case hexadecimal digits, as AWS's are."""
    return secrets.token_hex(32)


def new_material() -> bytes:
    """Fresh key material of a symmetric key."""
    return os.urandom(MATERIAL_SIZE)


def seal(root: RootKey, arn: str, material_id: str, material: bytes) -> bytes:
    """The form of ``material`` that is stored."""
    nonce = os.urandom(_NONCE_SIZE)
    sealed = AESGCM(root.derive(_PURPOSE)).encrypt(nonce, material, _bound_to(arn, material_id))
    return _VERSION + nonce + sealed


def unseal(root: RootKey, arn: str, material_id: str, sealed: bytes) -> bytes:
    """The material. Raises `KmsError` when the stored bytes are not what was sealed for this key."""
    if len(sealed) == _SEALED_SIZE and sealed[:1] == _VERSION:
        nonce, ciphertext = sealed[1 : 1 + _NONCE_SIZE], sealed[1 + _NONCE_SIZE :]
        try:
            return AESGCM(root.derive(_PURPOSE)).decrypt(nonce, ciphertext, _bound_to(arn, material_id))
        except InvalidTag:
            pass
    raise KmsError(
        f"the stored key material of {arn} is corrupted or tampered with",
        hint="restore the embedded KMS's directory, root key and keys.db together, from a backup",
        key_arn=arn,
    )


def _bound_to(arn: str, material_id: str) -> bytes:
    return sized(_PURPOSE.encode()) + sized(arn.encode()) + sized(material_id.encode())

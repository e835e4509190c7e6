"""Ciphertext blobs: what Encrypt, GenerateDataKey* and ReEncrypt give out, and Decrypt takes back. Opaque to clients.

     0   4  magic and version, "ebk" 0x01
     4  16  key id: the UUID's bytes
    20  32  material id
    52  32  seed, random
    84   n  ciphertext, as long as the plaintext (1 to 4096)
  84+n  16  tag

Key (32 bytes) and nonce (12 bytes) of AES-256-GCM come from HKDF-SHA256 over the key material with the seed as salt, so
every blob has a key of its own and the number of blobs under one KMS key is not bounded by GCM's nonce. Authenticated
with the ciphertext: all before it, the key's ARN, and the encryption context in its canonical form.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ebscrypt.kms.context import canonical, sized
from ebscrypt.kms.embedded.faults import invalid_ciphertext

HEADER_SIZE: Final = 84
TAG_SIZE: Final = 16
_MAGIC: Final = b"ebk\x01"
_SEED_SIZE: Final = 32
_PURPOSE: Final = b"ebscrypt kms: ciphertext v1"


@dataclass(frozen=True, slots=True)
class Header:
    """The readable part of a blob: which key and which of its materials."""

    key_id: str
    material_id: str
    seed: bytes

    def pack(self) -> bytes:
        return _MAGIC + uuid.UUID(self.key_id).bytes + bytes.fromhex(self.material_id) + self.seed


def read_header(blob: bytes) -> Header:
    """The header of ``blob``. Raises InvalidCiphertextException when it cannot be one of ours."""
    if len(blob) <= HEADER_SIZE + TAG_SIZE or not blob.startswith(_MAGIC):
        raise invalid_ciphertext()
    return Header(key_id=str(uuid.UUID(bytes=blob[4:20])), material_id=blob[20:52].hex(), seed=blob[52:HEADER_SIZE])


def encrypt(
    material: bytes, *, arn: str, key_id: str, material_id: str, plaintext: bytes, context: dict[str, str]
) -> bytes:
    """A blob of ``plaintext`` under ``material``, bound to key and context."""
    header = Header(key_id, material_id, os.urandom(_SEED_SIZE))
    key, nonce = _derive(material, header.seed)
    return header.pack() + AESGCM(key).encrypt(nonce, plaintext, _bound_to(header, arn, context))


def decrypt(material: bytes, *, arn: str, blob: bytes, context: dict[str, str]) -> bytes:
    """The plaintext. Raises InvalidCiphertextException, with no hint whether blob, context or key is to blame."""
    header = read_header(blob)
    key, nonce = _derive(material, header.seed)
    try:
        return AESGCM(key).decrypt(nonce, blob[HEADER_SIZE:], _bound_to(header, arn, context))
    except InvalidTag:
        raise invalid_ciphertext() from None


def _derive(material: bytes, seed: bytes) -> tuple[bytes, bytes]:
    derived = HKDF(SHA256(), 44, salt=seed, info=_PURPOSE).derive(material)
    return derived[:32], derived[32:]


def _bound_to(header: Header, arn: str, context: dict[str, str]) -> bytes:
    return sized(header.pack()) + sized(arn.encode()) + canonical(context)

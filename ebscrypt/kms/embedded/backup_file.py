"""The file of `ebscrypt kms export`: content under a passphrase. docs/formats/embedded-kms-backup.md describes it.

     0  16  magic, "ebscrypt-kms-bkp"
    16   4  version, 1                    numbers are u32, big-endian
    20   4  scrypt: log2 of N
    24   4  scrypt: r
    28   4  scrypt: p
    32  32  scrypt: salt, random
    64  12  nonce, random
    76   n  ciphertext of the content
  76+n  16  tag

AES-256-GCM; its key comes from the passphrase by scrypt (RFC 7914), its additional data is all before the ciphertext.
A file says how hard its passphrase is to try, so that harder ones can be written later and all be read.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ebscrypt.errors import KmsError

LARGEST: Final = 1 << 30
"""Bytes of a file that is read: more than a million keys, of 880 bytes each as measured."""

_HEADER: Final = struct.Struct(">16sIIII32s12s")
_MAGIC: Final = b"ebscrypt-kms-bkp"
_VERSION: Final = 1
_TAG_SIZE: Final = 16
_COST: Final = (17, 8, 1)
"""log2 N, r, p: 128 MiB and 0.3 s for each guess (OWASP's first choice for scrypt)."""
_BOUNDS: Final = ((14, 20), (1, 16), (1, 16))
"""What is believed of a file: at most 2 GiB of memory, whatever its header says."""


def seal(content: bytes, passphrase: bytes) -> bytes:
    """The file of ``content``."""
    salt, nonce = os.urandom(32), os.urandom(12)
    header = _HEADER.pack(_MAGIC, _VERSION, *_COST, salt, nonce)
    return header + AESGCM(_key(passphrase, salt, _COST)).encrypt(nonce, content, header)


def unseal(file: bytes, passphrase: bytes) -> bytes:
    """The content. Raises `KmsError` when it is no such file, a newer one, or does not open with ``passphrase``."""
    if len(file) < _HEADER.size + _TAG_SIZE or not file.startswith(_MAGIC):
        raise KmsError("this is no backup of an embedded KMS", hint="`ebscrypt kms export` writes one")
    _, version, *cost, salt, nonce = _HEADER.unpack_from(file)
    if version != _VERSION:
        raise KmsError(
            f"the backup has version {version}, and this ebscrypt knows version {_VERSION}",
            hint="a newer ebscrypt wrote it: use that one",
        )
    if not all(low <= value <= high for value, (low, high) in zip(cost, _BOUNDS, strict=True)):
        raise KmsError(f"the backup is corrupted: scrypt with log2 N, r, p of {', '.join(map(str, cost))}")
    key = _key(passphrase, salt, (cost[0], cost[1], cost[2]))
    try:
        return AESGCM(key).decrypt(nonce, file[_HEADER.size :], file[: _HEADER.size])
    except InvalidTag:
        raise KmsError(
            "the backup does not open: the passphrase is another, or the file is corrupted or tampered with",
            hint="try again with the passphrase of that export",
        ) from None


def _key(passphrase: bytes, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    log_n, r, p = cost
    return Scrypt(salt=salt, length=32, n=1 << log_n, r=r, p=p).derive(passphrase)

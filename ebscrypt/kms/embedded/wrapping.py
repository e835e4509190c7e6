"""Wrapping keys for imported material: RSA key pairs, and the four algorithms by which AWS lets material be wrapped.

    RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256              the material itself by RSA-OAEP (RFC 8017)
    RSA_AES_KEY_WRAP_SHA_1, RSA_AES_KEY_WRAP_SHA_256  an AES key by RSA-OAEP, then the material by that key (RFC 5649)

RSAES_PKCS1_V1_5 is refused, as AWS refuses it since October 2023; SM2 exists in AWS's China Regions only.
"""

from __future__ import annotations

from typing import Final, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

KEY_SIZES: Final = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
"""Bits of a wrapping key, by WrappingKeySpec."""
_OAEP: Final[dict[str, type[hashes.SHA1 | hashes.SHA256]]] = {
    "RSAES_OAEP_SHA_1": hashes.SHA1,
    "RSAES_OAEP_SHA_256": hashes.SHA256,
    "RSA_AES_KEY_WRAP_SHA_1": hashes.SHA1,
    "RSA_AES_KEY_WRAP_SHA_256": hashes.SHA256,
}
"""The hash of OAEP and of its mask, by WrappingAlgorithm. SHA-1 is AWS's offer, and no weakness of OAEP."""
ALGORITHMS: Final = frozenset(_OAEP)


class CannotUnwrap(Exception):
    """The wrapped material does not open: another wrapping key, another algorithm, or damaged."""


def generate(spec: str) -> tuple[bytes, bytes]:
    """A new key pair: the private key (PKCS #8, DER) and the public key (SubjectPublicKeyInfo, DER)."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=KEY_SIZES[spec])
    return (
        private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )


def unwrap(private: bytes, algorithm: str, wrapped: bytes) -> bytes:
    """The material. Raises `CannotUnwrap`, with no hint at which step."""
    key = cast("rsa.RSAPrivateKey", load_der_private_key(private, password=None))
    oaep_hash = _OAEP[algorithm]
    oaep = padding.OAEP(padding.MGF1(oaep_hash()), oaep_hash(), label=None)
    try:
        if algorithm.startswith("RSAES_OAEP"):
            return key.decrypt(wrapped, oaep)
        size = key.key_size // 8
        return aes_key_unwrap_with_padding(key.decrypt(wrapped[:size], oaep), wrapped[size:])
    except (ValueError, InvalidUnwrap):
        raise CannotUnwrap from None

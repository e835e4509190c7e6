"""Key specs: which usages and algorithms each has, as the AWS documentation of CreateKey lists them.

The embedded KMS works with symmetric encryption keys only. The other specs can be created and described, so that
whatever must refuse them meets real ones; they have no key material.
"""

from __future__ import annotations

from typing import Final

SYMMETRIC: Final = "SYMMETRIC_DEFAULT"
ENCRYPT_DECRYPT: Final = "ENCRYPT_DECRYPT"


Usages = dict[str, tuple[str, list[str]]]
"""Each KeyUsage that a spec allows, with the metadata member that lists its algorithms, and those."""


def _signs(*algorithms: str) -> Usages:
    return {"SIGN_VERIFY": ("SigningAlgorithms", list(algorithms))}


def _encrypts(*algorithms: str) -> Usages:
    return {ENCRYPT_DECRYPT: ("EncryptionAlgorithms", list(algorithms))}


_AGREES: Final[Usages] = {"KEY_AGREEMENT": ("KeyAgreementAlgorithms", ["ECDH"])}
_RSA: Final = _encrypts("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256") | _signs(
    *(f"RSASSA_{scheme}_SHA_{bits}" for scheme in ("PKCS1_V1_5", "PSS") for bits in (256, 384, 512))
)


def _mac(bits: int) -> Usages:
    return {"GENERATE_VERIFY_MAC": ("MacAlgorithms", [f"HMAC_SHA_{bits}"])}


SPECS: Final[dict[str, Usages]] = {
    SYMMETRIC: _encrypts(SYMMETRIC),
    "RSA_2048": _RSA,
    "RSA_3072": _RSA,
    "RSA_4096": _RSA,
    "ECC_NIST_P256": _signs("ECDSA_SHA_256") | _AGREES,
    "ECC_NIST_P384": _signs("ECDSA_SHA_384") | _AGREES,
    "ECC_NIST_P521": _signs("ECDSA_SHA_512") | _AGREES,
    "ECC_SECG_P256K1": _signs("ECDSA_SHA_256"),
    "ECC_NIST_EDWARDS25519": _signs("ED25519_SHA_512", "ED25519_PH_SHA_512"),
    "HMAC_224": _mac(224),
    "HMAC_256": _mac(256),
    "HMAC_384": _mac(384),
    "HMAC_512": _mac(512),
    "ML_DSA_44": _signs("ML_DSA_SHAKE_256"),
    "ML_DSA_65": _signs("ML_DSA_SHAKE_256"),
    "ML_DSA_87": _signs("ML_DSA_SHAKE_256"),
}
"""SM2 exists in AWS's China Regions only, ML_KEM is newer than the sources of this table: neither is offered."""

_OF_EVERY_KEY: Final = frozenset({"CreateGrant", "DescribeKey", "RetireGrant"})
_MOVES: Final = frozenset({"Decrypt", "Encrypt", "ReEncryptFrom", "ReEncryptTo"})
_GENERATES: Final = frozenset(
    {
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
    }
)
_OF_USAGE: Final = {
    ENCRYPT_DECRYPT: _MOVES,
    "SIGN_VERIFY": frozenset({"Sign", "Verify"}),
    "GENERATE_VERIFY_MAC": frozenset({"GenerateMac", "VerifyMac"}),
    "KEY_AGREEMENT": frozenset({"DeriveSharedSecret"}),
}


def grant_operations(spec: str, usage: str) -> frozenset[str]:
    """What a grant on a key of that spec and usage can allow (KMS developer guide, "Grant operations")."""
    if spec == SYMMETRIC:
        return _OF_EVERY_KEY | _MOVES | _GENERATES
    return _OF_EVERY_KEY | _OF_USAGE[usage] | (frozenset() if spec.startswith("HMAC") else {"GetPublicKey"})

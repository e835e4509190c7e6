"""`ebscrypt kms import-key-material`: GetParametersForImport, the wrapping, and ImportKeyMaterial in one go.

The material of a symmetric key is wrapped by RSAES_OAEP_SHA_256 under a wrapping key of 4096 bits. AWS takes the
RSA_AES_KEY_WRAP algorithms for RSA and ECC keys only (API reference of GetParametersForImport, WrappingAlgorithm).
Whoever wraps elsewhere, in an HSM for example, gives what came out of it and the token.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.cli.kms_words import Answer, content, moment
from ebscrypt.errors import InvalidCombination, InvalidParameter, MissingDependency

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

MATERIAL_SIZE: Final = 32
"""Bytes of a symmetric key's material: 256 bits."""
_WRAPPING: Final = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_4096"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-material", metavar="FILE", help="32 random bytes (openssl rand -out FILE 32), or - for stdin"
    )
    parser.add_argument(
        "--encrypted-key-material", metavar="FILE", help="wrapped elsewhere already; with --import-token"
    )
    parser.add_argument("--import-token", metavar="FILE", help="the token of get-parameters-for-import")
    parser.add_argument(
        "--valid-to", "--expires", dest="valid_to", metavar="TIME", help="when KMS deletes it; without, never"
    )
    parser.add_argument(
        "--import-type",
        choices=("NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"),
        help="NEW_KEY_MATERIAL: for a key that has some, to be rotated to; EXISTING_KEY_MATERIAL: the same again",
    )
    parser.add_argument("--key-material-id", metavar="MATERIAL", help="of several materials, this one")
    parser.add_argument("--key-material-description", metavar="TEXT", help="what it is")


def import_key_material(site: Site, key_id: str, parsed: argparse.Namespace) -> Answer:
    """Import it. Raises what KMS refuses, and before that `InvalidParameter` and its like for the options."""
    request = {"KeyId": key_id} | _options(parsed)
    if parsed.key_material is not None:
        if parsed.encrypted_key_material is not None or parsed.import_token is not None:
            raise InvalidCombination("--key-material excludes --encrypted-key-material and --import-token")
        request |= _wrapped_here(site, key_id, _material(parsed.key_material))
    elif parsed.encrypted_key_material is None or parsed.import_token is None:
        raise MissingDependency(
            "import-key-material needs --key-material, or both --encrypted-key-material and --import-token",
            hint="openssl rand -out FILE 32 makes key material; keep it, for KMS never gives it back",
        )
    else:
        request |= {
            "EncryptedKeyMaterial": content(parsed.encrypted_key_material, "--encrypted-key-material"),
            "ImportToken": content(parsed.import_token, "--import-token"),
        }
    return site.kms.call("ImportKeyMaterial", **request)


def _options(parsed: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    if parsed.valid_to is not None:
        options = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": moment(parsed.valid_to, "--valid-to")}
    for member, value in (
        ("ImportType", parsed.import_type),
        ("KeyMaterialId", parsed.key_material_id),
        ("KeyMaterialDescription", parsed.key_material_description),
    ):
        if value is not None:
            options[member] = value
    return options


def _material(given: str) -> bytes:
    material = content(given, "--key-material")
    if len(material) != MATERIAL_SIZE:
        raise InvalidParameter(
            f"--key-material has {len(material)} bytes, and a symmetric key's material has {MATERIAL_SIZE}",
            hint="raw bytes, no text: openssl rand -out FILE 32",
        )
    return material


def _wrapped_here(site: Site, key_id: str, material: bytes) -> dict[str, bytes]:
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415 - no other command needs it
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - the same
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415 - the same

    parameters = site.kms.call("GetParametersForImport", KeyId=key_id, **_WRAPPING)
    public = load_der_public_key(parameters["PublicKey"])
    if not isinstance(public, rsa.RSAPublicKey):
        raise InvalidParameter("KMS gave a wrapping key that is not RSA")
    oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), label=None)
    return {"EncryptedKeyMaterial": public.encrypt(material, oaep), "ImportToken": parameters["ImportToken"]}

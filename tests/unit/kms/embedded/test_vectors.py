"""The golden stores and blobs of each version: opened by the code, and by hand as docs/formats/embedded-kms.md says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import sqlite3
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_private_key

from ebscrypt.config import Settings
from tests.unit.kms.embedded.speaking import Speaker

VECTORS = Path(__file__).parents[3] / "vectors" / "kms"
GOLDEN: dict[str, dict[str, Any]] = {
    version: json.loads((VECTORS / version / "golden.json").read_text()) for version in ("v1", "v2")
}
NEWEST = GOLDEN["v2"]
CASES = [(version, blob) for version, golden in GOLDEN.items() for blob in golden["blobs"]]
each_blob = pytest.mark.parametrize(
    ("version", "blob"), CASES, ids=[f"{version}: {blob['name']}" for version, blob in CASES]
)
each_version = pytest.mark.parametrize("version", list(GOLDEN))


@pytest.fixture
def golden(version: str, settings: Settings) -> Iterator[Speaker]:
    """A golden store, copied, at the time of its making."""
    directory = settings.kms_dir
    directory.mkdir(mode=0o700, parents=True)
    for name in ("keys.db", "root.key"):
        shutil.copyfile(VECTORS / version / name, directory / name)
        (directory / name).chmod(0o600)
    made = GOLDEN[version]
    kms = msgspec.structs.replace(settings.kms, region=made["region"], account=made["account"])
    speaker = Speaker(msgspec.structs.replace(settings, kms=kms))
    speaker.now = made["time"]
    yield speaker
    speaker.close()


@each_blob
def test_golden_blob_opens(blob: dict[str, Any], golden: Speaker) -> None:
    """Every blob of every version gives its plaintext, under its key and with its context only."""
    content = base64.b64decode(blob["ciphertext_blob"])

    assert golden.opened(content, blob["encryption_context"], KeyId=blob["key_arn"]).hex() == blob["plaintext"]
    refused = golden.refusal(
        "Decrypt", CiphertextBlob=content, EncryptionContext=blob["encryption_context"] | {"more": ""}
    )
    assert refused.kind == "InvalidCiphertextException"


@each_version
def test_golden_store_is_understood(version: str, golden: Speaker) -> None:
    """Keys, states and aliases of the golden stores are what they were; the deleted key is known to be gone."""
    states = {entry["KeyArn"]: golden.state(entry["KeyArn"]) for entry in golden.say("ListKeys")["Keys"]}
    aliases = {entry["AliasName"]: entry["TargetKeyId"] for entry in golden.say("ListAliases")["Aliases"]}
    made = GOLDEN[version]
    gone = made["deleted"]
    refused = golden.refusal("Decrypt", CiphertextBlob=base64.b64decode(gone["ciphertext_blob"]))

    assert states == made["keys"]
    assert aliases == {name: arn.rpartition("/")[2] for name, arn in made["aliases"].items()}
    assert (refused.kind, refused.message) == ("NotFoundException", f"Key '{gone['key_arn']}' does not exist")


@each_version
def test_golden_store_is_used_on(version: str, golden: Speaker) -> None:
    """The golden stores take new keys and data keys, and what came after them: rotations and grants."""
    key = golden.key()
    old = GOLDEN[version]["aliases"]["alias/golden"]
    blob = golden.wrapped(old)
    golden.say("RotateKeyOnDemand", KeyId=old)
    golden.say("CreateGrant", KeyId=old, GranteePrincipal="arn:aws:iam::111122223333:user/a", Operations=["Decrypt"])

    assert len(golden.opened(golden.wrapped(key))) == 64
    assert len(golden.opened(golden.wrapped("alias/golden"))) == 64
    assert len(golden.opened(blob)) == 64


@each_version
def test_golden_managed_key_rotates(version: str, golden: Speaker) -> None:
    """The AWS managed key of every version rotates when its time has come, and opens what it wrapped before."""
    managed = GOLDEN[version]["aliases"]["alias/aws/ebs"]
    old = [blob for blob in GOLDEN[version]["blobs"] if blob["key_arn"] == managed]
    before = len(golden.say("ListKeyRotations", KeyId=managed)["Rotations"])

    golden.now += 366 * 86_400

    assert len(golden.say("ListKeyRotations", KeyId=managed)["Rotations"]) == before + 1
    for blob in old:
        content = base64.b64decode(blob["ciphertext_blob"])
        assert golden.opened(content, blob["encryption_context"]).hex() == blob["plaintext"]
    assert old


@pytest.mark.parametrize("version", ["v2"])
def test_golden_rotations_policy_and_tags(golden: Speaker) -> None:
    """The rotated key's materials, schedule, policy and tags are what they were; so are the imported materials."""
    rotated, imported = NEWEST["rotated"], NEWEST["imported"]
    everything = {"IncludeKeyMaterial": "ALL_KEY_MATERIAL"}
    tags = golden.say("ListResourceTags", KeyId=rotated["key_arn"])["Tags"]

    assert golden.say("ListKeyRotations", KeyId=rotated["key_arn"], **everything)["Rotations"] == rotated["rotations"]
    assert golden.say("GetKeyRotationStatus", KeyId=rotated["key_arn"]) == rotated["status"]
    assert golden.say("GetKeyPolicy", KeyId=rotated["key_arn"])["Policy"] == rotated["policy"]
    assert {entry["TagKey"]: entry["TagValue"] for entry in tags} == rotated["tags"]
    assert golden.say("ListKeyRotations", KeyId=imported["key_arn"], **everything)["Rotations"] == imported["materials"]


@pytest.mark.parametrize("version", ["v2"])
def test_golden_grant_and_import(golden: Speaker) -> None:
    """The golden grant token opens the grantee's blob, and retires; the import token brings the material back."""
    grant, pending = NEWEST["grant"], NEWEST["pending_import"]
    blob = NEWEST["blobs"][grant["blob"]]
    asked = {
        "CiphertextBlob": base64.b64decode(blob["ciphertext_blob"]),
        "EncryptionContext": blob["encryption_context"],
    }
    grantee = golden.acting_as(grant["principal"])

    assert grantee.say("Decrypt", GrantTokens=[grant["grant_token"]], **asked)["KeyId"] == grant["key_arn"]
    golden.say("RetireGrant", GrantToken=grant["grant_token"])
    assert grantee.refusal("Decrypt", **asked).kind == "AccessDeniedException"
    golden.say(
        "ImportKeyMaterial",
        KeyId=pending["key_arn"],
        ImportToken=pending["import_token"],
        EncryptedKeyMaterial=pending["encrypted_key_material"],
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )
    assert golden.state(pending["key_arn"]) == "Enabled"


def sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand of RFC 5869, from its text."""
    output, block = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), hashlib.sha256)
        output += block
    return output[:length]


def opened_by_hand(version: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{VECTORS / version / 'keys.db'}?mode=ro&immutable=1", uri=True)


def root_by_hand(version: str) -> bytes:
    return bytes.fromhex((VECTORS / version / "root.key").read_text().split()[1])


def material_by_hand(version: str, arn: str, material_id: str) -> bytes:
    """Unseal material out of the golden database, with nothing of ebscrypt's code."""
    database = opened_by_hand(version)
    query = "SELECT sealed FROM material m JOIN kms_key k USING (key_id) WHERE k.arn = ? AND m.material_id = ?"
    (sealed,) = database.execute(query, (arn, material_id)).fetchone()
    database.close()
    assert (len(sealed), sealed[0]) == (61, 1)
    purpose = b"ebscrypt kms: key material v1"
    bound = sized(purpose) + sized(arn.encode()) + sized(material_id.encode())
    return AESGCM(expand(root_by_hand(version), purpose, 32)).decrypt(sealed[1:13], sealed[13:], bound)


@each_blob
def test_the_format_page_suffices(version: str, blob: dict[str, Any]) -> None:
    """Root key, store and blob open by what the format page says alone: HKDF and AES-GCM, no code of ebscrypt's."""
    content = base64.b64decode(blob["ciphertext_blob"])
    arn, context = blob["key_arn"], blob["encryption_context"]

    assert content[:4] == b"ebk\x01"
    assert str(uuid.UUID(bytes=content[4:20])) == arn.rpartition("/")[2]
    material = material_by_hand(version, arn, content[20:52].hex())
    derived = expand(hmac.digest(content[52:84], material, hashlib.sha256), b"ebscrypt kms: ciphertext v1", 44)
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    bound = sized(content[:84]) + sized(arn.encode()) + struct.pack(">I", len(pairs))
    bound += b"".join(sized(name) + sized(value) for name, value in pairs)

    assert AESGCM(derived[:32]).decrypt(derived[32:], content[84:], bound).hex() == blob["plaintext"]


@each_version
def test_the_fingerprint_is_as_written(version: str) -> None:
    """The golden stores remember the fingerprint of their root key, as the format page says it is made."""
    key = expand(root_by_hand(version), b"ebscrypt kms: root key fingerprint v1", 32)
    database = opened_by_hand(version)
    rows = dict(database.execute("SELECT name, value FROM store"))
    versions = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    database.close()

    assert rows == {"root_key_fingerprint": hmac.digest(key, b"fingerprint", hashlib.sha256).hex()}
    assert versions == [0x65626B6D, int(version[1:])]


def test_the_id_of_imported_material_is_as_written() -> None:
    """The id of imported material is HKDF of it, with the key id as salt, as the format page says."""
    arn = NEWEST["imported"]["key_arn"]
    ids = [entry["KeyMaterialId"] for entry in NEWEST["imported"]["materials"]]

    for number, material_id in enumerate(ids):
        material = bytes(range(32 * number, 32 * number + 32))
        extracted = hmac.digest(arn.rpartition("/")[2].encode(), material, hashlib.sha256)
        assert expand(extracted, b"ebscrypt kms: imported material id v1", 32).hex() == material_id
        assert material_by_hand("v2", arn, material_id) == material


def test_the_private_key_of_an_import_is_as_written() -> None:
    """The private key of the golden import is sealed as the format page says, and the token names it."""
    pending = NEWEST["pending_import"]
    token = base64.b64decode(pending["import_token"])
    database = opened_by_hand("v2")
    query = "SELECT sealed FROM import_key WHERE import_id = ?"
    (sealed,) = database.execute(query, (token[4:].hex(),)).fetchone()
    database.close()
    purpose = b"ebscrypt kms: import key v1"
    bound = sized(purpose) + sized(pending["key_arn"].encode()) + sized(token[4:].hex().encode())

    key = AESGCM(expand(root_by_hand("v2"), purpose, 32)).decrypt(sealed[1:13], sealed[13:], bound)

    assert (token[:4], sealed[0]) == (b"ebi\x01", 1)
    wrapped = base64.b64decode(pending["encrypted_key_material"])
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    private = load_der_private_key(key, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.decrypt(wrapped, oaep) == bytes(range(64, 96))


def test_the_grant_token_is_as_written() -> None:
    """The golden grant token has the form of the format page, and the store has its hash and nothing else of it."""
    token = base64.b64decode(NEWEST["grant"]["grant_token"])
    database = opened_by_hand("v2")
    query = "SELECT grant_id, hash FROM grant_token WHERE token_id = ?"
    (found,) = database.execute(query, (token[4:20].hex(),)).fetchall()
    database.close()

    assert (token[:4], len(token)) == (b"ebg\x01", 52)
    assert found == (NEWEST["grant"]["grant_id"], hashlib.sha256(token).digest())

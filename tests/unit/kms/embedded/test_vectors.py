"""The golden store and blobs of version 1: opened by the code, and by hand as docs/formats/embedded-kms.md says."""

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
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ebscrypt.config import Settings
from tests.unit.kms.embedded.speaking import Speaker

VECTORS = Path(__file__).parents[3] / "vectors" / "kms" / "v1"
GOLDEN: dict[str, Any] = json.loads((VECTORS / "golden.json").read_text())
BLOBS: list[dict[str, Any]] = GOLDEN["blobs"]
each_blob = pytest.mark.parametrize("blob", BLOBS, ids=[blob["name"] for blob in BLOBS])


@pytest.fixture
def golden(settings: Settings) -> Iterator[Speaker]:
    """The golden store, copied, at the time of its making."""
    directory = settings.kms_dir
    directory.mkdir(mode=0o700, parents=True)
    for name in ("keys.db", "root.key"):
        shutil.copyfile(VECTORS / name, directory / name)
        (directory / name).chmod(0o600)
    kms = msgspec.structs.replace(settings.kms, region=GOLDEN["region"], account=GOLDEN["account"])
    speaker = Speaker(msgspec.structs.replace(settings, kms=kms))
    speaker.now = GOLDEN["time"]
    yield speaker
    speaker.close()


@each_blob
def test_golden_blob_opens(blob: dict[str, Any], golden: Speaker) -> None:
    """Every blob of version 1 gives its plaintext, under its key and with its context only."""
    content = base64.b64decode(blob["ciphertext_blob"])

    assert golden.opened(content, blob["encryption_context"], KeyId=blob["key_arn"]).hex() == blob["plaintext"]
    refused = golden.refusal(
        "Decrypt", CiphertextBlob=content, EncryptionContext=blob["encryption_context"] | {"more": ""}
    )
    assert refused.kind == "InvalidCiphertextException"


def test_golden_store_is_understood(golden: Speaker) -> None:
    """Keys, states and aliases of the golden store are what they were; the deleted key is known to be gone."""
    states = {entry["KeyArn"]: golden.state(entry["KeyArn"]) for entry in golden.say("ListKeys")["Keys"]}
    aliases = {entry["AliasName"]: entry["TargetKeyId"] for entry in golden.say("ListAliases")["Aliases"]}
    gone = GOLDEN["deleted"]
    refused = golden.refusal("Decrypt", CiphertextBlob=base64.b64decode(gone["ciphertext_blob"]))

    assert states == GOLDEN["keys"]
    assert aliases == {name: arn.rpartition("/")[2] for name, arn in GOLDEN["aliases"].items()}
    assert (refused.kind, refused.message) == ("NotFoundException", f"Key '{gone['key_arn']}' does not exist")


def test_golden_store_is_used_on(golden: Speaker) -> None:
    """The golden store takes new keys and data keys."""
    key = golden.key()

    assert len(golden.opened(golden.wrapped(key))) == 64
    assert len(golden.opened(golden.wrapped("alias/golden"))) == 64


def sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand of RFC 5869, from its text."""
    output, block = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), hashlib.sha256)
        output += block
    return output[:length]


def material_by_hand(root: bytes, arn: str, material_id: str) -> bytes:
    """Unseal material out of the golden database, with nothing of ebscrypt's code."""
    database = sqlite3.connect(f"file:{VECTORS / 'keys.db'}?mode=ro&immutable=1", uri=True)
    query = "SELECT sealed FROM material m JOIN kms_key k USING (key_id) WHERE k.arn = ? AND m.material_id = ?"
    (sealed,) = database.execute(query, (arn, material_id)).fetchone()
    database.close()
    assert (len(sealed), sealed[0]) == (61, 1)
    purpose = b"ebscrypt kms: key material v1"
    bound = sized(purpose) + sized(arn.encode()) + sized(material_id.encode())
    return AESGCM(expand(root, purpose, 32)).decrypt(sealed[1:13], sealed[13:], bound)


@each_blob
def test_the_format_page_suffices(blob: dict[str, Any]) -> None:
    """Root key, store and blob open by what the format page says alone: HKDF and AES-GCM, no code of ebscrypt's."""
    root = bytes.fromhex((VECTORS / "root.key").read_text().split()[1])
    content = base64.b64decode(blob["ciphertext_blob"])
    arn, context = blob["key_arn"], blob["encryption_context"]

    assert content[:4] == b"ebk\x01"
    assert str(uuid.UUID(bytes=content[4:20])) == arn.rpartition("/")[2]
    material = material_by_hand(root, arn, content[20:52].hex())
    derived = expand(hmac.digest(content[52:84], material, hashlib.sha256), b"ebscrypt kms: ciphertext v1", 44)
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    bound = sized(content[:84]) + sized(arn.encode()) + struct.pack(">I", len(pairs))
    bound += b"".join(sized(name) + sized(value) for name, value in pairs)

    assert AESGCM(derived[:32]).decrypt(derived[32:], content[84:], bound).hex() == blob["plaintext"]


def test_the_fingerprint_is_as_written() -> None:
    """The golden store remembers the fingerprint of the golden root key, as the format page says it is made."""
    root = bytes.fromhex((VECTORS / "root.key").read_text().split()[1])
    key = expand(root, b"ebscrypt kms: root key fingerprint v1", 32)
    database = sqlite3.connect(f"file:{VECTORS / 'keys.db'}?mode=ro&immutable=1", uri=True)
    rows = dict(database.execute("SELECT name, value FROM store"))
    versions = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    database.close()

    assert rows == {"root_key_fingerprint": hmac.digest(key, b"fingerprint", hashlib.sha256).hex()}
    assert versions == [0x65626B6D, 1]

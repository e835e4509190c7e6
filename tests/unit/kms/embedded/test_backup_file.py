"""The file of a backup: version 1 opens for ever, as its page says; what is not one, or was changed, does not."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ebscrypt.config import Settings
from ebscrypt.errors import KmsError
from ebscrypt.kms.embedded import backup, backup_file
from tests.unit.kms.embedded.backing_up import PASSPHRASE, export, restore
from tests.unit.kms.embedded.speaking import Speaker

pytestmark = pytest.mark.usefixtures("quick_passphrases")
VECTORS = Path(__file__).parents[3] / "vectors" / "kms" / "backup-v1"
GOLDEN: dict[str, Any] = json.loads((VECTORS / "golden.json").read_text())
FILE = (VECTORS / "backup").read_bytes()
USUAL_COST = backup_file._COST


@pytest.fixture
def golden(settings: Settings) -> Speaker:
    """An empty KMS of the golden backup's account and Region, at the time of its making."""
    kms = msgspec.structs.replace(settings.kms, region=GOLDEN["region"], account=GOLDEN["account"])
    speaker = Speaker(msgspec.structs.replace(settings, kms=kms))
    speaker.now = GOLDEN["time"]
    return speaker


def test_the_golden_backup_is_understood(golden: Speaker) -> None:
    """Every later version imports version 1: keys, states, aliases, tags, grants, and blobs that open."""
    done = backup.restore(golden.kms.open(), FILE, GOLDEN["passphrase"].encode(), now=golden.now)

    assert sorted(done.added) == sorted(GOLDEN["keys"])
    here = {arn: state for arn, state in GOLDEN["keys"].items() if GOLDEN["region"] in arn}
    assert {entry["KeyArn"]: golden.state(entry["KeyArn"]) for entry in golden.say("ListKeys")["Keys"]} == here
    aliases = {entry["AliasName"]: entry["TargetKeyId"] for entry in golden.say("ListAliases")["Aliases"]}
    assert aliases == GOLDEN["aliases"]
    for arn, tags in GOLDEN["tags"].items():
        assert golden.say("ListResourceTags", KeyId=arn)["Tags"] == tags
    for arn, grants in GOLDEN["grants"].items():
        assert [grant["GrantId"] for grant in golden.say("ListGrants", KeyId=arn)["Grants"]] == grants
    for blob in GOLDEN["blobs"]:
        content = base64.b64decode(blob["ciphertext_blob"])
        assert golden.opened(content, blob["encryption_context"]).hex() == blob["plaintext"]
    golden.close()


def test_the_format_page_suffices() -> None:
    """The golden backup opens by what docs/formats/embedded-kms-backup.md says alone, without code of ebscrypt's."""
    magic, version, log_n, r, p, salt, nonce = struct.unpack(">16sIIII32s12s", FILE[:76])
    assert (magic, version) == (b"ebscrypt-kms-bkp", 1)
    passphrase = GOLDEN["passphrase"].encode()
    key = hashlib.scrypt(passphrase, salt=salt, n=1 << log_n, r=r, p=p, maxmem=1 << 28, dklen=32)

    document = json.loads(AESGCM(key).decrypt(nonce, FILE[76:], FILE[:76]))

    assert (document["schema"], document["created"]) == (2, GOLDEN["time"])
    materials = {row["material_id"]: row["secret"] for row in document["tables"]["material"]}
    assert materials == GOLDEN["materials"]


def test_nothing_readable_is_in_the_file(kms: Speaker) -> None:
    """Ids, descriptions and material are all under the passphrase."""
    key = kms.key(Description="a very special description")

    file = export(kms)

    assert b"special" not in file
    assert key.rpartition("/")[2].encode() not in file
    assert b"special" in backup_file.unseal(file, PASSPHRASE)


@pytest.mark.parametrize("place", ["salt", "nonce", "ciphertext", "tag"])
def test_a_changed_file_does_not_open(place: str, kms: Speaker) -> None:
    """One bit of the file changed anywhere, and nothing of it is believed."""
    file = bytearray(export(kms))
    file[{"salt": 40, "nonce": 70, "ciphertext": 80, "tag": -1}[place]] ^= 1

    with pytest.raises(KmsError, match="does not open"):
        restore(kms, bytes(file))


def test_another_passphrase_does_not_open_it(kms: Speaker) -> None:
    """And the error does not say which of the two is wrong, for nobody can know."""
    with pytest.raises(KmsError, match="the passphrase is another, or the file is corrupted"):
        backup.restore(kms.kms.open(), export(kms), b"another")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"not a backup" * 20, "no backup"),
        (b"ebscrypt-kms-bkp", "no backup"),
        (b"ebscrypt-kms-bkp" + struct.pack(">IIII", 2, 17, 8, 1) + bytes(100), "version 2"),
        (b"ebscrypt-kms-bkp" + struct.pack(">IIII", 1, 60, 8, 1) + bytes(100), "60, 8, 1"),
        (b"ebscrypt-kms-bkp" + struct.pack(">IIII", 1, 17, 2**31, 1) + bytes(100), "2147483648"),
        (b"ebscrypt-kms-bkp" + struct.pack(">IIII", 1, 0, 0, 0) + bytes(100), "0, 0, 0"),
    ],
    ids=["no header", "too short", "version", "memory for ever", "r out of bounds", "nothing"],
)
def test_bad_headers_are_refused_before_any_work(header: bytes, told: str) -> None:
    """Whatever a header asks for, no memory is spent on it before it is believed."""
    with pytest.raises(KmsError, match=told):
        backup_file.unseal(header, PASSPHRASE)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b"no json", b'{"schema": 99, "tables": {}}', b'{"schema": 2, "tables": 7}', b'{"schema": 2}'],
)
def test_a_content_of_another_kind_is_refused(content: bytes, kms: Speaker) -> None:
    """What opens and is not what this version knows is refused, not guessed at."""
    with pytest.raises(KmsError, match=r"known form|version 99"):
        restore(kms, backup_file.seal(content, PASSPHRASE))


def test_a_row_of_another_kind_is_refused(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """A row that lacks a column or has one too many stops the import."""
    kms.key()
    content = json.loads(backup_file.unseal(export(kms), PASSPHRASE))
    there = elsewhere()

    changes: list[dict[str, Any]] = [{"more": 1}, {"created": "x"}, {"key_id": None}, {"arn": []}]
    for change in changes:
        changed = content | {"tables": content["tables"] | {"kms_key": [content["tables"]["kms_key"][0] | change]}}
        with pytest.raises(KmsError):
            restore(there, backup_file.seal(json.dumps(changed).encode(), PASSPHRASE))

    assert there.say("ListKeys")["Keys"] == []


def test_passphrases_are_hard_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file asks for scrypt with N = 2^17, r = 8, p = 1: 128 MiB for each guess."""
    monkeypatch.setattr(backup_file, "_COST", USUAL_COST)

    file = backup_file.seal(b"content", PASSPHRASE)

    assert struct.unpack(">IIII", file[16:32]) == (1, 17, 8, 1)
    assert backup_file.unseal(file, PASSPHRASE) == b"content"

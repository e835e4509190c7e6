"""`default-encryption` at the command line: on, off, and which key, with no effect on what exists."""

from __future__ import annotations

import json
from typing import Any

from tests.behaviour.volume.place import Place
from tests.behaviour.volume.refusal import own_key


def default_encryption(place: Place, *words: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(place.do("default-encryption", *words, "--output", "json"))
    return told


def test_on_and_off(place: Place) -> None:
    """On, no volume can be plain and none need be asked to be encrypted; off, both as before; what exists stays."""
    assert default_encryption(place, "show") == {"EbsEncryptionByDefault": False, "KmsKeyId": "alias/aws/ebs"}
    plain = place.do("create", "--size", "1M", "--no-encrypted")
    default_encryption(place, "enable", "--dry-run")
    assert not default_encryption(place, "show")["EbsEncryptionByDefault"]

    assert default_encryption(place, "enable")["EbsEncryptionByDefault"]
    ran = place.run("create", "--size", "1M", "--no-encrypted")

    assert (ran.status, ran.out) == (2, "")
    assert "encryption by default is on in us-east-1" in ran.err
    assert "`ebscrypt default-encryption disable`" in ran.err
    assert place.show(place.do("create", "--size", "1M"))["Encrypted"]
    assert not place.show(plain)["Encrypted"]
    default_encryption(place, "disable")
    assert not place.show(place.do("create", "--size", "1M", "--no-encrypted"))["Encrypted"]


def test_the_default_key(place: Place) -> None:
    """Set by alias and kept as ARN, it is that of volumes that name none, encryption by default on or off."""
    key, other = own_key(place), own_key(place)
    place.do("kms", "create-alias", "--alias-name", "alias/mine", "--target-key-id", key)
    managed = place.do("create", "--size", "1M")

    assert default_encryption(place, "set-key", "alias/mine")["KmsKeyId"] == key
    assert place.show(place.do("create", "--size", "1M"))["KmsKeyId"] == key
    assert place.show(place.do("create", "--size", "1M", "--kms-key-id", other))["KmsKeyId"] == other
    elsewhere = place.run("default-encryption", "show", environ={"EBSCRYPT_REGION": "eu-west-1"})
    assert "alias/aws/ebs" in elsewhere.out
    assert default_encryption(place, "reset-key")["KmsKeyId"] == "alias/aws/ebs"

    back = place.do("create", "--size", "1M")
    assert place.show(back)["KmsKeyId"] == place.show(managed)["KmsKeyId"] not in (key, other)


def test_a_default_key_that_cannot_be(place: Place) -> None:
    """An HMAC key is refused at once; a disabled one is taken with a warning, and enabling warns of it again."""
    hmac = place.do("kms", "create-key", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC")
    key = own_key(place)
    place.do("kms", "disable-key", key)

    assert "HMAC_256" in place.refused("default-encryption", "set-key", hmac)
    ran = place.run("default-encryption", "set-key", key)
    assert (ran.status, f"note: KMS key {key} is Disabled" in ran.err) == (0, True)
    ran = place.run("default-encryption", "enable")

    assert ran.status == 0
    assert f"{key} is disabled" in ran.err
    assert f"enable-key --key-id {key}" in ran.err
    assert ran.out.split() == ["encryption", "by", "default", "on", "default", "KMS", "key", key]
    assert f"{key} is disabled" in place.refused("create", "--size", "1M")

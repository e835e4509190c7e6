"""Aliases and listings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.kms.embedded.speaking import Speaker


def pages(kms: Speaker, operation: str, member: str, limit: int) -> list[list[dict[str, Any]]]:
    """All pages of a listing."""
    found: list[list[dict[str, Any]]] = []
    more: dict[str, Any] = {}
    while True:
        answer = kms.say(operation, Limit=limit, **more)
        found.append(answer[member])
        if not answer["Truncated"]:
            assert "NextMarker" not in answer
            return found
        more = {"Marker": answer["NextMarker"]}


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_pages(limit: int, sizes: list[int], kms: Speaker) -> None:
    """Listings come in pages of the asked size, complete, without repetition, in a stable order."""
    keys = sorted(kms.key() for _ in range(7))
    names = [f"alias/a{number}" for number in range(7)]
    for name, key in zip(names, keys, strict=True):
        kms.say("CreateAlias", AliasName=name, TargetKeyId=key)

    of_keys, of_aliases = pages(kms, "ListKeys", "Keys", limit), pages(kms, "ListAliases", "Aliases", limit)

    assert [len(page) for page in of_keys] == [len(page) for page in of_aliases] == sizes
    assert [entry["KeyArn"] for page in of_keys for entry in page] == keys
    assert [entry["AliasName"] for page in of_aliases for entry in page] == names


def test_alias_of_one_key(kms: Speaker) -> None:
    """ListAliases with a KeyId lists that key's aliases only, with the members that AWS gives."""
    key, other = kms.key(), kms.key()
    kms.say("CreateAlias", AliasName="alias/one", TargetKeyId=key)
    kms.say("CreateAlias", AliasName="alias/other", TargetKeyId=other)

    (alias,) = kms.say("ListAliases", KeyId=key)["Aliases"]

    assert alias == {
        "AliasName": "alias/one",
        "AliasArn": "arn:aws:kms:eu-central-1:111122223333:alias/one",
        "TargetKeyId": key.rpartition("/")[2],
        "CreationDate": kms.now,
        "LastUpdatedDate": kms.now,
    }


def test_alias_is_resolved_when_it_is_used(kms: Speaker) -> None:
    """A re-pointed alias leads to the new key at once; blobs of the old one still open."""
    old, new = kms.key(), kms.key()
    kms.say("CreateAlias", AliasName="alias/mine", TargetKeyId=old)
    blob = kms.wrapped("alias/mine")
    kms.now += 60

    kms.say("UpdateAlias", AliasName="alias/mine", TargetKeyId=new.rpartition("/")[2])

    assert kms.say("Encrypt", KeyId="alias/mine", Plaintext=b"x")["KeyId"] == new
    assert kms.say("DescribeKey", KeyId="alias/mine")["KeyMetadata"]["Arn"] == new
    assert len(kms.opened(blob)) == 64
    assert kms.say("ListAliases")["Aliases"][0]["LastUpdatedDate"] == kms.now


def test_alias_exists_once(kms: Speaker) -> None:
    """A second alias of the same name is AlreadyExistsException with AWS's words."""
    key = kms.key()
    kms.say("CreateAlias", AliasName="alias/mine", TargetKeyId=key)

    refused = kms.refusal("CreateAlias", AliasName="alias/mine", TargetKeyId=key)

    assert refused.kind == "AlreadyExistsException"
    assert refused.message == ("An alias with the name arn:aws:kms:eu-central-1:111122223333:alias/mine already exists")


def test_alias_does_not_change_kind(kms: Speaker) -> None:
    """An alias cannot be re-pointed to a key of another type or usage."""
    kms.say("CreateAlias", AliasName="alias/mine", TargetKeyId=kms.key())

    for other in (
        {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
        {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
    ):
        refused = kms.refusal("UpdateAlias", AliasName="alias/mine", TargetKeyId=kms.key(**other))
        assert refused.kind == "ValidationException"


def test_quota(kms: Speaker) -> None:
    """A key has at most 50 aliases: the next is LimitExceededException, by whichever way it comes."""
    key, other = kms.key(), kms.key()
    for number in range(50):
        kms.say("CreateAlias", AliasName=f"alias/a{number}", TargetKeyId=key)
    kms.say("CreateAlias", AliasName="alias/others", TargetKeyId=other)

    assert kms.refusal("CreateAlias", AliasName="alias/b", TargetKeyId=key).kind == "LimitExceededException"
    assert kms.refusal("UpdateAlias", AliasName="alias/others", TargetKeyId=key).kind == "LimitExceededException"
    kms.say("UpdateAlias", AliasName="alias/a0", TargetKeyId=key)


def test_deleted_alias_is_gone(kms: Speaker) -> None:
    """A deleted alias leads nowhere, and its name may be used again; the key stays."""
    key = kms.key()
    kms.say("CreateAlias", AliasName="alias/mine", TargetKeyId=key)

    kms.say("DeleteAlias", AliasName="alias/mine")

    assert kms.refusal("DescribeKey", KeyId="alias/mine").kind == "NotFoundException"
    kms.say("CreateAlias", AliasName="alias/mine", TargetKeyId=key)
    assert kms.state(key) == "Enabled"


def test_managed_key_comes_into_being_once(kms: Speaker) -> None:
    """The key behind alias/aws/ebs is made by whichever operation names it first, and described as AWS's own."""
    assert kms.say("ListAliases")["Aliases"] == []

    blob = kms.wrapped("alias/aws/ebs")
    metadata = kms.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]

    assert (metadata["KeyManager"], metadata["KeyState"], metadata["Origin"]) == ("AWS", "Enabled", "AWS_KMS")
    assert len(kms.opened(blob, KeyId=metadata["Arn"])) == 64
    assert len(kms.say("ListKeys")["Keys"]) == 1

"""Grants as they are listed and bounded, their tokens, and where they end."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from ebscrypt.kms.embedded import grants
from tests.unit.kms.embedded.speaking import CONTEXT, Speaker

ACCOUNT = "111122223333"
ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role/aws:ec2-infrastructure/i-0123456789abcdef0"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
EC2 = "ec2.eu-central-1.amazonaws.com"
EBS: dict[str, Any] = {
    "GranteePrincipal": ROLE,
    "RetiringPrincipal": EC2,
    "Operations": ["Decrypt"],
    "Constraints": {"EncryptionContextSubset": CONTEXT},
}
"""The grant that EBS makes for an attachment (facts §1.3 b)."""
UNKNOWN = "0" * 64


def test_service_principals(kms: Speaker) -> None:
    """A grant for a service, with SourceArn and who may retire it, is kept and listed; the filters find it."""
    key = kms.key()
    asked: dict[str, Any] = {
        "GranteeServicePrincipal": "rds.amazonaws.com",
        "RetiringServicePrincipal": EC2,
        "Operations": ["Decrypt"],
        "Constraints": {"SourceArn": f"arn:aws:rds:eu-central-1:{ACCOUNT}:db:mine"},
    }

    kms.say("CreateGrant", KeyId=key, **asked)
    kms.say("CreateGrant", KeyId=key, **EBS)
    (listed,) = kms.say("ListGrants", KeyId=key, GranteeServicePrincipal="rds.amazonaws.com")["Grants"]

    assert asked.items() <= listed.items()
    assert len(kms.say("ListRetirableGrants", RetiringServicePrincipal=EC2)["Grants"]) == 2


def all_pages(kms: Speaker, operation: str, limit: int, **asked: Any) -> list[list[str]]:
    """The grant ids of each page of a listing."""
    found: list[list[str]] = []
    more: dict[str, Any] = {}
    while True:
        page = kms.say(operation, Limit=limit, **asked, **more)
        found.append([grant["GrantId"] for grant in page["Grants"]])
        if not page["Truncated"]:
            return found
        more = {"Marker": page["NextMarker"]}


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (100, [5])])
def test_listed_in_pages(limit: int, sizes: list[int], kms: Speaker) -> None:
    """ListGrants and ListRetirableGrants come in pages, complete, without repetition, and without others' grants."""
    key, other = kms.key(), kms.key()
    made = {kms.say("CreateGrant", KeyId=key, **EBS)["GrantId"] for _ in range(5)}
    kms.say("CreateGrant", KeyId=other, **(EBS | {"RetiringPrincipal": ALICE}))

    of_key = all_pages(kms, "ListGrants", limit, KeyId=key)
    retirable = all_pages(kms, "ListRetirableGrants", limit, RetiringPrincipal=EC2)

    assert [len(page) for page in of_key] == [len(page) for page in retirable] == sizes
    assert {grant for page in of_key for grant in page} == {grant for page in retirable for grant in page} == made


def test_listed_by(kms: Speaker) -> None:
    """ListGrants finds one grant by its id, and those of a grantee; a Limit over 100 and an odd id are refused."""
    key = kms.key()
    grant = kms.say("CreateGrant", KeyId=key, **EBS)["GrantId"]
    kms.say("CreateGrant", KeyId=key, **(EBS | {"GranteePrincipal": ALICE}))

    assert [found["GrantId"] for found in kms.say("ListGrants", KeyId=key, GrantId=grant)["Grants"]] == [grant]
    by_grantee = kms.say("ListGrants", KeyId=key, GranteePrincipal=ALICE)["Grants"]
    assert [found["GranteePrincipal"] for found in by_grantee] == [ALICE]
    assert kms.say("ListGrants", KeyId=key, GrantId=UNKNOWN)["Grants"] == []
    assert kms.refusal("ListGrants", KeyId=key, GrantId="x").kind == "InvalidGrantIdException"
    assert kms.refusal("ListGrants", KeyId=key, Limit=101).kind == "ValidationException"
    assert kms.refusal("ListGrants", KeyId=key, Marker="x").kind == "InvalidMarkerException"
    assert kms.refusal("ListRetirableGrants").kind == "ValidationException"


def test_quota(kms: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key has so many grants and no more; one that is there is still answered, and a retired one makes room."""
    monkeypatch.setattr(grants, "PER_KEY", 3)
    key = kms.key()
    made = [kms.say("CreateGrant", KeyId=key, Name=str(number), **EBS) for number in range(3)]

    assert kms.refusal("CreateGrant", KeyId=key, **EBS).kind == "LimitExceededException"
    assert kms.refusal("CreateGrant", KeyId=key, DryRun=True, **EBS).kind == "LimitExceededException"
    assert kms.say("CreateGrant", KeyId=key, Name="2", **EBS)["GrantId"] == made[2]["GrantId"]
    kms.say("CreateGrant", KeyId=kms.key(), **EBS)
    kms.say("RetireGrant", GrantToken=made[0]["GrantToken"])
    kms.say("CreateGrant", KeyId=key, **EBS)


def test_quota_is_the_documented_one() -> None:
    """50,000 grants on one key, which is what bounds attached volumes under one key."""
    assert grants.PER_KEY == 50_000


def test_tokens_cannot_be_made_up(kms: Speaker) -> None:
    """A token with any one byte changed, cut or prolonged is not right; nor is one of another key's deleted grant."""
    key = kms.key()
    token = base64.b64decode(kms.say("CreateGrant", KeyId=key, **EBS)["GrantToken"])

    wrong = [token[:place] + bytes([token[place] ^ 1]) + token[place + 1 :] for place in range(len(token))]
    for changed in [*wrong, token[:-1], token + b"x", b""]:
        shown = base64.b64encode(changed).decode() or "="
        assert kms.refusal("DescribeKey", KeyId=key, GrantTokens=[shown]).kind == "InvalidGrantTokenException"

    assert len(token) == 52


def test_tokens_are_not_in_the_store(kms: Speaker) -> None:
    """Neither a token nor its secret part is in any file of the store."""
    token = kms.say("CreateGrant", KeyId=kms.key(), **EBS)["GrantToken"]
    secret = base64.b64decode(token)[-32:]

    files = b"".join(path.read_bytes() for path in kms.settings.kms_dir.iterdir())

    for form in (token.encode(), secret, secret.hex().encode()):
        assert form not in files


def test_grants_go_with_their_key(kms: Speaker) -> None:
    """When a key is deleted its grants are no more, and their tokens are wrong."""
    key = kms.key()
    token = kms.say("CreateGrant", KeyId=key, **EBS)["GrantToken"]
    kms.say("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)

    kms.now += 7 * 86_400

    assert kms.refusal("RetireGrant", GrantToken=token).kind == "InvalidGrantTokenException"
    assert kms.say("ListRetirableGrants", RetiringPrincipal=EC2)["Grants"] == []
    with kms.database() as database:
        grants_left = database.execute("SELECT count(*) FROM kms_grant").fetchone()
        tokens_left = database.execute("SELECT count(*) FROM grant_token").fetchone()
    assert (grants_left, tokens_left) == ((0,), (0,))


def test_accounts_are_apart(kms: Speaker) -> None:
    """A grant of one account is nothing to another in the same store: no token, no listing."""
    key = kms.key()
    token = kms.say("CreateGrant", KeyId=key, **EBS)["GrantToken"]
    other_account = msgspec.structs.replace(kms.settings.kms, account="999999999999")
    there = Speaker(msgspec.structs.replace(kms.settings, kms=other_account))

    assert there.refusal("RetireGrant", GrantToken=token).kind == "InvalidGrantTokenException"
    assert there.say("ListRetirableGrants", RetiringPrincipal=EC2)["Grants"] == []
    there.close()


def test_grants_on_the_managed_key(kms: Speaker) -> None:
    """The AWS managed key takes grants, as EBS needs them, and gives them up."""
    key = kms.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"]

    grant = kms.say("CreateGrant", KeyId=key, **EBS)["GrantId"]
    kms.say("RevokeGrant", KeyId=key, GrantId=grant)

    assert json.dumps(kms.say("ListGrants", KeyId=key)["Grants"]) == "[]"

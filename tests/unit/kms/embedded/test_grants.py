"""Grants: made, repeated, listed, retired, revoked, bounded."""

from __future__ import annotations

from typing import Any

import pytest

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


def test_grant_of_an_attachment(kms: Speaker) -> None:
    """The grant that EBS makes is listed with all that it says, under a 64-digit id; its token is a secret apart."""
    key = kms.key()

    made = kms.say("CreateGrant", KeyId=key, Name="vol-1", **EBS)
    (listed,) = kms.say("ListGrants", KeyId=key)["Grants"]

    assert len(made["GrantId"]) == 64
    assert made["GrantId"] not in made["GrantToken"]
    assert listed == EBS | {
        "KeyId": key,
        "GrantId": made["GrantId"],
        "Name": "vol-1",
        "CreationDate": kms.now,
        "IssuingAccount": f"arn:aws:iam::{ACCOUNT}:root",
        "RetiringServicePrincipal": EC2,
    }


def test_repeated_request(kms: Speaker) -> None:
    """The same request with the same name is the same grant, with a new token each time; all its tokens are right."""
    key = kms.key()

    made = [kms.say("CreateGrant", KeyId=key, Name="vol-1", **EBS) for _ in range(3)]
    made.append(kms.say("CreateGrant", KeyId=key, Name="vol-1", **(EBS | {"Operations": ["Decrypt", "Decrypt"]})))

    assert len({grant["GrantId"] for grant in made}) == 1
    assert len({grant["GrantToken"] for grant in made}) == 4
    assert len(kms.say("ListGrants", KeyId=key)["Grants"]) == 1
    kms.say("DescribeKey", KeyId=key, GrantTokens=[grant["GrantToken"] for grant in made])


@pytest.mark.parametrize(
    "other",
    [
        {"Name": "vol-2"},
        {"Name": None},
        {"Operations": ["Decrypt", "Encrypt"]},
        {"GranteePrincipal": ALICE},
        {"RetiringPrincipal": ALICE},
        {"Constraints": {"EncryptionContextEquals": CONTEXT}},
        {"Constraints": {"EncryptionContextSubset": CONTEXT | {"more": "x"}}},
    ],
    ids=str,
)
def test_other_request(other: dict[str, Any], kms: Speaker) -> None:
    """Anything else in the request, or no name, is another grant."""
    key = kms.key()
    first = kms.say("CreateGrant", KeyId=key, Name="vol-1", **EBS)

    second = kms.say("CreateGrant", KeyId=key, **(EBS | {"Name": "vol-1"} | other))

    assert second["GrantId"] != first["GrantId"]
    assert len(kms.say("ListGrants", KeyId=key)["Grants"]) == 2


def test_same_name_on_another_key(kms: Speaker) -> None:
    """Names are of one key: the same on another is another grant."""
    made = [kms.say("CreateGrant", KeyId=kms.key(), Name="vol-1", **EBS)["GrantId"] for _ in range(2)]

    assert made[0] != made[1]


@pytest.mark.parametrize("by", ["token", "second token", "ids"])
def test_retired(by: str, kms: Speaker) -> None:
    """A grant is retired by any of its tokens, or by key ARN and id, and then no token of it is right."""
    key = kms.key()
    first, second = (kms.say("CreateGrant", KeyId=key, Name="x", **EBS) for _ in range(2))
    ways = {
        "token": {"GrantToken": first["GrantToken"]},
        "second token": {"GrantToken": second["GrantToken"]},
        "ids": {"KeyId": key, "GrantId": first["GrantId"]},
    }

    kms.say("RetireGrant", **ways[by])

    assert kms.say("ListGrants", KeyId=key)["Grants"] == []
    for token in (first["GrantToken"], second["GrantToken"]):
        assert kms.refusal("DescribeKey", KeyId=key, GrantTokens=[token]).kind == "InvalidGrantTokenException"
        assert kms.refusal("RetireGrant", GrantToken=token).kind == "InvalidGrantTokenException"
    again = kms.refusal("RetireGrant", KeyId=key, GrantId=first["GrantId"])
    assert (again.kind, again.message) == ("NotFoundException", f"Grant ID {first['GrantId']} not found")


def test_revoked(kms: Speaker) -> None:
    """A grant is revoked by key and id; one of another key is not found there."""
    key, other = kms.key(), kms.key()
    grant = kms.say("CreateGrant", KeyId=key, **EBS)["GrantId"]

    assert kms.refusal("RevokeGrant", KeyId=other, GrantId=grant).kind == "NotFoundException"
    kms.say("RevokeGrant", KeyId=key.rpartition("/")[2], GrantId=grant)

    assert kms.say("ListGrants", KeyId=key)["Grants"] == []
    assert kms.refusal("RevokeGrant", KeyId=key, GrantId=grant).kind == "NotFoundException"


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({}, "ValidationException"),
        ({"GrantToken": "t", "GrantId": UNKNOWN}, "ValidationException"),
        ({"GrantToken": "t", "KeyId": "ARN", "GrantId": UNKNOWN}, "ValidationException"),
        ({"KeyId": "ARN"}, "ValidationException"),
        ({"GrantId": UNKNOWN}, "ValidationException"),
        ({"KeyId": "ID", "GrantId": UNKNOWN}, "InvalidArnException"),
        ({"KeyId": "ARN", "GrantId": "abc"}, "InvalidGrantIdException"),
        ({"KeyId": "ARN", "GrantId": UNKNOWN}, "NotFoundException"),
        ({"GrantToken": "nonsense"}, "InvalidGrantTokenException"),
        ({"GrantToken": "ä"}, "InvalidGrantTokenException"),
    ],
    ids=str,
)
def test_retiring_nothing(asked: dict[str, Any], kind: str, kms: Speaker) -> None:
    """RetireGrant takes a token, or the key's full ARN and a grant id: anything else is refused by its type."""
    arn = kms.key()
    names = {"ARN": arn, "ID": arn.rpartition("/")[2]}

    refused = kms.refusal("RetireGrant", **{name: names.get(value, value) for name, value in asked.items()})

    assert refused.kind == kind


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"GranteePrincipal": None}, "ValidationException", "either GranteePrincipal or GranteeServicePrincipal"),
        ({"GranteeServicePrincipal": EC2}, "ValidationException", "in the same request"),
        ({"RetiringServicePrincipal": EC2}, "ValidationException", "in the same request"),
        ({"GranteePrincipal": None, "GranteeServicePrincipal": EC2}, "ValidationException", "SourceArn"),
        ({"GranteePrincipal": "alice"}, "InvalidArnException", "GranteePrincipal"),
        ({"RetiringPrincipal": "arn:aws:s3:::bucket"}, "InvalidArnException", "RetiringPrincipal"),
        ({"Operations": []}, "ValidationException", "At least one operation"),
        ({"Operations": ["Fly"]}, "ValidationException", "enum value set"),
        ({"Operations": ["Decrypt", "Sign"]}, "ValidationException", "cannot allow Sign"),
        (
            {"Constraints": {"EncryptionContextEquals": {str(n): "x" for n in range(9)}}},
            "ValidationException",
            "at most 8 pairs",
        ),
        ({"Constraints": {"EncryptionContextSubset": {"a": "x" * 385}}}, "ValidationException", "384 characters"),
        ({"Name": "a b"}, "ValidationException", "'name' failed to satisfy constraint"),
        ({"KeyId": "alias/aws/ebs"}, "NotFoundException", "Invalid keyId"),
        ({"GrantTokens": ["x"]}, "InvalidGrantTokenException", "not valid"),
    ],
    ids=str,
)
def test_terms_that_cannot_be(changed: dict[str, Any], kind: str, said: str, kms: Speaker) -> None:
    """CreateGrant refuses principals, operations and constraints that are none, and makes no grant."""
    key = kms.key()

    refused = kms.refusal("CreateGrant", **({"KeyId": key} | EBS | changed))

    assert refused.kind == kind
    assert said in refused.message
    assert kms.say("ListGrants", KeyId=key)["Grants"] == []


@pytest.mark.parametrize(
    ("spec", "usage", "right", "wrong"),
    [
        ("RSA_2048", "ENCRYPT_DECRYPT", "GetPublicKey", "GenerateDataKey"),
        ("RSA_2048", "SIGN_VERIFY", "Sign", "Decrypt"),
        ("ECC_NIST_P256", "KEY_AGREEMENT", "DeriveSharedSecret", "Sign"),
        ("HMAC_256", "GENERATE_VERIFY_MAC", "VerifyMac", "GetPublicKey"),
    ],
)
def test_grants_on_other_keys(spec: str, usage: str, right: str, wrong: str, kms: Speaker) -> None:
    """A grant on an asymmetric or HMAC key is for what such a key does, and has no encryption context."""
    key = kms.key(KeySpec=spec, KeyUsage=usage)

    kms.say("CreateGrant", KeyId=key, GranteePrincipal=ALICE, Operations=[right, "DescribeKey"])

    assert kms.refusal("CreateGrant", KeyId=key, GranteePrincipal=ALICE, Operations=[wrong]).kind == (
        "ValidationException"
    )
    constrained = kms.refusal("CreateGrant", KeyId=key, **(EBS | {"Operations": [right]}))
    assert constrained.message == f"A grant on a {spec} key cannot have encryption context constraints."


def test_dry_run(kms: Speaker) -> None:
    """A dry run of making, retiring and revoking is told as success would be, and changes nothing."""
    key = kms.key()
    made = kms.say("CreateGrant", KeyId=key, **EBS)
    ids = {"KeyId": key, "GrantId": made["GrantId"]}
    before = kms.say("ListGrants", KeyId=key)

    for operation, asked in (
        ("CreateGrant", {"KeyId": key} | EBS),
        ("RetireGrant", ids),
        ("RetireGrant", {"GrantToken": made["GrantToken"]}),
        ("RevokeGrant", ids),
    ):
        assert kms.refusal(operation, DryRun=True, **asked).kind == "DryRunOperationException"
    assert kms.refusal("RevokeGrant", DryRun=True, KeyId=key, GrantId=UNKNOWN).kind == "NotFoundException"

    assert kms.say("ListGrants", KeyId=key) == before

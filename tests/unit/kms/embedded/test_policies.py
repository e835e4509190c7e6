"""Key policies: the default ones, others put and given back to the letter, and what is none refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ebscrypt.kms.embedded.policies import LARGEST
from tests.unit.kms.embedded.speaking import Speaker

ROOT = "arn:aws:iam::111122223333:root"
MINE = '{"Version":"2012-10-17",\n "Statement": {"Effect":"Allow","Principal":{"AWS":"*"},"Action":"kms:*"}}'


def policy(kms: Speaker, key: str) -> Any:
    """A key's policy as a document."""
    answer = kms.say("GetKeyPolicy", KeyId=key, PolicyName="default")
    assert answer["PolicyName"] == "default"
    return json.loads(answer["Policy"])


def test_default_policy(kms: Speaker) -> None:
    """A key made without a policy has AWS's default: the account's root may do everything."""
    assert policy(kms, kms.key()) == {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }


def test_policy_of_the_managed_key(kms: Speaker) -> None:
    """The AWS managed key of EBS has the policy that AWS gives it, by account and service; nobody can put another."""
    key = kms.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"]

    use, look = policy(kms, key)["Statement"]

    assert use["Principal"] == {"AWS": "*"}
    assert set(use["Action"]) == {
        "kms:Encrypt",
        "kms:Decrypt",
        "kms:ReEncrypt*",
        "kms:GenerateDataKey*",
        "kms:CreateGrant",
        "kms:DescribeKey",
    }
    assert use["Condition"]["StringEquals"] == {
        "kms:CallerAccount": "111122223333",
        "kms:ViaService": "ec2.eu-central-1.amazonaws.com",
    }
    assert look["Principal"] == {"AWS": ROOT}
    assert set(look["Action"]) == {"kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"}
    assert kms.refusal("PutKeyPolicy", KeyId=key, Policy=MINE).kind == "AccessDeniedException"


@pytest.mark.parametrize("how", ["when made", "later"])
def test_policy_of_ones_own(how: str, kms: Speaker) -> None:
    """A policy is given back as it was put, byte for byte, whether with CreateKey or by PutKeyPolicy."""
    key = kms.key(Policy=MINE) if how == "when made" else kms.key()
    if how == "later":
        kms.say("PutKeyPolicy", KeyId=key, PolicyName="default", Policy=MINE)

    assert kms.say("GetKeyPolicy", KeyId=key)["Policy"] == MINE


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "ValidationException"),
        ("{", "MalformedPolicyDocumentException"),
        ("[" * 10_000, "MalformedPolicyDocumentException"),
        ("[]", "MalformedPolicyDocumentException"),
        ("{}", "MalformedPolicyDocumentException"),
        ('{"Statement": []}', "MalformedPolicyDocumentException"),
        ('{"Statement": ["x"]}', "MalformedPolicyDocumentException"),
        ('{"Statement": {"Effect": "Maybe", "Principal": "*"}}', "MalformedPolicyDocumentException"),
        ('{"Statement": {"Effect": "Allow"}}', "MalformedPolicyDocumentException"),
        (MINE.replace("2012", "2013"), "MalformedPolicyDocumentException"),
        (MINE.replace("2012-10-17", "€"), "ValidationException"),
        (MINE + " " * LARGEST, "LimitExceededException"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("operation", ["PutKeyPolicy", "CreateKey"])
def test_policies_that_are_none(operation: str, text: str, kind: str, kms: Speaker) -> None:
    """What is no JSON, no policy, too long or of other characters is refused by its type, and changes nothing."""
    key = kms.key()
    asked = {"KeyId": key} if operation == "PutKeyPolicy" else {}

    assert kms.refusal(operation, Policy=text, **asked).kind == kind
    assert policy(kms, key)["Id"] == "key-default-1"
    assert len(kms.say("ListKeys")["Keys"]) == 1


def test_the_longest_policy(kms: Speaker) -> None:
    """A policy may have 32 KB."""
    longest = MINE + " " * (LARGEST - len(MINE))

    assert kms.say("GetKeyPolicy", KeyId=kms.key(Policy=longest))["Policy"] == longest


@pytest.mark.parametrize(
    ("operation", "name", "kind"),
    [
        ("GetKeyPolicy", "other", "NotFoundException"),
        ("GetKeyPolicy", "a b", "ValidationException"),
        ("PutKeyPolicy", "other", "ValidationException"),
        ("PutKeyPolicy", "AWS_RAM", "ValidationException"),
    ],
)
def test_policies_of_other_names(operation: str, name: str, kind: str, kms: Speaker) -> None:
    """A key has one policy, called default."""
    more = {"Policy": MINE} if operation == "PutKeyPolicy" else {}

    assert kms.refusal(operation, KeyId=kms.key(), PolicyName=name, **more).kind == kind


def test_listed(kms: Speaker) -> None:
    """ListKeyPolicies lists the one, and nothing after it."""
    key = kms.key()

    assert kms.say("ListKeyPolicies", KeyId=key, Limit=1) == {"PolicyNames": ["default"], "Truncated": False}
    assert kms.refusal("ListKeyPolicies", KeyId=key, Marker="x").kind == "InvalidMarkerException"

"""Who may end a grant, and pass on what he has; whose grants a session may use."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.kms.embedded.speaking import CONTEXT, Speaker

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/runner"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/runner/i-0123456789abcdef0"
ALICE, BOB = (f"arn:aws:iam::{ACCOUNT}:user/{name}" for name in ("alice", "bob"))
WIDER = CONTEXT | {"more": "x"}
MAY, MAY_NOT = "may", "may not"
OTHER = {"aws:ebs:id": "vol-fedcba98765432100"}


def granted(kms: Speaker, key: str, *operations: str, to: str = ALICE, **more: Any) -> dict[str, Any]:
    """A grant, made by the root."""
    return kms.say("CreateGrant", KeyId=key, GranteePrincipal=to, Operations=list(operations), **more)


def test_grant_that_ended(kms: Speaker) -> None:
    """Retired or revoked, a grant allows nothing from that moment on."""
    key = kms.key()
    blob = kms.wrapped(key)
    alice = kms.acting_as(ALICE)
    asked = {"CiphertextBlob": blob, "EncryptionContext": CONTEXT}

    for end in ("RetireGrant", "RevokeGrant"):
        made = granted(kms, key, "Decrypt")
        alice.say("Decrypt", GrantTokens=[made["GrantToken"]], **asked)
        kms.say(end, KeyId=key, GrantId=made["GrantId"])
        assert alice.refusal("Decrypt", **asked).kind == "AccessDeniedException"


def test_session_of_a_role(kms: Speaker) -> None:
    """A role's session may use the grants of its role; the role's name elsewhere, or another account's, is no such."""
    key = kms.key()
    granted(kms, key, "DescribeKey", to=ROLE)

    kms.acting_as(SESSION).say("DescribeKey", KeyId=key)
    kms.acting_as(ROLE).say("DescribeKey", KeyId=key)

    for other in (
        SESSION.replace("runner", "walker"),
        SESSION.replace(ACCOUNT, "999999999999"),
        f"arn:aws:iam::{ACCOUNT}:user/runner",
    ):
        assert kms.acting_as(other).refusal("DescribeKey", KeyId=key).kind == "AccessDeniedException"


def test_grant_for_one_session(kms: Speaker) -> None:
    """A grant for one session of a role is not for the others, nor for the role."""
    key = kms.key()
    granted(kms, key, "DescribeKey", to=SESSION)

    kms.acting_as(SESSION).say("DescribeKey", KeyId=key)

    for other in (f"{SESSION}1", ROLE):
        assert kms.acting_as(other).refusal("DescribeKey", KeyId=key).kind == "AccessDeniedException"


@pytest.mark.parametrize(
    ("who", "verdict"),
    [("grantee", MAY_NOT), ("grantee with RetireGrant", MAY), ("retiring principal", MAY), ("somebody", MAY_NOT)],
)
@pytest.mark.parametrize("by", ["token", "ids"])
def test_who_may_retire(who: str, verdict: str, by: str, kms: Speaker) -> None:
    """A grant is retired by its retiring principal, and by its grantee if it says so: by nobody else."""
    key = kms.key()
    operations = ["Decrypt", "RetireGrant"] if "with" in who else ["Decrypt"]
    made = granted(kms, key, *operations, RetiringPrincipal=BOB)
    principals = {"grantee": ALICE, "grantee with RetireGrant": ALICE, "retiring principal": BOB, "somebody": ROLE}
    asked = {"GrantToken": made["GrantToken"]} if by == "token" else {"KeyId": key, "GrantId": made["GrantId"]}
    speaker = kms.acting_as(principals[who])

    if verdict == MAY:
        speaker.say("RetireGrant", **asked)
    else:
        assert speaker.refusal("RetireGrant", **asked).kind == "AccessDeniedException"
    assert len(kms.say("ListGrants", KeyId=key)["Grants"]) == (0 if verdict == MAY else 1)


@pytest.mark.parametrize(
    ("own", "passed_on", "verdict"),
    [
        ({}, {}, MAY),
        ({}, {"EncryptionContextSubset": CONTEXT}, MAY),
        ({"EncryptionContextSubset": CONTEXT}, {"EncryptionContextSubset": CONTEXT}, MAY),
        ({"EncryptionContextSubset": CONTEXT}, {"EncryptionContextSubset": WIDER}, MAY),
        ({"EncryptionContextSubset": CONTEXT}, {"EncryptionContextEquals": WIDER}, MAY),
        ({"EncryptionContextSubset": CONTEXT}, {}, MAY_NOT),
        ({"EncryptionContextSubset": CONTEXT}, {"EncryptionContextSubset": OTHER}, MAY_NOT),
        ({"EncryptionContextSubset": CONTEXT}, {"EncryptionContextEquals": OTHER}, MAY_NOT),
        ({"EncryptionContextEquals": CONTEXT}, {"EncryptionContextEquals": CONTEXT}, MAY),
        ({"EncryptionContextEquals": CONTEXT}, {"EncryptionContextSubset": CONTEXT}, MAY_NOT),
        ({"EncryptionContextEquals": CONTEXT}, {"EncryptionContextEquals": WIDER}, MAY_NOT),
    ],
    ids=str,
)
def test_grant_made_under_a_grant(own: dict[str, Any], passed_on: dict[str, Any], verdict: str, kms: Speaker) -> None:
    """Who may make grants passes on what he has, with constraints as strict or stricter, and no wider ones."""
    key = kms.key()
    granted(kms, key, "CreateGrant", "Decrypt", Constraints=own)
    alice = kms.acting_as(ALICE)
    asked: dict[str, Any] = {"KeyId": key, "GranteePrincipal": BOB, "Operations": ["Decrypt"], "Constraints": passed_on}

    if verdict == MAY:
        alice.say("CreateGrant", **asked)
    else:
        assert alice.refusal("CreateGrant", **asked).kind == "AccessDeniedException"


def test_no_more_operations_than_ones_own(kms: Speaker) -> None:
    """Who may make grants cannot pass on what he may not do himself; and only who may make grants makes any."""
    key = kms.key()
    granted(kms, key, "CreateGrant", "Decrypt")
    granted(kms, key, "Decrypt", "Encrypt", to=BOB)
    wanted = {"KeyId": key, "GranteePrincipal": ROLE, "Operations": ["Decrypt", "Encrypt"]}

    assert kms.acting_as(ALICE).refusal("CreateGrant", **wanted).kind == "AccessDeniedException"
    assert kms.acting_as(BOB).refusal("CreateGrant", **wanted).kind == "AccessDeniedException"
    kms.acting_as(ALICE).say("CreateGrant", **(wanted | {"Operations": ["Decrypt", "CreateGrant"]}))

"""Who may do what: the root everything, everybody else what a grant allows, to the letter of its constraints."""

from __future__ import annotations

from typing import Any

import pytest

from ebscrypt.kms.embedded.authority import GRANTABLE
from ebscrypt.kms.embedded.service import OPERATIONS
from tests.unit.kms.embedded.speaking import CONTEXT, Speaker, service_model

ACCOUNT = "111122223333"
ALICE, BOB = (f"arn:aws:iam::{ACCOUNT}:user/{name}" for name in ("alice", "bob"))
WIDER = CONTEXT | {"more": "x"}
MAY, MAY_NOT = "may", "may not"
OTHER = {"aws:ebs:id": "vol-fedcba98765432100"}


def granted(kms: Speaker, key: str, *operations: str, to: str = ALICE, **more: Any) -> dict[str, Any]:
    """A grant, made by the root."""
    return kms.say("CreateGrant", KeyId=key, GranteePrincipal=to, Operations=list(operations), **more)


def requests(kms: Speaker, key: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """For each grant operation that this KMS does, an operation that needs it and nothing else."""
    to_other = {"DestinationKeyId": key, "DestinationEncryptionContext": CONTEXT}
    own = kms.key()
    granted(kms, own, "ReEncryptFrom", "ReEncryptTo")
    from_own = {"CiphertextBlob": kms.wrapped(own), "SourceEncryptionContext": CONTEXT}
    from_key = {"CiphertextBlob": kms.wrapped(key), "SourceEncryptionContext": CONTEXT, "DestinationKeyId": own}
    return {
        "Decrypt": ("Decrypt", {"CiphertextBlob": kms.wrapped(key), "EncryptionContext": CONTEXT}),
        "Encrypt": ("Encrypt", {"KeyId": key, "Plaintext": b"x", "EncryptionContext": CONTEXT}),
        "GenerateDataKey": ("GenerateDataKey", {"KeyId": key, "NumberOfBytes": 64, "EncryptionContext": CONTEXT}),
        "GenerateDataKeyWithoutPlaintext": (
            "GenerateDataKeyWithoutPlaintext",
            {"KeyId": key, "NumberOfBytes": 64, "EncryptionContext": CONTEXT},
        ),
        "ReEncryptFrom": ("ReEncrypt", from_key),
        "ReEncryptTo": ("ReEncrypt", from_own | to_other),
        "DescribeKey": ("DescribeKey", {"KeyId": key}),
    }


OF_THE_ROLE = sorted(
    ["Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo"]
)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_nobody_may_do_anything_without_a_grant(operation: str, kms: Speaker) -> None:
    """A principal without a grant is denied every operation of this KMS, by AWS's type and with his own name."""
    key = kms.key()
    made = granted(kms, key, "Decrypt", to=BOB)
    members = service_model().operation_model(operation).input_shape
    assert members is not None
    asked: dict[str, Any] = {
        "CiphertextBlob": kms.wrapped(key),
        "EncryptionContext": CONTEXT,
        "SourceEncryptionContext": CONTEXT,
        "DestinationKeyId": key,
        "TargetKeyId": key,
        "Plaintext": b"x",
        "GranteePrincipal": ALICE,
        "Operations": ["Decrypt"],
        "GrantId": made["GrantId"],
        "AliasName": "alias/x",
        "Tags": [],
        "TagKeys": [],
        "Policy": "{}",
        "Description": "",
        "ImportToken": b"x",
        "EncryptedKeyMaterial": b"x",
        "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
        "WrappingKeySpec": "RSA_2048",
    }
    generates = {"NumberOfBytes": 64} if operation.startswith("Generate") else {}
    named = {name: value for name, value in asked.items() if name in members.members} | generates
    if operation == "Decrypt":
        del named["EncryptionContext"]
    if "KeyId" in members.members and operation not in ("Decrypt", "ListAliases"):
        named["KeyId"] = key

    refused = kms.acting_as(ALICE).refusal(operation, **named)

    assert refused.kind == "AccessDeniedException"
    assert refused.message.startswith(f"User: {ALICE} is not authorized to perform: kms:")


@pytest.mark.parametrize(
    ("operation", "where"),
    [
        ("Decrypt", "the resource associated with this ciphertext"),
        ("ReEncryptFrom", "the resource associated with this ciphertext"),
        ("GenerateDataKey", "resource: {key}"),
        ("DescribeKey", "resource: {key}"),
    ],
)
def test_words_of_the_denial(operation: str, where: str, kms: Speaker) -> None:
    """The denial has AWS's words, to the letter; for a ciphertext it names no key, since the caller named none."""
    key = kms.key()
    name, asked = requests(kms, key)[operation]

    assert kms.acting_as(ALICE).refusal(name, **asked).message == (
        f"User: {ALICE} is not authorized to perform: kms:{operation} on {where.format(key=key)} "
        f"because no identity-based policy allows the kms:{operation} action"
    )


@pytest.mark.parametrize("operation", [*OF_THE_ROLE, "DescribeKey"])
def test_a_grant_allows_its_operation_and_no_other(operation: str, kms: Speaker) -> None:
    """A grant of one operation allows that one, to its grantee, and none of the others."""
    key = kms.key()
    asked = requests(kms, key)
    granted(kms, key, operation)
    alice, bob = kms.acting_as(ALICE), kms.acting_as(BOB)

    alice.say(asked[operation][0], **asked[operation][1])

    for other, (name, request) in asked.items():
        assert bob.refusal(name, **request).kind == "AccessDeniedException"
        if other != operation:
            assert alice.refusal(name, **request).kind == "AccessDeniedException"


@pytest.mark.parametrize(
    ("constraints", "context", "verdict"),
    [
        ({}, {}, MAY),
        ({}, WIDER, MAY),
        ({"EncryptionContextSubset": CONTEXT}, CONTEXT, MAY),
        ({"EncryptionContextSubset": CONTEXT}, WIDER, MAY),
        ({"EncryptionContextSubset": CONTEXT}, {}, MAY_NOT),
        ({"EncryptionContextSubset": CONTEXT}, OTHER, MAY_NOT),
        ({"EncryptionContextSubset": CONTEXT}, {"AWS:EBS:ID": CONTEXT["aws:ebs:id"]}, MAY_NOT),
        ({"EncryptionContextEquals": CONTEXT}, CONTEXT, MAY),
        ({"EncryptionContextEquals": CONTEXT}, WIDER, MAY_NOT),
        ({"EncryptionContextEquals": CONTEXT}, {}, MAY_NOT),
        ({"EncryptionContextEquals": {}}, {}, MAY),
        ({"EncryptionContextEquals": {}}, CONTEXT, MAY_NOT),
        ({"EncryptionContextSubset": CONTEXT, "EncryptionContextEquals": WIDER}, WIDER, MAY),
        ({"EncryptionContextSubset": CONTEXT, "EncryptionContextEquals": WIDER}, CONTEXT, MAY_NOT),
        ({"SourceArn": f"arn:aws:ec2:eu-central-1:{ACCOUNT}:volume/vol-1"}, CONTEXT, MAY_NOT),
    ],
    ids=str,
)
@pytest.mark.parametrize("operation", ["Decrypt", "Encrypt"])
def test_constraints(
    operation: str, constraints: dict[str, Any], context: dict[str, str], verdict: str, kms: Speaker
) -> None:
    """Subset lets through what contains its pairs, Equals what is just them; a constraint on the source nothing."""
    key = kms.key()
    granted(kms, key, operation, Constraints=constraints)
    asked: dict[str, Any] = {"EncryptionContext": context}
    asked |= (
        {"CiphertextBlob": kms.wrapped(key, context)} if operation == "Decrypt" else {"KeyId": key, "Plaintext": b"x"}
    )
    alice = kms.acting_as(ALICE)

    if verdict == MAY:
        alice.say(operation, **asked)
    else:
        assert alice.refusal(operation, **asked).kind == "AccessDeniedException"


def test_constraints_do_not_concern_describing(kms: Speaker) -> None:
    """An encryption context constraint does not stop DescribeKey and RetireGrant, which have no context."""
    key = kms.key()
    made = granted(kms, key, "DescribeKey", "RetireGrant", Constraints={"EncryptionContextEquals": CONTEXT})
    alice = kms.acting_as(ALICE)

    assert alice.say("DescribeKey", KeyId=key)["KeyMetadata"]["Arn"] == key
    alice.say("RetireGrant", KeyId=key, GrantId=made["GrantId"])


def test_denial_comes_before_the_state(kms: Speaker) -> None:
    """Who may not use a key is not told whether it could be used; who may, is."""
    key = kms.key()
    blob = kms.wrapped(key)
    granted(kms, key, "Decrypt")
    kms.say("DisableKey", KeyId=key)
    asked = {"CiphertextBlob": blob, "EncryptionContext": CONTEXT}

    assert kms.acting_as(ALICE).refusal("Decrypt", **asked).kind == "DisabledException"
    assert kms.acting_as(BOB).refusal("Decrypt", **asked).kind == "AccessDeniedException"
    assert kms.acting_as(BOB).refusal("Decrypt", DryRun=True, **asked).kind == "AccessDeniedException"


def test_tokens_give_nothing_to_others(kms: Speaker) -> None:
    """A token is for the grantee: who else shows it gets nothing by it; a wrong one is refused, from the root too."""
    key = kms.key()
    blob = kms.wrapped(key)
    token = granted(kms, key, "Decrypt")["GrantToken"]
    asked = {"CiphertextBlob": blob, "EncryptionContext": CONTEXT}

    kms.say("Decrypt", GrantTokens=[token], **asked)
    kms.acting_as(ALICE).say("Decrypt", GrantTokens=[token], **asked)

    assert kms.acting_as(BOB).refusal("Decrypt", GrantTokens=[token], **asked).kind == "AccessDeniedException"
    for speaker in (kms, kms.acting_as(ALICE)):
        assert speaker.refusal("Decrypt", GrantTokens=[token, "x"], **asked).kind == "InvalidGrantTokenException"


def test_among_many_grants(kms: Speaker) -> None:
    """A grant is found among many others of the same grantee, by its token and without."""
    key = kms.key()
    contexts = [{"aws:ebs:id": f"vol-{number:017x}"} for number in range(200)]
    made = [granted(kms, key, "Decrypt", Constraints={"EncryptionContextEquals": context}) for context in contexts]
    alice = kms.acting_as(ALICE)

    for number in (0, 117, 199):
        asked = {"CiphertextBlob": kms.wrapped(key, contexts[number]), "EncryptionContext": contexts[number]}
        alice.say("Decrypt", **asked)
        alice.say("Decrypt", GrantTokens=[made[number]["GrantToken"]], **asked)
        alice.say("Decrypt", GrantTokens=[made[number - 1]["GrantToken"]], **asked)


def test_token_of_another_key(kms: Speaker) -> None:
    """A right token of a grant on another key is no leave for this one."""
    key, other = kms.key(), kms.key()
    token = granted(kms, other, "DescribeKey")["GrantToken"]

    assert kms.acting_as(ALICE).refusal("DescribeKey", KeyId=key, GrantTokens=[token]).kind == "AccessDeniedException"


def test_nobody_makes_the_managed_key_by_asking(kms: Speaker) -> None:
    """A principal's question for alias/aws/ebs makes no key: that is the root's."""
    alice = kms.acting_as(ALICE)

    assert alice.refusal("DescribeKey", KeyId="alias/aws/ebs").kind == "NotFoundException"
    assert kms.say("ListKeys")["Keys"] == []


def test_grantable_operations_are_of_the_model() -> None:
    """What a grant can allow here is what the model of KMS knows as grant operations."""
    shape = service_model().shape_for("GrantOperation")
    of_the_model = set(shape.metadata["enum"])

    assert {name for name in GRANTABLE if name != "ReEncrypt"} <= of_the_model

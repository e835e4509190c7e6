"""Grants, on each KMS: made once by name, listed, ended, and what a second principal may do under one."""

from __future__ import annotations

from typing import Any

import pytest

from ebscrypt import errors
from ebscrypt.model import encryption_context
from tests.contracts.kms_implementations import Kms, on_every_kms

CONTEXT = encryption_context("vol-0123456789abcdef0")
OTHER_CONTEXT = encryption_context("vol-fedcba98765432100")
SUBSET = {"EncryptionContextSubset": CONTEXT}
UNKNOWN = "0" * 64


@on_every_kms("grants")
def test_grant_is_made_once_by_name(kms: Kms) -> None:
    """The same request with the same name gives the same grant with another token; without a name, another grant."""
    key = kms.key()

    named = [kms.granted(key, Name="attachment", Constraints=SUBSET) for _ in range(2)]
    unnamed = [kms.granted(key) for _ in range(2)]

    assert named[0]["GrantId"] == named[1]["GrantId"]
    assert named[0]["GrantToken"] != named[1]["GrantToken"]
    assert len({grant["GrantId"] for grant in named + unnamed}) == 3
    assert all(len(grant["GrantId"]) == 64 for grant in named)


@on_every_kms()
def test_grant_is_listed(kms: Kms) -> None:
    """ListGrants and ListRetirableGrants show a grant with what it says."""
    key = kms.key()
    root = kms.root_of(key)
    made = kms.granted(key, RetiringPrincipal=root, Constraints=SUBSET, Name="attachment")

    listed = kms.client.call("ListGrants", KeyId=key)["Grants"]
    retirable = kms.client.call("ListRetirableGrants", RetiringPrincipal=root)["Grants"]

    expected = {
        "GrantId": made["GrantId"],
        "Name": "attachment",
        "GranteePrincipal": root,
        "RetiringPrincipal": root,
        "Operations": ["Decrypt"],
        "Constraints": SUBSET,
    }
    assert [{name: grant[name] for name in expected} for grant in listed] == [expected]
    assert made["GrantId"] in {grant["GrantId"] for grant in retirable}


@on_every_kms()
@pytest.mark.parametrize("how", ["retired by ids", "retired by token", "revoked"])
def test_grant_ends(how: str, kms: Kms) -> None:
    """A grant that is retired or revoked is listed no more."""
    key = kms.key()
    made = kms.granted(key)

    if how == "retired by token":
        kms.client.call("RetireGrant", GrantToken=made["GrantToken"])
    else:
        operation = "RevokeGrant" if how == "revoked" else "RetireGrant"
        kms.client.call(operation, KeyId=key, GrantId=made["GrantId"])

    assert kms.becomes(lambda: kms.client.call("ListGrants", KeyId=key)["Grants"] == [])


@on_every_kms()
def test_revoking_a_grant_that_is_not_there(kms: Kms) -> None:
    """RevokeGrant of an unknown grant is not found."""
    assert kms.refusal("RevokeGrant", KeyId=kms.key(), GrantId=UNKNOWN) == "NotFoundException"


@on_every_kms("grants")
@pytest.mark.parametrize("operation", ["DescribeKey", "GenerateDataKeyWithoutPlaintext", "RetireGrant"])
def test_wrong_grant_token(operation: str, kms: Kms) -> None:
    """A made-up grant token is refused, even if the caller needs none."""
    sizes = {"NumberOfBytes": 64} if operation.startswith("Generate") else {}
    asked = (
        {"GrantToken": "made-up"} if operation == "RetireGrant" else {"KeyId": kms.key(), "GrantTokens": ["made-up"]}
    )

    assert kms.refusal(operation, **asked, **sizes) == "InvalidGrantTokenException"


@on_every_kms("grants")
def test_operations_that_a_key_does_not_have(kms: Kms) -> None:
    """A grant on a symmetric key cannot allow Sign."""
    key = kms.key()

    asked: dict[str, Any] = {"KeyId": key, "GranteePrincipal": kms.root_of(key), "Operations": ["Sign"]}

    assert kms.refusal("CreateGrant", **asked) == "ValidationException"


@on_every_kms("key states")
def test_grant_on_a_disabled_key(kms: Kms) -> None:
    """No grant is made on a disabled key; what is there can be listed and retired."""
    key = kms.key()
    made = kms.granted(key)
    kms.client.call("DisableKey", KeyId=key)

    with pytest.raises(errors.KmsKeyDisabled):
        kms.granted(key)
    assert [grant["GrantId"] for grant in kms.client.call("ListGrants", KeyId=key)["Grants"]] == [made["GrantId"]]
    kms.client.call("RetireGrant", KeyId=key, GrantId=made["GrantId"])


@on_every_kms("second principal")
def test_grant_is_what_allows(kms: Kms) -> None:
    """A second principal may decrypt under a grant, with its context and no other, until the grant ends; never else."""
    key = kms.key()
    blob = kms.client.generate_data_key_without_plaintext(key, CONTEXT).blob
    other = kms.client.generate_data_key_without_plaintext(key, OTHER_CONTEXT).blob
    with pytest.raises(errors.KmsAccessDenied):
        kms.grantee.decrypt(blob, CONTEXT)

    made = kms.granted(key, GranteePrincipal=kms.grantee_arn(), Constraints=SUBSET)
    token = made["GrantToken"]

    assert len(kms.grantee.decrypt(blob, CONTEXT, grant_token=token).plaintext) == 64
    with pytest.raises(errors.KmsAccessDenied):
        kms.grantee.decrypt(other, OTHER_CONTEXT, grant_token=token)
    with pytest.raises(errors.KmsAccessDenied):
        kms.grantee.generate_data_key_without_plaintext(key, CONTEXT)
    kms.client.call("RetireGrant", KeyId=key, GrantId=made["GrantId"])
    assert kms.becomes(lambda: not may_decrypt(kms, blob))


def may_decrypt(kms: Kms, blob: bytes) -> bool:
    """Whether the second principal may decrypt without showing a token."""
    try:
        kms.grantee.decrypt(blob, CONTEXT)
    except errors.KmsAccessDenied:
        return False
    return True


@on_every_kms("second principal")
def test_nothing_else_is_allowed(kms: Kms) -> None:
    """A second principal with a grant can neither manage the key nor make grants."""
    key = kms.key()
    kms.granted(key, GranteePrincipal=kms.grantee_arn())

    for operation, asked in (
        ("DisableKey", {}),
        ("ListGrants", {}),
        ("PutKeyPolicy", {"Policy": "{}", "PolicyName": "default"}),
        ("CreateGrant", {"GranteePrincipal": kms.grantee_arn(), "Operations": ["Decrypt"]}),
    ):
        with pytest.raises(errors.KmsAccessDenied):
            kms.grantee.call(operation, KeyId=key, **asked)

"""What each call puts on the wire, member by member: exactly what EBS's own carries (facts §1.3)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.kms import principals
from ebscrypt.kms.client import KmsClient
from tests.unit.kms.calls import BLOB, CALLS, CONTEXT, GOOD, GRANT_ID, NAME, OTHER_CONTEXT, PLAINTEXT, TOKEN
from tests.unit.kms.scripted import GRANTEE, KEY_ARN, RETIRING, Scenario, answers

WIRE: dict[str, dict[str, Any]] = {
    "DescribeKey": {"KeyId": KEY_ARN},
    "GenerateDataKeyWithoutPlaintext": {"KeyId": KEY_ARN, "NumberOfBytes": 64, "EncryptionContext": CONTEXT},
    "CreateGrant": {
        "KeyId": KEY_ARN,
        "GranteePrincipal": GRANTEE,
        "RetiringPrincipal": RETIRING,
        "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextSubset": CONTEXT},
        "Name": NAME,
    },
    "RetireGrant": {"KeyId": KEY_ARN, "GrantId": GRANT_ID},
    "Decrypt": {
        "CiphertextBlob": base64.b64encode(BLOB).decode(),
        "EncryptionContext": CONTEXT,
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "GrantTokens": [TOKEN],
    },
    "ReEncrypt": {
        "CiphertextBlob": base64.b64encode(BLOB).decode(),
        "SourceKeyId": KEY_ARN,
        "SourceEncryptionContext": CONTEXT,
        "DestinationKeyId": KEY_ARN,
        "DestinationEncryptionContext": OTHER_CONTEXT,
    },
    "Encrypt": {
        "KeyId": KEY_ARN,
        "Plaintext": base64.b64encode(PLAINTEXT).decode(),
        "EncryptionContext": CONTEXT,
    },
}


@pytest.mark.parametrize("operation", list(CALLS))
def test_each_call_carries_what_ebs_sends(operation: str, scenario: Scenario) -> None:
    """No member is missing, none is there that EBS does not send; Decrypt names no key."""
    CALLS[operation](scenario.client(answers(200, GOOD[operation])))

    assert scenario.endpoint.targets == [f"TrentService.{operation}"]
    assert scenario.endpoint.bodies == [WIRE[operation]]


def test_no_grant_no_token(scenario: Scenario) -> None:
    """Without a grant Decrypt carries no GrantTokens at all."""
    scenario.client(answers(200, GOOD["Decrypt"])).decrypt(BLOB, CONTEXT)

    assert "GrantTokens" not in scenario.endpoint.bodies[0]


def test_trying_is_decrypting_with_dry_run(scenario: Scenario) -> None:
    """`check_decrypt` sends the same as Decrypt and DryRun, and takes KMS's error for the success that it is."""
    success = answers(400, {"__type": "DryRunOperationException", "message": "It would have succeeded."})
    scenario.client(success).check_decrypt(BLOB, CONTEXT, key_arn=KEY_ARN, grant_token=TOKEN)

    assert scenario.endpoint.bodies == [WIRE["Decrypt"] | {"DryRun": True}]


def test_an_endpoint_without_dry_run_is_known(scenario: Scenario) -> None:
    """Where the request was carried out instead of tried, `dry_run` says so."""
    kms = scenario.client(answers(200, GOOD["Encrypt"]))

    assert kms.dry_run("GenerateDataKeyWithoutPlaintext", KEY_ARN, KeyId=KEY_ARN, NumberOfBytes=64) is False


def test_the_embedded_kms_has_the_principals_of_ebs(settings: Settings) -> None:
    """There the grant is for this machine's infrastructure role, to be retired by EC2, and limited to the volume."""
    kms = KmsClient(settings)
    key = kms.call("CreateKey")["KeyMetadata"]["Arn"]

    grant = kms.create_grant(key, CONTEXT, name=NAME)

    (listed,) = kms.call("ListGrants", KeyId=key)["Grants"]
    role = f"arn:aws:sts::111122223333:assumed-role/aws:ec2-infrastructure/{principals.instance_id()}"
    assert listed["GrantId"] == grant.grant_id
    assert listed["GranteePrincipal"] == role
    assert listed["RetiringPrincipal"] == "ec2.eu-central-1.amazonaws.com"
    assert listed["Operations"] == ["Decrypt"]
    assert listed["Constraints"] == {"EncryptionContextSubset": CONTEXT}
    assert listed["Name"] == NAME
    assert grant.token not in repr(grant)


def test_a_grant_allows_until_it_is_retired(settings: Settings) -> None:
    """The grantee decrypts its volume's key under the grant, no other's, and none once the grant is retired."""
    kms, role = KmsClient(settings), KmsClient(settings, principal=principals.grantee(settings))
    key = kms.call("CreateKey")["KeyMetadata"]["Arn"]
    blob = kms.generate_data_key_without_plaintext(key, CONTEXT).blob
    other = kms.generate_data_key_without_plaintext(key, OTHER_CONTEXT).blob
    with pytest.raises(errors.KmsAccessDenied):
        role.decrypt(blob, CONTEXT, expected_key_arn=key)
    grant = kms.create_grant(key, CONTEXT, name=NAME)

    role.check_decrypt(blob, CONTEXT, key_arn=key, grant_token=grant.token)
    assert len(role.decrypt(blob, CONTEXT, expected_key_arn=key, grant_token=grant.token).plaintext) == 64
    with pytest.raises(errors.KmsAccessDenied):
        role.decrypt(other, OTHER_CONTEXT, expected_key_arn=key, grant_token=grant.token)

    kms.retire_grant(key, grant.grant_id)
    kms.retire_grant(key, grant.grant_id)
    with pytest.raises((errors.KmsAccessDenied, errors.KmsInvalidRequest)):
        role.decrypt(blob, CONTEXT, expected_key_arn=key, grant_token=grant.token)

"""The audit trail: one record a request in CloudTrail's form (facts §4), and nothing secret in any."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.kms import principals
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.context import canonical
from tests.unit.kms.calls import (
    CALLS,
    CONTEXT,
    GOOD,
    GRANT_ID,
    NAME,
    OTHER_CONTEXT,
    VOLUME_ID,
    recorded,
    secrets_in,
    spelled,
)
from tests.unit.kms.scripted import GRANTEE, KEY_ARN, REQUEST_ID, RETIRING, Scenario, answers, refuses, resets

SHOWN: dict[str, Any] = {
    "DescribeKey": {"keyId": KEY_ARN},
    "GenerateDataKeyWithoutPlaintext": {"keyId": KEY_ARN, "numberOfBytes": 64, "encryptionContext": CONTEXT},
    "CreateGrant": {
        "keyId": KEY_ARN,
        "granteePrincipal": GRANTEE,
        "retiringPrincipal": RETIRING,
        "operations": ["Decrypt"],
        "constraints": {"encryptionContextSubset": CONTEXT},
        "name": NAME,
    },
    "RetireGrant": None,
    "Decrypt": {"encryptionContext": CONTEXT, "encryptionAlgorithm": "SYMMETRIC_DEFAULT"},
    "ReEncrypt": {
        "sourceKeyId": KEY_ARN,
        "sourceEncryptionContext": CONTEXT,
        "destinationKeyId": KEY_ARN,
        "destinationEncryptionContext": OTHER_CONTEXT,
    },
    "Encrypt": {"keyId": KEY_ARN, "encryptionContext": CONTEXT},
}
COMMON = {
    "eventVersion": "1.11",
    "eventSource": "kms.amazonaws.com",
    "awsRegion": "eu-central-1",
    "userAgent": "ebscrypt",
    "eventType": "AwsApiCall",
    "managementEvent": True,
    "recipientAccountId": "111122223333",
    "eventCategory": "Management",
    "requestID": REQUEST_ID,
    "userIdentity": {"type": "Unknown"},
    "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": KEY_ARN}],
}


@pytest.mark.parametrize("operation", list(CALLS))
def test_each_call_leaves_its_record(operation: str, scenario: Scenario) -> None:
    """All of CloudTrail's members, the request's harmless ones, and the key's ARN."""
    material = {"KeyMaterialId": "ab" * 32}
    before = datetime.now(UTC).replace(microsecond=0)

    CALLS[operation](scenario.client(answers(200, GOOD[operation] | material)))

    (record,) = recorded(scenario.settings)
    assert record | COMMON == record
    assert record["eventName"] == operation
    assert record["requestParameters"] == SHOWN[operation]
    granted = {"grantId": GRANT_ID, "keyId": KEY_ARN} if operation == "CreateGrant" else None
    assert record["responseElements"] == granted
    assert record["readOnly"] is (operation not in ("CreateGrant", "RetireGrant"))
    assert before <= datetime.fromisoformat(record["eventTime"]) <= datetime.now(UTC)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", record["eventID"])
    assert record["additionalEventData"].get("grantId") == (GRANT_ID if operation == "RetireGrant" else None)
    told = operation in ("GenerateDataKeyWithoutPlaintext", "Decrypt")  # the others' answers do not have it
    assert record["additionalEventData"].get("keyMaterialId") == (material["KeyMaterialId"] if told else None)
    assert "errorCode" not in record
    assert secrets_in(json.dumps(record), context_too=False) == []


@pytest.mark.parametrize("operation", list(CALLS))
def test_each_attempt_counts(operation: str, scenario: Scenario) -> None:
    """What is tried three times is three records, each with KMS's code, text and request id."""
    kms = scenario.client(refuses("ThrottlingException", "Rate exceeded"), attempts=3)

    with pytest.raises(errors.KmsThrottled):
        CALLS[operation](kms)

    found = recorded(scenario.settings)
    assert [(one["errorCode"], one["errorMessage"], one["requestID"]) for one in found] == [
        ("ThrottlingException", "Rate exceeded", REQUEST_ID)
    ] * 3
    assert len({one["eventID"] for one in found}) == 3
    assert all(one["resources"] == COMMON["resources"] for one in found)


def test_silence_is_recorded_too(scenario: Scenario) -> None:
    """A request that got no answer, or none that is KMS's, has our name for it and no request id."""
    with pytest.raises(errors.KmsUnreachable):
        CALLS["Decrypt"](scenario.client(resets, attempts=1))
    with pytest.raises(errors.KmsBadAnswer):
        CALLS["Decrypt"](scenario.client(answers(200, b"<html>")))

    assert [(one["errorCode"], one["requestID"]) for one in recorded(scenario.settings)] == [
        ("KmsUnreachable", None),
        ("KmsBadAnswer", None),
    ]


def test_re_encrypt_names_both_keys(scenario: Scenario) -> None:
    """The source key comes first, then the destination; each with its key material."""
    other = KEY_ARN.replace("1234abcd", "ffffffff")
    answer = GOOD["ReEncrypt"] | {"KeyId": other, "SourceKeyMaterialId": "a1", "DestinationKeyMaterialId": "b2"}

    scenario.client(answers(200, answer)).re_encrypt(b"blob", CONTEXT, other, OTHER_CONTEXT, source_key_id=KEY_ARN)

    (record,) = recorded(scenario.settings)
    assert [resource["ARN"] for resource in record["resources"]] == [KEY_ARN, other]
    assert (
        record["additionalEventData"] | {"sourceKeyMaterialId": "a1", "destinationKeyMaterialId": "b2"}
        == (record["additionalEventData"])
    )


def test_what_is_not_sent_is_not_recorded(scenario: Scenario) -> None:
    """Requests that fail on this side, by their parameters or for want of credentials, leave nothing."""
    kms = scenario.client(answers(200, {}))
    with pytest.raises(errors.KmsInvalidRequest):
        kms.call("Decrypt", CiphertextBlob=7)
    with pytest.raises(errors.InvalidParameter):
        kms.call("NoSuchThing")

    assert recorded(scenario.settings) == []


def test_the_embedded_kms_knows_who_asks(settings: Settings) -> None:
    """The account's root, or the principal that the client speaks for: the instance's role, as in EBS's own records."""
    kms, grantee = KmsClient(settings), principals.grantee(settings)
    key = kms.call("CreateKey")["KeyMetadata"]["Arn"]
    blob = kms.generate_data_key_without_plaintext(key, CONTEXT).blob
    grant = kms.create_grant(key, CONTEXT, name=NAME)
    KmsClient(settings, principal=grantee).decrypt(blob, CONTEXT, expected_key_arn=key, grant_token=grant.token)
    kms.retire_grant(key, grant.grant_id)

    found = recorded(settings)
    names = ["CreateKey", "GenerateDataKeyWithoutPlaintext", "CreateGrant", "Decrypt", "RetireGrant"]
    assert [one["eventName"] for one in found] == names
    account = "111122223333"
    root = {"type": "Root", "principalId": account, "arn": f"arn:aws:iam::{account}:root", "accountId": account}
    assert found[0]["userIdentity"] == root
    assert found[0]["responseElements"]["keyMetadata"]["arn"] == key
    instance, role = principals.instance_id(), "aws:ec2-infrastructure"
    assert found[3]["userIdentity"] == {
        "type": "AssumedRole",
        "principalId": f"{account}:{role}:{instance}",
        "arn": grantee,
        "accountId": account,
        "sessionContext": {
            "sessionIssuer": {
                "type": "Role",
                "principalId": f"{account}:{role}",
                "arn": f"arn:aws:iam::{account}:role/{role}",
                "accountId": account,
                "userName": role,
            }
        },
        "inScopeOf": {
            "issuerType": "AWS::EC2::Instance",
            "credentialsIssuedTo": f"arn:aws:ec2:eu-central-1:{account}:instance/{instance}",
        },
    }
    assert all(one["requestID"] for one in found)


def test_a_life_of_a_volume_leaves_no_secret(settings: Settings) -> None:
    """Create, attach, detach, re-wrap, fail, with real blobs, key and token: the trail has none of them."""
    kms = KmsClient(settings)
    first, second = (kms.call("CreateKey")["KeyMetadata"]["Arn"] for _ in range(2))
    blob = kms.generate_data_key_without_plaintext(first, CONTEXT).blob
    grant = kms.create_grant(first, CONTEXT, name=NAME)
    role = KmsClient(settings, principal=principals.grantee(settings))
    plaintext = role.decrypt(blob, CONTEXT, expected_key_arn=first, grant_token=grant.token).plaintext
    kms.retire_grant(first, grant.grant_id)
    again = kms.re_encrypt(blob, CONTEXT, second, CONTEXT, source_key_id=first).blob
    third = kms.encrypt(second, plaintext, CONTEXT).blob
    kms.call("DisableKey", KeyId=second)
    with pytest.raises(errors.KmsKeyDisabled):
        kms.decrypt(again, CONTEXT, expected_key_arn=second)
    wrapping = kms.call("CreateKey", Origin="EXTERNAL")["KeyMetadata"]["Arn"]
    given = kms.call(
        "GetParametersForImport", KeyId=wrapping, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
    )
    kms.call("PutKeyPolicy", KeyId=first, PolicyName="default", Policy=kms.call("GetKeyPolicy", KeyId=first)["Policy"])

    written = "".join(path.read_text() for path in settings.audit_dir.glob("kms.jsonl*"))
    assert len(written.splitlines()) == 14
    assert VOLUME_ID in written
    assert grant.token not in written
    assert "Statement" not in written  # of a policy
    for secret in (
        plaintext,
        plaintext[:32],
        plaintext[32:],
        blob,
        again,
        third,
        given["ImportToken"],
        given["PublicKey"],
    ):
        assert not [form for form in spelled(secret) if form in written]
    assert not [form for form in spelled(canonical(CONTEXT)) if form in written]


def test_a_full_disk_is_told_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that cannot be written cost no request; the user is told once, by note."""
    Path(settings.paths.state).mkdir()
    settings.audit_dir.write_text("in the way")
    notes: list[str] = []
    kms = KmsClient(settings, notes=notes)

    key = kms.call("CreateKey")["KeyMetadata"]["Arn"]
    kms.generate_data_key_without_plaintext(key, CONTEXT)

    assert len(notes) == 1
    assert "leave no record" in notes[0]
    assert str(settings.audit_dir) in notes[0]
    monkeypatch.setattr("ebscrypt.kms.audit.record_of", lambda *_: 1 / 0)
    assert kms.describe_key(key).state == "Enabled"


def test_without_notes_it_is_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody collects notes, the log has the warning."""
    Path(settings.paths.state).mkdir()
    settings.audit_dir.write_text("in the way")

    with caplog.at_level(logging.WARNING):
        KmsClient(settings).call("ListKeys")

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "leave no record" in caplog.text

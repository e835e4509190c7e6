"""The key-state table of the AWS documentation, cell by cell, against the running embedded KMS."""

from __future__ import annotations

from typing import Any

import pytest

from ebscrypt.kms.embedded.service import OPERATIONS
from ebscrypt.kms.embedded.states import TABLE
from tests.unit.kms.embedded.speaking import CONTEXT, START, Refused, Speaker

STATES = [
    "Enabled",
    "Disabled",
    "PendingDeletion",
    "PendingReplicaDeletion",
    "PendingImport",
    "Unavailable",
    "Creating",
    "Updating",
]
OK = "ok"
DISABLED = "DisabledException: {arn} is disabled."
DELETION = "KMSInvalidStateException: {arn} is pending deletion."
REPLICA = "KMSInvalidStateException: {arn} is pending replica deletion."
NOT_DELETION = "KMSInvalidStateException: {arn} is not pending deletion."
IMPORT = "KMSInvalidStateException: {arn} is pending import."
UNAVAILABLE = "KMSInvalidStateException: {arn} is unavailable."
CREATING = "KMSInvalidStateException: {arn} is creating."
UPDATING = "KMSInvalidStateException: {arn} is updating."

# Written from the documentation's table, not from the code's: one column per entry of STATES.
USE = [OK, DISABLED, DELETION, REPLICA, IMPORT, UNAVAILABLE, CREATING, OK]
EVERY = [OK] * 8
UNLESS_DELETED = [OK, OK, DELETION, REPLICA, OK, OK, OK, OK]
SWITCH = [OK, OK, DELETION, REPLICA, IMPORT, OK, CREATING, UPDATING]
EXPECTED = {
    "Encrypt": USE,
    "Decrypt": USE,
    "ReEncrypt": USE,
    "ReEncrypt from it": USE,
    "GenerateDataKey": USE,
    "GenerateDataKeyWithoutPlaintext": USE,
    "DescribeKey": EVERY,
    "ListAliases": EVERY,
    "DeleteAlias": EVERY,
    "CreateAlias": UNLESS_DELETED,
    "UpdateAlias": UNLESS_DELETED,
    "UpdateAlias away from it": EVERY,
    "EnableKey": SWITCH,
    "DisableKey": SWITCH,
    "ScheduleKeyDeletion": [OK, OK, DELETION, REPLICA, OK, OK, OK, UPDATING],
    "CancelKeyDeletion": [NOT_DELETION, NOT_DELETION, OK, OK, *[NOT_DELETION] * 4],
}


def request(operation: str, kms: Speaker, arn: str) -> tuple[str, dict[str, Any]]:
    """An otherwise right request of that operation about the key, prepared while the key is still enabled."""
    blob, other = kms.wrapped(arn), kms.key()
    kms.say("CreateAlias", AliasName="alias/its", TargetKeyId=arn)
    kms.say("CreateAlias", AliasName="alias/others", TargetKeyId=other)
    again = {"SourceEncryptionContext": CONTEXT, "DestinationEncryptionContext": CONTEXT}
    requests: dict[str, dict[str, Any]] = {
        "Encrypt": {"KeyId": arn, "Plaintext": b"x"},
        "Decrypt": {"CiphertextBlob": blob, "EncryptionContext": CONTEXT},
        "ReEncrypt": {"CiphertextBlob": kms.wrapped(other), "DestinationKeyId": arn} | again,
        "ReEncrypt from it": {"CiphertextBlob": blob, "DestinationKeyId": other} | again,
        "GenerateDataKey": {"KeyId": arn, "KeySpec": "AES_256"},
        "GenerateDataKeyWithoutPlaintext": {"KeyId": arn, "NumberOfBytes": 64},
        "ListAliases": {"KeyId": arn},
        "DeleteAlias": {"AliasName": "alias/its"},
        "CreateAlias": {"AliasName": "alias/new", "TargetKeyId": arn},
        "UpdateAlias": {"AliasName": "alias/others", "TargetKeyId": arn},
        "UpdateAlias away from it": {"AliasName": "alias/its", "TargetKeyId": other},
    }
    return operation.partition(" ")[0], requests.get(operation, {"KeyId": arn})


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", list(EXPECTED))
def test_cell(operation: str, state: str, kms: Speaker) -> None:
    """Each operation in each state does, or answers, what the documentation says, with AWS's type and text."""
    arn = kms.key()
    name, asked = request(operation, kms, arn)
    with kms.database() as database:
        database.execute(
            "UPDATE kms_key SET state = ?, deletion_date = ? WHERE arn = ?", (state, START + 1_000_000, arn)
        )
    expected = EXPECTED[operation][STATES.index(state)].format(arn=arn)

    answered = OK
    try:
        kms.say(name, **asked)
    except Refused as refused:
        answered = str(refused)

    assert answered == expected


def test_every_operation_on_a_key_has_its_row() -> None:
    """An operation that concerns a key cannot be added without a row in the table."""
    without_key = {"CreateKey", "ListKeys", "GenerateRandom"}

    assert set(TABLE) == set(OPERATIONS) - without_key
    assert set(TABLE) == {name.partition(" ")[0] for name in EXPECTED}

"""The key-state table of the AWS documentation, cell by cell, against the running embedded KMS."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from ebscrypt.kms.embedded.service import OPERATIONS
from ebscrypt.kms.embedded.states import TABLE
from tests.unit.kms.embedded.importing import FOREVER, imported, parameters
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
IMPORTED = "UnsupportedOperationException: {arn} origin is EXTERNAL which is not valid for this operation."
NOT_IMPORTED = "UnsupportedOperationException: {arn} origin is AWS_KMS which is not valid for this operation."
CUSTOM_STORE = "UnsupportedOperationException: {arn} is in a custom key store which is not valid for this operation."

# Written from the documentation's table, not from the code's: one column per entry of STATES.
USE = [OK, DISABLED, DELETION, REPLICA, IMPORT, UNAVAILABLE, CREATING, OK]
EVERY = [OK] * 8
UNLESS_DELETED = [OK, OK, DELETION, REPLICA, OK, OK, OK, OK]
SWITCH = [OK, OK, DELETION, REPLICA, IMPORT, OK, CREATING, UPDATING]
ROTATION = [OK, DISABLED, DELETION, REPLICA, IMPORT, CUSTOM_STORE, CREATING, OK]
ROTATION_OF_IMPORTED = [*[IMPORTED] * 6, CREATING, IMPORTED]
ROTATION_TOLD = [OK, OK, OK, OK, OK, OK, CREATING, OK]
EXPECTED = {
    "Encrypt": USE,
    "Decrypt": USE,
    "ReEncrypt": USE,
    "ReEncrypt from it": USE,
    "GenerateDataKey": USE,
    "GenerateDataKeyWithoutPlaintext": USE,
    "CreateGrant": [OK, DISABLED, DELETION, REPLICA, IMPORT, OK, CREATING, OK],
    "DescribeKey": EVERY,
    "ListGrants": EVERY,
    "ListAliases": EVERY,
    "GetKeyPolicy": EVERY,
    "PutKeyPolicy": EVERY,
    "ListKeyPolicies": EVERY,
    "RetireGrant": EVERY,
    "RevokeGrant": EVERY,
    "DeleteAlias": EVERY,
    "ListResourceTags": EVERY,
    "CreateAlias": UNLESS_DELETED,
    "TagResource": UNLESS_DELETED,
    "UntagResource": UNLESS_DELETED,
    "UpdateKeyDescription": UNLESS_DELETED,
    "UpdateAlias": UNLESS_DELETED,
    "UpdateAlias away from it": EVERY,
    "EnableKey": SWITCH,
    "DisableKey": SWITCH,
    "ScheduleKeyDeletion": [OK, OK, DELETION, REPLICA, OK, OK, OK, UPDATING],
    "CancelKeyDeletion": [NOT_DELETION, NOT_DELETION, OK, OK, *[NOT_DELETION] * 4],
    "EnableKeyRotation": ROTATION,
    "EnableKeyRotation (imported)": ROTATION_OF_IMPORTED,
    "DisableKeyRotation": ROTATION,
    "DisableKeyRotation (imported)": ROTATION_OF_IMPORTED,
    "RotateKeyOnDemand": ROTATION,
    "RotateKeyOnDemand (imported)": ROTATION,
    "GetKeyRotationStatus": ROTATION_TOLD,
    "GetKeyRotationStatus (imported)": ROTATION_TOLD,
    "ListKeyRotations": ROTATION_TOLD,
    "ListKeyRotations (imported)": ROTATION_TOLD,
    "GetParametersForImport": [*[NOT_IMPORTED] * 6, CREATING, UPDATING],
    "GetParametersForImport (imported)": [OK, OK, DELETION, REPLICA, OK, UNAVAILABLE, CREATING, UPDATING],
    "ImportKeyMaterial": [*[NOT_IMPORTED] * 6, CREATING, NOT_IMPORTED],
    "ImportKeyMaterial (imported)": [OK, OK, DELETION, REPLICA, OK, UNAVAILABLE, CREATING, OK],
    "DeleteImportedKeyMaterial": [*[NOT_IMPORTED] * 6, CREATING, UPDATING],
    "DeleteImportedKeyMaterial (imported)": [OK, OK, OK, OK, OK, OK, CREATING, UPDATING],
}
MATERIAL, NEXT_MATERIAL = os.urandom(32), os.urandom(32)
GRANT = {"GranteePrincipal": "arn:aws:iam::111122223333:user/a", "Operations": ["Decrypt"]}
POLICY = '{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}}'

pytestmark = pytest.mark.usefixtures("same_wrapping_key")


def make_key(kms: Speaker, *, is_imported: bool) -> str:
    """An enabled key, with material of its own or imported; the latter with more that waits to be rotated in."""
    if not is_imported:
        return kms.key()
    key = kms.key(Origin="EXTERNAL")
    imported(kms, key, MATERIAL)
    imported(kms, key, NEXT_MATERIAL, ImportType="NEW_KEY_MATERIAL", **FOREVER)
    return key


def importing(kms: Speaker, arn: str, *, is_imported: bool) -> dict[str, Any]:
    """The material that is there, again."""
    if is_imported:
        return parameters(kms, arn, MATERIAL) | FOREVER
    return {"KeyId": arn, "ImportToken": b"x", "EncryptedKeyMaterial": b"x"} | FOREVER


def wrapping_wanted(arn: str) -> dict[str, Any]:
    return {"KeyId": arn, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}


def request(operation: str, kms: Speaker, arn: str, *, is_imported: bool) -> dict[str, Any]:
    """An otherwise right request of that operation about the key, prepared while the key is still enabled."""
    again = {"SourceEncryptionContext": CONTEXT, "DestinationEncryptionContext": CONTEXT}
    tag = {"TagKey": "a", "TagValue": "b"}
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "Encrypt": lambda: {"KeyId": arn, "Plaintext": b"x"},
        "Decrypt": lambda: {"CiphertextBlob": kms.wrapped(arn), "EncryptionContext": CONTEXT},
        "ReEncrypt": lambda: {"CiphertextBlob": kms.wrapped(kms.key()), "DestinationKeyId": arn} | again,
        "ReEncrypt from it": lambda: {"CiphertextBlob": kms.wrapped(arn), "DestinationKeyId": kms.key()} | again,
        "GenerateDataKey": lambda: {"KeyId": arn, "KeySpec": "AES_256"},
        "GenerateDataKeyWithoutPlaintext": lambda: {"KeyId": arn, "NumberOfBytes": 64},
        "DeleteAlias": lambda: {"AliasName": "alias/its"},
        "CreateAlias": lambda: {"AliasName": "alias/new", "TargetKeyId": arn},
        "UpdateAlias": lambda: {"AliasName": "alias/others", "TargetKeyId": arn},
        "UpdateAlias away from it": lambda: {"AliasName": "alias/its", "TargetKeyId": kms.key()},
        "CreateGrant": lambda: {"KeyId": arn} | GRANT,
        "RetireGrant": lambda: {"GrantToken": kms.say("CreateGrant", KeyId=arn, **GRANT)["GrantToken"]},
        "RevokeGrant": lambda: {"KeyId": arn, "GrantId": kms.say("CreateGrant", KeyId=arn, **GRANT)["GrantId"]},
        "PutKeyPolicy": lambda: {"KeyId": arn, "Policy": POLICY},
        "TagResource": lambda: {"KeyId": arn, "Tags": [tag]},
        "UntagResource": lambda: {"KeyId": arn, "TagKeys": ["a"]},
        "UpdateKeyDescription": lambda: {"KeyId": arn, "Description": "other"},
        "GetParametersForImport": lambda: wrapping_wanted(arn),
        "ImportKeyMaterial": lambda: importing(kms, arn, is_imported=is_imported),
    }
    return made[operation]() if operation in made else {"KeyId": arn}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", list(EXPECTED))
def test_cell(operation: str, state: str, kms: Speaker) -> None:
    """Each operation in each state does, or answers, what the documentation says, with AWS's type and text."""
    is_imported = operation.endswith("(imported)")
    arn, plain = make_key(kms, is_imported=is_imported), operation.removesuffix(" (imported)")
    kms.say("CreateAlias", AliasName="alias/its", TargetKeyId=arn)
    kms.say("CreateAlias", AliasName="alias/others", TargetKeyId=kms.key())
    asked = request(plain, kms, arn, is_imported=is_imported)
    with kms.database() as database:
        database.execute(
            "UPDATE kms_key SET state = ?, deletion_date = ? WHERE arn = ?", (state, START + 1_000_000, arn)
        )
    expected = EXPECTED[operation][STATES.index(state)].format(arn=arn)

    answered = OK
    try:
        kms.say(plain.partition(" ")[0], **asked)
    except Refused as refused:
        answered = str(refused)

    assert answered == expected


def test_every_operation_on_a_key_has_its_row() -> None:
    """An operation that concerns a key cannot be added without a row in the table."""
    without_key = {"CreateKey", "ListKeys", "GenerateRandom", "ListRetirableGrants"}

    assert set(TABLE) == set(OPERATIONS) - without_key
    assert set(TABLE) == {name.partition(" ")[0] for name in EXPECTED}

"""What happens to a key over its life: switched, scheduled, cancelled, deleted, never filled."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.kms.embedded.speaking import DAY, START, Speaker


def test_cancelled_deletion_leaves_the_key_disabled(kms: Speaker) -> None:
    """Cancelling a deletion gives back a disabled key, and enabling it gives back its data."""
    key = kms.key()
    blob = kms.wrapped(key)
    plaintext = kms.opened(blob)

    scheduled = kms.say("ScheduleKeyDeletion", KeyId=key)
    pending = kms.say("DescribeKey", KeyId=key)["KeyMetadata"]
    kms.say("CancelKeyDeletion", KeyId=key)

    assert scheduled == {
        "KeyId": key,
        "KeyState": "PendingDeletion",
        "DeletionDate": START + 30 * DAY,
        "PendingWindowInDays": 30,
    }
    assert (pending["KeyState"], pending["DeletionDate"]) == ("PendingDeletion", START + 30 * DAY)
    assert kms.state(key) == "Disabled"
    assert "DeletionDate" not in kms.say("DescribeKey", KeyId=key)["KeyMetadata"]
    kms.say("EnableKey", KeyId=key)
    assert kms.opened(blob) == plaintext


def test_deletion_date_passes(kms: Speaker) -> None:
    """When the date has passed the key does not exist any more, for no operation, and its material is gone."""
    key, kept = kms.key(), kms.key()
    blob = kms.wrapped(key)
    kms.say("CreateAlias", AliasName="alias/gone", TargetKeyId=key)
    with kms.database() as database:
        sealed = database.execute("SELECT sealed FROM material m JOIN kms_key k USING (key_id) WHERE arn = ?", (key,))
        sealed_bytes: bytes = sealed.fetchone()[0]
    kms.say("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)

    kms.now += 7 * DAY - 1
    assert kms.state(key) == "PendingDeletion"
    kms.now += 1

    requests: dict[str, dict[str, Any]] = {
        "DescribeKey": {"KeyId": key},
        "CancelKeyDeletion": {"KeyId": key},
        "EnableKey": {"KeyId": key},
        "Encrypt": {"KeyId": key, "Plaintext": b"x"},
        "Decrypt": {"CiphertextBlob": blob, "EncryptionContext": {"aws:ebs:id": "vol-0123456789abcdef0"}},
    }
    for operation, request in requests.items():
        refused = kms.refusal(operation, **request)
        assert (refused.kind, refused.message) == ("NotFoundException", f"Key '{key}' does not exist")
    assert [entry["KeyArn"] for entry in kms.say("ListKeys")["Keys"]] == [kept]
    assert kms.say("ListAliases")["Aliases"] == []
    files = b"".join(path.read_bytes() for path in kms.settings.kms_dir.iterdir())
    assert sealed_bytes not in files


@pytest.mark.parametrize(("days", "bound"), [(6, "greater than or equal to 7"), (31, "less than or equal to 30")])
def test_pending_window_has_bounds(days: int, bound: str, kms: Speaker) -> None:
    """A waiting period outside 7 to 30 days is refused by name, and changes nothing."""
    key = kms.key()

    refused = kms.refusal("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=days)

    assert refused.kind == "ValidationException"
    assert refused.message == (
        f"1 validation error detected: Value '{days}' at 'pendingWindowInDays' failed to satisfy constraint: "
        f"Member must have value {bound}"
    )
    assert kms.state(key) == "Enabled"


def test_key_that_waits_for_material(kms: Speaker) -> None:
    """A key of origin EXTERNAL is pending import, can do nothing, and is so again after a cancelled deletion."""
    created = kms.say("CreateKey", Origin="EXTERNAL", Description="mine")["KeyMetadata"]
    key = created["Arn"]
    kms.say("ScheduleKeyDeletion", KeyId=key)
    kms.say("CancelKeyDeletion", KeyId=key)

    refused = kms.refusal("GenerateDataKeyWithoutPlaintext", KeyId=key, NumberOfBytes=64)

    assert (created["KeyState"], created["Enabled"], created["Origin"]) == ("PendingImport", False, "EXTERNAL")
    assert (refused.kind, refused.message) == ("KMSInvalidStateException", f"{key} is pending import.")
    assert "CurrentKeyMaterialId" not in created


@pytest.mark.parametrize("operation", ["EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion"])
def test_aws_managed_key_cannot_be_changed(operation: str, kms: Speaker) -> None:
    """Nobody can switch or delete the AWS managed key, and no alias can be made for it."""
    key = kms.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"]

    assert kms.refusal(operation, KeyId=key).kind == "AccessDeniedException"
    assert kms.refusal("CreateAlias", AliasName="alias/x", TargetKeyId=key).kind == "AccessDeniedException"
    assert kms.state(key) == "Enabled"


@pytest.mark.parametrize("operation", ["EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion"])
def test_changes_take_no_alias(operation: str, kms: Speaker) -> None:
    """Operations that change a key take its id or ARN, never an alias."""
    kms.say("CreateAlias", AliasName="alias/x", TargetKeyId=kms.key())

    refused = kms.refusal(operation, KeyId="alias/x")

    assert (refused.kind, refused.message) == ("NotFoundException", "Invalid keyId 'alias/x'")


def test_accounts_and_regions_are_apart(kms: Speaker) -> None:
    """A store that serves two Regions shows each only its own keys, aliases and ciphertexts."""
    key = kms.key()
    blob = kms.wrapped(key)
    there = Speaker(
        msgspec.structs.replace(kms.settings, kms=msgspec.structs.replace(kms.settings.kms, region="us-west-2"))
    )

    assert there.say("ListKeys")["Keys"] == []
    assert there.refusal("DescribeKey", KeyId=key).message == "Invalid arn eu-central-1"
    assert there.refusal("DescribeKey", KeyId=key.rpartition("/")[2]).kind == "NotFoundException"
    assert there.refusal("Decrypt", CiphertextBlob=blob).kind == "InvalidCiphertextException"
    assert "us-west-2" in there.key()
    there.close()

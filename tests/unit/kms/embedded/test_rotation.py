"""Rotation: new material by the clock and on demand, and every old blob still opens."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ebscrypt.kms.embedded import rotation
from tests.unit.kms.embedded.importing import FOREVER, imported
from tests.unit.kms.embedded.speaking import CONTEXT, DAY, START, Speaker

pytestmark = pytest.mark.usefixtures("same_wrapping_key")
CURRENT, NON_CURRENT, PENDING = "CURRENT", "NON_CURRENT", "PENDING_ROTATION"


def current(kms: Speaker, key: str) -> str:
    """The id of the material that the key encrypts with."""
    return str(kms.say("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"])


def rotations(kms: Speaker, key: str, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kms.say("ListKeyRotations", KeyId=key, **more)["Rotations"]
    return found


def material_of(kms: Speaker, blob: bytes) -> str:
    """The id of the material that opened a blob."""
    return str(kms.say("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT)["KeyMaterialId"])


def test_old_blobs_open_after_rotation(kms: Speaker) -> None:
    """After each of many rotations new blobs are under new material, and old ones open by the one that made them."""
    key = kms.key()
    made = [(current(kms, key), kms.wrapped(key))]
    plaintexts = [kms.opened(made[0][1])]

    for _ in range(5):
        kms.now += 1
        assert kms.say("RotateKeyOnDemand", KeyId=key) == {"KeyId": key.rpartition("/")[2]}
        made.append((current(kms, key), kms.wrapped(key)))
        plaintexts.append(kms.opened(made[-1][1]))

    assert len({material for material, _ in made}) == 6
    assert [material_of(kms, blob) for _, blob in made] == [material for material, _ in made]
    assert [kms.opened(blob) for _, blob in made] == plaintexts


def test_rotated_material_is_other_material(kms: Speaker) -> None:
    """A blob does not open under the material that came after it: rotation is not a new name for the same bytes."""
    key = kms.key()
    before = bytearray(kms.wrapped(key))
    kms.say("RotateKeyOnDemand", KeyId=key)
    after = kms.wrapped(key)

    before[20:52] = after[20:52]

    refused = kms.refusal("Decrypt", CiphertextBlob=bytes(before), EncryptionContext=CONTEXT)
    assert refused.kind == "InvalidCiphertextException"


@pytest.mark.parametrize(("asked", "days"), [({}, 365), ({"RotationPeriodInDays": 90}, 90)])
def test_automatic_rotation(asked: dict[str, int], days: int, kms: Speaker) -> None:
    """Enabled, rotation happens at the first request after its date, once, and sets the next."""
    key = kms.key()
    kms.say("EnableKeyRotation", KeyId=key, **asked)
    first, blob = current(kms, key), kms.wrapped(key)

    assert kms.say("GetKeyRotationStatus", KeyId=key) == {
        "KeyId": key.rpartition("/")[2],
        "KeyRotationEnabled": True,
        "RotationPeriodInDays": days,
        "NextRotationDate": START + days * DAY,
    }
    kms.now = START + days * DAY - 1
    assert current(kms, key) == first
    kms.now += 1
    second = current(kms, key)
    assert current(kms, key) == second != first

    assert rotations(kms, key) == [
        {
            "KeyId": key.rpartition("/")[2],
            "KeyMaterialId": second,
            "KeyMaterialState": CURRENT,
            "RotationDate": kms.now,
            "RotationType": "AUTOMATIC",
        }
    ]
    assert kms.say("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START + 2 * days * DAY
    assert len(kms.opened(blob)) == 64


def test_rotation_that_was_missed_for_long(kms: Speaker) -> None:
    """Nobody asked for years: there is one rotation, and the next date is the next of the series."""
    key = kms.key()
    kms.say("EnableKeyRotation", KeyId=key, RotationPeriodInDays=100)

    kms.now += 1050 * DAY

    assert len(rotations(kms, key)) == 1
    assert kms.say("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START + 1100 * DAY


def test_the_managed_key_rotates_yearly(kms: Speaker) -> None:
    """The AWS managed key rotates every 365 days, says so, and nobody can change that."""
    key = kms.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"]
    blob = kms.wrapped(key)

    assert kms.say("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START + 365 * DAY
    for operation in ("EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand"):
        assert kms.refusal(operation, KeyId=key).kind == "AccessDeniedException"
    kms.now += 365 * DAY

    assert [entry["RotationType"] for entry in rotations(kms, key)] == ["AUTOMATIC"]
    assert len(kms.opened(blob)) == 64


def test_disabled_keys_do_not_rotate(kms: Speaker) -> None:
    """A disabled key is not rotated when it is due, but when it is enabled again; its setting stays (API reference)."""
    key = kms.key()
    kms.say("EnableKeyRotation", KeyId=key)
    first = current(kms, key)
    kms.say("DisableKey", KeyId=key)

    kms.now += 400 * DAY
    assert current(kms, key) == first
    assert kms.say("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is True
    kms.say("EnableKey", KeyId=key)

    assert current(kms, key) != first
    assert kms.say("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START + 730 * DAY


def test_keys_pending_deletion_do_not_rotate(kms: Speaker) -> None:
    """Pending deletion, a key's rotation status is false; cancelled and enabled, it is what it was (API reference)."""
    key = kms.key()
    kms.say("EnableKeyRotation", KeyId=key)
    first = current(kms, key)
    kms.now += 360 * DAY
    kms.say("ScheduleKeyDeletion", KeyId=key)

    kms.now += 10 * DAY
    assert kms.say("GetKeyRotationStatus", KeyId=key) == {"KeyId": key.rpartition("/")[2], "KeyRotationEnabled": False}
    assert current(kms, key) == first
    kms.say("CancelKeyDeletion", KeyId=key)
    assert kms.say("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is True
    kms.say("EnableKey", KeyId=key)

    assert current(kms, key) != first


def test_switched_off(kms: Speaker) -> None:
    """Without automatic rotation, as keys are made and after DisableKeyRotation, nothing happens however long."""
    never, no_more = kms.key(), kms.key()
    kms.say("EnableKeyRotation", KeyId=no_more)
    kms.say("DisableKeyRotation", KeyId=no_more)

    kms.now += 3000 * DAY

    for key in (never, no_more):
        assert kms.say("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is False
        assert rotations(kms, key) == []


def test_period_changed(kms: Speaker) -> None:
    """Enabling again with the same period leaves the date, with another it counts from now."""
    key = kms.key()
    kms.say("EnableKeyRotation", KeyId=key, RotationPeriodInDays=200)
    kms.now += 50 * DAY

    kms.say("EnableKeyRotation", KeyId=key, RotationPeriodInDays=200)
    unchanged = kms.say("GetKeyRotationStatus", KeyId=key)["NextRotationDate"]
    kms.say("EnableKeyRotation", KeyId=key, RotationPeriodInDays=300)

    assert unchanged == START + 200 * DAY
    assert kms.say("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == START + 350 * DAY


def test_on_demand_leaves_the_schedule(kms: Speaker) -> None:
    """A rotation on demand changes nothing of the automatic schedule."""
    key = kms.key()
    kms.say("EnableKeyRotation", KeyId=key)
    kms.now += 300 * DAY

    kms.say("RotateKeyOnDemand", KeyId=key)
    kms.now = START + 365 * DAY

    assert [entry["RotationType"] for entry in rotations(kms, key)] == ["ON_DEMAND", "AUTOMATIC"]


@pytest.mark.parametrize("days", [89, 2561])
def test_periods_out_of_range(days: int, kms: Speaker) -> None:
    """A period outside 90 to 2560 days is refused with the field's name."""
    refused = kms.refusal("EnableKeyRotation", KeyId=kms.key(), RotationPeriodInDays=days)

    assert refused.kind == "ValidationException"
    assert "'rotationPeriodInDays'" in refused.message


def test_quota_of_rotations_on_demand(kms: Speaker) -> None:
    """A key is rotated on demand 25 times and no more; automatic rotations do not count."""
    key = kms.key()
    kms.say("EnableKeyRotation", KeyId=key)
    kms.now += 365 * DAY
    for _ in range(rotation.ON_DEMAND):
        kms.say("RotateKeyOnDemand", KeyId=key)

    assert rotation.ON_DEMAND == 25
    assert kms.refusal("RotateKeyOnDemand", KeyId=key).kind == "LimitExceededException"
    assert len(rotations(kms, key)) == 26


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (1000, [4])])
def test_listed_in_pages(limit: int, sizes: list[int], kms: Speaker) -> None:
    """ListKeyRotations comes in pages, the oldest first; ALL_KEY_MATERIAL has the first material too."""
    key = kms.key()
    for _ in range(3):
        kms.say("RotateKeyOnDemand", KeyId=key)

    pages: list[list[dict[str, Any]]] = []
    more: dict[str, Any] = {}
    while len(pages) < 10:
        page = kms.say("ListKeyRotations", KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL", Limit=limit, **more)
        pages.append(page["Rotations"])
        if not page["Truncated"]:
            break
        more = {"Marker": page["NextMarker"]}
    entries = [entry for page in pages for entry in page]

    assert [len(page) for page in pages] == sizes
    assert [entry["KeyMaterialState"] for entry in entries] == [NON_CURRENT, NON_CURRENT, NON_CURRENT, CURRENT]
    assert [entry["KeyMaterialId"] for entry in entries[1:]] == [
        entry["KeyMaterialId"] for entry in rotations(kms, key)
    ]
    assert "RotationDate" not in entries[0]


@pytest.mark.parametrize(
    "operation",
    ["EnableKeyRotation", "DisableKeyRotation", "GetKeyRotationStatus", "RotateKeyOnDemand", "ListKeyRotations"],
)
def test_keys_that_do_not_rotate(operation: str, kms: Speaker) -> None:
    """Asymmetric and HMAC keys do not rotate, and are refused with their spec."""
    key = kms.key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")

    refused = kms.refusal(operation, KeyId=key)

    assert refused.kind == "UnsupportedOperationException"
    assert "HMAC_256" in refused.message


def test_imported_material_rotated_in(kms: Speaker) -> None:
    """New imported material waits, and is what the key encrypts with after RotateKeyOnDemand; old blobs open."""
    key = kms.key(Origin="EXTERNAL")
    first = imported(kms, key, b"1" * 32)
    blob = kms.wrapped(key)

    assert kms.refusal("RotateKeyOnDemand", KeyId=key).kind == "KMSInvalidStateException"
    second = imported(kms, key, b"2" * 32, ImportType="NEW_KEY_MATERIAL", KeyMaterialDescription="next", **FOREVER)
    waiting = rotations(kms, key, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    assert current(kms, key) == first
    kms.say("RotateKeyOnDemand", KeyId=key)

    assert [(entry["KeyMaterialId"], entry["KeyMaterialState"]) for entry in waiting] == [
        (first, CURRENT),
        (second, PENDING),
    ]
    assert (waiting[1]["ImportState"], waiting[1]["KeyMaterialDescription"]) == ("IMPORTED", "next")
    assert current(kms, key) == second
    assert material_of(kms, blob) == first
    assert material_of(kms, kms.wrapped(key)) == second
    again = kms.refusal("RotateKeyOnDemand", KeyId=key)
    assert again.message == f"No available key material pending rotation for the key: {key}."


def test_restart_finds_all_materials(kms: Speaker) -> None:
    """All materials of a key are there for the next process."""
    key = kms.key()
    blobs = [kms.wrapped(key)]
    for _ in range(3):
        kms.say("RotateKeyOnDemand", KeyId=key)
        blobs.append(kms.wrapped(key))
    kms.close()

    again = Speaker(kms.settings)

    assert all(len(again.opened(blob)) == 64 for blob in blobs)
    assert base64.b64encode(blobs[0]) != base64.b64encode(blobs[1])
    again.close()

"""EC2's actions on snapshots: what they answer, checked by botocore's model, and what they refuse."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ebscrypt.api.ec2 import snapshots as module
from ebscrypt.control import storing
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.start_snapshot import StartRequest, start_snapshot
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import MIB, Volume
from tests.unit.api.ec2_snapshots.caller import NO_SNAPSHOT, Caller
from tests.unit.control.storing_inline import Started

MALFORMED, NOT_FOUND = "InvalidSnapshotID.Malformed", "InvalidSnapshot.NotFound"
INSTANCE = {"InstanceId": instance_id()}


def tags(kind: str = "snapshot", **named: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in named.items()]}]


def made(call: Caller, volume: Volume, **request: Any) -> str:
    """A completed snapshot."""
    snapshot_id = str(call("CreateSnapshot", VolumeId=volume.volume_id, **request)["SnapshotId"])
    storing.settle_snapshot(call.site, snapshot_id)
    return snapshot_id


def ids(answer: dict[str, Any]) -> set[str]:
    return {snapshot["SnapshotId"] for snapshot in answer["Snapshots"]}


def test_the_life_of_a_snapshot(call: Caller, volume: Volume, started: Started) -> None:
    """Pending when it is answered, shown completed when its blocks are stored, gone when it is deleted."""
    asked = {"VolumeId": volume.volume_id, "Description": "before", "TagSpecifications": tags(a="b")}
    assert call.code("CreateSnapshot", DryRun=True, **asked) == "DryRunOperation"
    assert call("DescribeSnapshots")["Snapshots"] == []
    snapshot = call("CreateSnapshot", **asked)
    snapshot_id = snapshot["SnapshotId"]
    assert (snapshot["State"], snapshot["Progress"], snapshot["Encrypted"]) == ("pending", "0%", False)
    assert (snapshot["VolumeSize"], snapshot["Description"]) == (1, "before")
    assert snapshot["Tags"] == [{"Key": "a", "Value": "b"}]
    assert snapshot["OwnerId"] == call.site.settings.kms.account
    assert started.snapshot_ids == [snapshot_id]
    assert call.code("CreateSnapshot", VolumeId=volume.volume_id) == "ConcurrentSnapshotLimitExceeded"

    storing.settle_snapshot(call.site, snapshot_id)
    shown = call.shown(snapshot_id)
    assert (shown["State"], shown["Progress"]) == ("completed", "100%")
    assert shown["CompletionTime"] >= shown["StartTime"] == snapshot["StartTime"]

    assert call.code("DeleteSnapshot", SnapshotId=snapshot_id, DryRun=True) == "DryRunOperation"
    assert ids(call("DescribeSnapshots")) == {snapshot_id}
    assert call("DeleteSnapshot", SnapshotId=snapshot_id) == {}
    assert call.code("DeleteSnapshot", SnapshotId=snapshot_id) == NOT_FOUND
    assert call("DescribeSnapshots")["Snapshots"] == []


def test_progress_is_of_blocks_stored(call: Caller, volume: Volume) -> None:
    """In whole percent, and a hundred only when it is completed."""
    snapshot_id = call("CreateSnapshot", VolumeId=volume.volume_id)["SnapshotId"]
    for done, shown in ((0, "0%"), (429, "42%"), (1000, "99%")):
        call.site.catalog.snapshots.progress(snapshot_id, done, 1000)
        assert call.shown(snapshot_id)["Progress"] == shown


def test_looking_gives_an_interrupted_snapshot_another_process(
    call: Caller, volume: Volume, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every command does: a waiter would wait for ever otherwise. Looking often does not start many."""
    snapshot_id = call("CreateSnapshot", VolumeId=volume.volume_id)["SnapshotId"]
    for _ in range(20):
        call("DescribeSnapshots")
    assert started.snapshot_ids == [snapshot_id] * 2

    later = time.monotonic() + 10
    monkeypatch.setattr(time, "monotonic", lambda: later)
    call("DescribeSnapshots")
    assert started.snapshot_ids == [snapshot_id] * 3


def test_one_whose_deletion_has_begun_is_not_shown(call: Caller, volume: Volume) -> None:
    """Not in a listing, and not by its id."""
    snapshot_id = made(call, volume)
    call.site.catalog.snapshots.begin_deletion(snapshot_id)
    assert call("DescribeSnapshots")["Snapshots"] == []
    assert call.code("DescribeSnapshots", SnapshotIds=[snapshot_id]) == NOT_FOUND


def test_one_of_no_volume_is_shown_as_ec2_does(call: Caller) -> None:
    """EBS direct's StartSnapshot makes it of nothing."""
    snapshot_id = start_snapshot(call.site, StartRequest(volume_size=3)).snapshot_id
    shown = call.shown(snapshot_id)
    assert (shown["VolumeId"], shown["VolumeSize"], shown["State"]) == ("vol-ffffffff", 3, "pending")


def test_filters_owners_and_pages(call: Caller, volume: Volume) -> None:
    """Filters with wildcards, tags, owners; a token goes on where the page ended, and is good for its listing only."""
    sealed = create_volume(call.site, VolumeRequest(size=8 * MIB, encrypted=True))
    plain = {made(call, volume, Description=f"night {n}", TagSpecifications=tags(n=str(n))) for n in range(5)}
    secret = made(call, sealed, Description="secret?")
    every = plain | {secret}

    def found(**filters: str) -> set[str]:
        listed = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
        return ids(call("DescribeSnapshots", Filters=listed))

    assert found() == every
    assert found(encrypted="true") == {secret}
    assert found(encrypted="false", description="night*") == plain
    assert found(description="secret\\?") == found(volume_id=sealed.volume_id) == {secret}
    assert found(description="nigh? ?", status="completed", progress="100%", volume_size="1") == plain
    assert found(tag_key="n") == plain
    assert ids(call("DescribeSnapshots", Filters=[{"Name": "tag:n", "Values": ["0", "1"]}])) < plain
    assert found(owner_alias="amazon") == found(status="pending") == set()
    assert found(owner_id=call.site.settings.kms.account, storage_tier="standard") == every
    assert call.shown(secret)["KmsKeyId"] == sealed.kms_key_arn

    for mine in ("self", call.site.settings.kms.account):
        assert ids(call("DescribeSnapshots", OwnerIds=[mine], RestorableByUserIds=[mine])) == every
    for other in ("amazon", "999999999999"):
        assert call("DescribeSnapshots", OwnerIds=[other])["Snapshots"] == []
    assert call("DescribeSnapshots", RestorableByUserIds=["all"])["Snapshots"] == []

    first = call("DescribeSnapshots", MaxResults=5)
    rest = call("DescribeSnapshots", MaxResults=5, NextToken=first["NextToken"])
    assert ids(first) | ids(rest) == every
    assert (len(first["Snapshots"]), len(rest["Snapshots"]), "NextToken" in rest) == (5, 1, False)
    assert call.code("DescribeSnapshots", OwnerIds=["self"], NextToken=first["NextToken"]) == "InvalidNextToken"
    assert call.code("DescribeSnapshots", DryRun=True) == "DryRunOperation"


VOLUME = "vol-00000000000000000"


@pytest.mark.parametrize(
    ("action", "request_", "code"),
    [
        ("CreateSnapshot", {"VolumeId": "snap-1"}, "InvalidVolumeID.Malformed"),
        ("CreateSnapshot", {"VolumeId": "vol-xyz"}, "InvalidVolumeID.Malformed"),
        ("CreateSnapshot", {"VolumeId": VOLUME}, "InvalidVolume.NotFound"),
        ("CreateSnapshot", {"VolumeId": "vol-00000000"}, "InvalidVolume.NotFound"),
        ("CreateSnapshot", {"VolumeId": VOLUME, "OutpostArn": "arn:aws:outposts"}, "UnsupportedOperation"),
        ("CreateSnapshot", {"VolumeId": VOLUME, "Location": "local"}, "UnsupportedOperation"),
        ("CreateSnapshot", {"VolumeId": VOLUME, "Description": "x" * 256}, "InvalidParameterValue"),
        ("CreateSnapshot", {"VolumeId": VOLUME, "TagSpecifications": tags("volume", a="b")}, "InvalidParameterValue"),
        ("CreateSnapshot", {"VolumeId": VOLUME, "TagSpecifications": tags(**{"aws:a": "b"})}, "InvalidParameterValue"),
        ("CreateSnapshot", {"VolumeId": VOLUME, "TagSpecifications": tags(a="b") * 2}, "InvalidParameterValue"),
        ("CreateSnapshot", {"VolumeId": VOLUME, "TagSpecifications": tags(a="b" * 257)}, "InvalidParameterValue"),
        (
            "CreateSnapshot",
            {"VolumeId": VOLUME, "TagSpecifications": tags(**{str(n): "" for n in range(51)})},
            "TagLimitExceeded",
        ),
        ("CreateSnapshots", {"InstanceSpecification": {"InstanceId": "x"}}, "InvalidInstanceID.Malformed"),
        ("CreateSnapshots", {"InstanceSpecification": {"InstanceId": "i-0"}}, "InvalidInstanceID.NotFound"),
        ("CreateSnapshots", {"InstanceSpecification": INSTANCE}, "InvalidParameterValue"),
        (
            "CreateSnapshots",
            {"InstanceSpecification": INSTANCE | {"ExcludeDataVolumeIds": [VOLUME]}},
            "InvalidVolume.NotFound",
        ),
        ("DeleteSnapshot", {"SnapshotId": "snap-"}, MALFORMED),
        ("DeleteSnapshot", {"SnapshotId": "snap-../../../../etc"}, MALFORMED),
        ("DeleteSnapshot", {"SnapshotId": VOLUME}, MALFORMED),
        ("DeleteSnapshot", {"SnapshotId": NO_SNAPSHOT}, NOT_FOUND),
        ("DescribeSnapshots", {"SnapshotIds": ["snap-0"]}, MALFORMED),
        ("DescribeSnapshots", {"SnapshotIds": [NO_SNAPSHOT]}, NOT_FOUND),
        ("DescribeSnapshots", {"SnapshotIds": ["snap-00000000"]}, NOT_FOUND),
        ("DescribeSnapshots", {"OwnerIds": ["me"]}, "InvalidUserID.Malformed"),
        ("DescribeSnapshots", {"MaxResults": 4}, "InvalidParameterValue"),
        ("DescribeSnapshots", {"NextToken": "x"}, "InvalidNextToken"),
        ("DescribeSnapshots", {"Filters": [{"Name": "colour", "Values": ["red"]}]}, "InvalidParameterValue"),
        ("DescribeSnapshotAttribute", {"SnapshotId": NO_SNAPSHOT, "Attribute": "productCodes"}, NOT_FOUND),
        ("ResetSnapshotAttribute", {"SnapshotId": NO_SNAPSHOT, "Attribute": "createVolumePermission"}, NOT_FOUND),
    ],
    ids=range(29),
)
def test_refusals(call: Caller, action: str, request_: dict[str, Any], code: str) -> None:
    """Each with EC2's code, before anything is made."""
    assert call.code(action, **request_) == code
    assert call("DescribeSnapshots")["Snapshots"] == []


def test_texts_that_clients_look_for(call: Caller) -> None:
    """As EC2 words them."""
    assert call.refused("DescribeSnapshots", SnapshotIds=[NO_SNAPSHOT])[1] == (
        f"The snapshot '{NO_SNAPSHOT}' does not exist."
    )
    assert call.refused("CreateSnapshot", VolumeId=VOLUME)[1] == f"The volume '{VOLUME}' does not exist."


def test_of_several_volumes_all_get_one_or_none(call: Caller, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second is refused the first is taken back; else tags of the source and of the request are on each."""
    other = create_volume(call.site, VolumeRequest(size=8 * MIB, encrypted=False))
    monkeypatch.setattr(module, "_wanted", lambda *_: [volume, other])
    blocking = call("CreateSnapshot", VolumeId=other.volume_id)["SnapshotId"]
    asked = {
        "InstanceSpecification": INSTANCE,
        "CopyTagsFromSource": "volume",
        "TagSpecifications": tags(a="b"),
    }

    assert call.code("CreateSnapshots", **asked) == "ConcurrentSnapshotLimitExceeded"
    assert ids(call("DescribeSnapshots")) == {blocking}

    call("DeleteSnapshot", SnapshotId=blocking)
    assert call.code("CreateSnapshots", DryRun=True, **asked) == "DryRunOperation"
    first, second = call("CreateSnapshots", **asked)["Snapshots"]
    assert (first["VolumeId"], second["VolumeId"]) == (volume.volume_id, other.volume_id)
    assert {"Key": "made", "Value": "by hand"} in first["Tags"]
    assert second["Tags"] == [{"Key": "a", "Value": "b"}]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"OperationType": "add", "UserIds": ["999999999999"]}, "UnsupportedOperation"),
        ({"CreateVolumePermission": {"Add": [{"Group": "all"}]}}, "UnsupportedOperation"),
        ({"OperationType": "add", "UserIds": ["bob"]}, "InvalidUserID.Malformed"),
        ({"OperationType": "add", "UserIds": []}, "MissingParameter"),
        ({"UserIds": ["999999999999"]}, "MissingParameter"),
        ({"Attribute": "productCodes", "OperationType": "remove", "UserIds": ["1"]}, "InvalidParameterValue"),
        (
            {"CreateVolumePermission": {"Add": [{"Group": "all"}], "Remove": [{"UserId": "999999999999"}]}},
            "InvalidParameterCombination",
        ),
        (
            {"CreateVolumePermission": {"Remove": [{"Group": "all"}]}, "OperationType": "add"},
            "InvalidParameterCombination",
        ),
        ({"OperationType": "remove", "UserIds": ["999999999999"] * 501}, "InvalidParameterValue"),
        ({"OperationType": "remove", "UserIds": ["999999999999"], "DryRun": True}, "DryRunOperation"),
    ],
    ids=range(10),
)
def test_permissions_that_are_refused(call: Caller, volume: Volume, request_: dict[str, Any], code: str) -> None:
    """Nobody else is here to share with; what EC2 refuses has its code."""
    assert call.code("ModifySnapshotAttribute", SnapshotId=made(call, volume), **request_) == code


def test_sharing_what_is_encrypted(call: Caller) -> None:
    """Under the AWS managed key with nobody, under another with accounts only (facts §1.8)."""
    key = str(call.site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    managed = made(call, create_volume(call.site, VolumeRequest(size=8 * MIB, encrypted=True)))
    own = made(call, create_volume(call.site, VolumeRequest(size=8 * MIB, encrypted=True, kms_key_id=key)))
    account = {"OperationType": "add", "UserIds": ["999999999999"]}

    assert call.refused("ModifySnapshotAttribute", SnapshotId=managed, **account) == (
        "OperationNotPermitted",
        "Encrypted snapshots with EBS default key cannot be shared",
    )
    everybody = {"OperationType": "add", "GroupNames": ["all"]}
    assert call.code("ModifySnapshotAttribute", SnapshotId=own, **everybody) == "OperationNotPermitted"
    assert call.code("ModifySnapshotAttribute", SnapshotId=own, **account) == "UnsupportedOperation"


def test_a_snapshot_is_private_and_stays_so(call: Caller, volume: Volume) -> None:
    """To take back what nobody has is done; the listing of permissions is empty."""
    of = {"SnapshotId": made(call, volume), "Attribute": "createVolumePermission"}
    assert call("ModifySnapshotAttribute", OperationType="remove", GroupNames=["all"], **of) == {}
    assert call("ResetSnapshotAttribute", **of) == {}
    assert call("DescribeSnapshotAttribute", **of)["CreateVolumePermissions"] == []
    assert call("DescribeSnapshotAttribute", **of | {"Attribute": "productCodes"})["ProductCodes"] == []
    assert call.code("ResetSnapshotAttribute", DryRun=True, **of) == "DryRunOperation"

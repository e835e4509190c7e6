"""CopySnapshot: answered at once, refused with EC2's codes; what fails later is told by the copy."""

from __future__ import annotations

from typing import Any

import pytest

from ebscrypt.control import storing
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.model import MIB, Volume
from tests.unit.api.ec2_snapshots.caller import NO_SNAPSHOT, Caller
from tests.unit.control.storing_inline import Started

HERE = "us-east-1"


@pytest.fixture
def source(call: Caller, volume: Volume) -> str:
    """A completed plain snapshot."""
    snapshot_id = str(call("CreateSnapshot", VolumeId=volume.volume_id)["SnapshotId"])
    storing.settle_snapshot(call.site, snapshot_id)
    return snapshot_id


def test_a_copy_is_answered_at_once_and_made_later(call: Caller, source: str, started: Started) -> None:
    """The answer has its id and tags only; the options that clients add by themselves are allowed."""
    asked = {
        "SourceRegion": HERE,
        "SourceSnapshotId": source,
        "Description": "far",
        "TagSpecifications": [{"ResourceType": "snapshot", "Tags": [{"Key": "a", "Value": "b"}]}],
        "DestinationRegion": HERE,
        "PresignedUrl": "https://ec2.us-east-1.amazonaws.com/?Action=CopySnapshot",
    }
    assert call.code("CopySnapshot", DryRun=True, **asked) == "DryRunOperation"
    assert len(call("DescribeSnapshots")["Snapshots"]) == 1
    answer = call("CopySnapshot", **asked)
    copy_id = answer["SnapshotId"]
    assert answer == {"SnapshotId": copy_id, "Tags": [{"Key": "a", "Value": "b"}]}
    shown = call.shown(copy_id)
    assert (shown["State"], shown["Progress"], shown["Description"]) == ("pending", "0%", "far")
    assert copy_id in started.snapshot_ids

    storing.settle_snapshot(call.site, copy_id)
    shown = call.shown(copy_id)
    assert (shown["State"], shown["TransferType"], shown["Encrypted"]) == ("completed", "standard", False)
    call("DeleteSnapshot", SnapshotId=source)
    assert call.shown(copy_id)["State"] == "completed"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"SourceSnapshotId": "snap"}, "InvalidSnapshotID.Malformed"),
        ({"SourceSnapshotId": NO_SNAPSHOT}, "InvalidSnapshot.NotFound"),
        ({"SourceRegion": "eu-north-1"}, "InvalidParameterValue"),
        ({"DestinationRegion": "eu-north-1"}, "InvalidParameterValue"),
        ({"KmsKeyId": "alias/aws/ebs"}, "InvalidParameterDependency"),
        ({"KmsKeyId": "alias/aws/ebs", "DryRun": True}, "InvalidParameterDependency"),
        ({"KmsKeyId": "no key", "Encrypted": True}, "InvalidParameterValue"),
        ({"Encrypted": False, "KmsKeyId": "alias/aws/ebs"}, "InvalidParameterDependency"),
        ({"Description": "x" * 256}, "InvalidParameterValue"),
        ({"CompletionDurationMinutes": 15}, "UnsupportedOperation"),
        ({"DestinationAvailabilityZone": "us-east-1-lax-1a"}, "UnsupportedOperation"),
        ({"DestinationOutpostArn": "arn:aws:outposts"}, "UnsupportedOperation"),
    ],
    ids=range(12),
)
def test_refusals(call: Caller, source: str, changed: dict[str, Any], code: str) -> None:
    """Each with EC2's code, before there is a copy."""
    request = {"SourceRegion": HERE, "SourceSnapshotId": source} | changed
    assert call.code("CopySnapshot", **request) == code
    assert len(call("DescribeSnapshots")["Snapshots"]) == 1


def test_a_source_that_is_pending_is_refused(call: Caller, volume: Volume) -> None:
    """There is nothing yet to copy."""
    pending = call("CreateSnapshot", VolumeId=volume.volume_id)["SnapshotId"]
    assert call.code("CopySnapshot", SourceRegion=HERE, SourceSnapshotId=pending) == "IncorrectState"


def test_a_key_that_cannot_be_used_is_told_by_the_copy(call: Caller, source: str) -> None:
    """HTTP 200 and an id; then ``error`` with EC2's words (facts §1.7)."""
    key = str(call.site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    call.site.kms.call("DisableKey", KeyId=key)
    request = {"SourceRegion": HERE, "SourceSnapshotId": source, "Encrypted": True}
    for named in (key, "alias/nobody"):
        copy_id = call("CopySnapshot", KmsKeyId=named, **request)["SnapshotId"]
        storing.settle_snapshot(call.site, copy_id)
        shown = call.shown(copy_id)
        assert shown["State"] == "error"
        assert shown["StateMessage"].startswith("Given key ID is not accessible: ")


def test_more_copies_than_may_be_are_refused(call: Caller, source: str) -> None:
    """Twenty in one destination Region."""
    request = {"SourceRegion": HERE, "SourceSnapshotId": source}
    for _ in range(20):
        call("CopySnapshot", **request)
    assert call.code("CopySnapshot", **request) == "ResourceLimitExceeded"


def test_what_is_encrypted_has_encrypted_copies_only(call: Caller) -> None:
    """``Encrypted`` false is refused."""
    volume = create_volume(call.site, VolumeRequest(size=8 * MIB, encrypted=True))
    source = call("CreateSnapshot", VolumeId=volume.volume_id)["SnapshotId"]
    storing.settle_snapshot(call.site, source)
    request = {"SourceRegion": HERE, "SourceSnapshotId": source, "Encrypted": False}
    assert call.code("CopySnapshot", **request).startswith("InvalidParameter")

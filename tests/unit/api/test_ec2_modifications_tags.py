"""ModifyVolume with its listing, the attributes, and tags of volumes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.in_process import refused


@pytest.fixture
def volume_id(ec2: Any) -> str:
    return str(ec2.create_volume(AvailabilityZone="us-east-1a", Size=2, Encrypted=True)["VolumeId"])


def test_a_volume_grows_and_gets_another_type(ec2: Any, volume_id: str) -> None:
    """The answer says ``modifying``, the listing ``completed``; original and target are what they were."""
    assert refused(ec2.describe_volumes_modifications, VolumeIds=[volume_id])[0] == "InvalidVolumeModification.NotFound"
    assert ec2.describe_volumes_modifications()["VolumesModifications"] == []
    answer = ec2.modify_volume(VolumeId=volume_id, Size=8, VolumeType="gp3", Iops=3500, Throughput=250)
    assert answer["VolumeModification"]["ModificationState"] == "modifying"
    (shown,) = ec2.describe_volumes_modifications(VolumeIds=[volume_id])["VolumesModifications"]
    assert (shown["ModificationState"], shown["Progress"]) == ("completed", 100)
    assert (shown["OriginalSize"], shown["OriginalVolumeType"], shown["OriginalIops"]) == (2, "gp2", 100)
    assert (shown["TargetSize"], shown["TargetVolumeType"], shown["TargetIops"]) == (8, "gp3", 3500)
    (volume,) = ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["VolumeType"], volume["Iops"], volume["Throughput"]) == (8, "gp3", 3500, 250)

    ec2.modify_volume(VolumeId=volume_id, Size=9)
    (volume,) = ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["Iops"], volume["Throughput"]) == (9, 3500, 250)
    ec2.modify_volume(VolumeId=volume_id, VolumeType="gp2")
    (volume,) = ec2.describe_volumes()["Volumes"]
    assert (volume["VolumeType"], volume["Iops"], "Throughput" in volume) == ("gp2", 100, False)
    wanted = [{"Name": "target-volume-type", "Values": ["gp2"]}]
    assert len(ec2.describe_volumes_modifications(Filters=wanted)["VolumesModifications"]) == 1


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({"Size": 1}, "InvalidParameterValue", "New size cannot be smaller than existing size"),
        ({"Size": 20000}, "InvalidParameterValue", "too large for volume type gp2"),
        ({"VolumeType": "io1", "Size": 4}, "InvalidParameterCombination", "The parameter iops must be specified"),
        ({"VolumeType": "st1"}, "InvalidParameterValue", "too small for volume type st1"),
        ({"Iops": 200}, "InvalidParameterCombination", "not supported for gp2"),
        ({"MultiAttachEnabled": True, "Size": 3}, "UnsupportedOperation", "attached once"),
        ({}, "InvalidParameterCombination", "At least one of"),
        ({"Size": 3, "DryRun": True}, "DryRunOperation", "would have succeeded"),
    ],
)
def test_a_modification_is_refused(ec2: Any, volume_id: str, request_: dict[str, Any], code: str, message: str) -> None:
    """By the rules of the type; then the volume is as it was, and has no modification."""
    before = ec2.describe_volumes()["Volumes"]
    told = refused(ec2.modify_volume, VolumeId=volume_id, **request_)
    assert told[0] == code
    assert message in told[1]
    assert ec2.describe_volumes()["Volumes"] == before
    assert ec2.describe_volumes_modifications()["VolumesModifications"] == []


def test_attributes(ec2: Any, volume_id: str) -> None:
    """``autoEnableIO`` is off until it is set; there are no product codes."""

    def enabled() -> bool:
        answer = ec2.describe_volume_attribute(VolumeId=volume_id, Attribute="autoEnableIO")
        return bool(answer["AutoEnableIO"]["Value"])

    assert not enabled()
    ec2.modify_volume_attribute(VolumeId=volume_id, AutoEnableIO={"Value": True})
    assert enabled()
    assert ec2.describe_volume_attribute(VolumeId=volume_id, Attribute="productCodes")["ProductCodes"] == []
    assert refused(ec2.modify_volume_attribute, VolumeId=volume_id)[0] == "InvalidParameterCombination"


def listed(ec2: Any, **filters: str) -> dict[str, str]:
    wanted = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
    return {tag["Key"]: tag["Value"] for tag in ec2.describe_tags(Filters=wanted)["Tags"]}


def test_tags(ec2: Any, volume_id: str) -> None:
    """Set, replaced, found, and deleted: by key, by key and value only where it is that, all."""
    tags = [{"Key": key, "Value": value} for key, value in {"a": "1", "b": "2", "c": "", "d": "4"}.items()]
    ec2.create_tags(Resources=[volume_id], Tags=tags)
    ec2.create_tags(Resources=[volume_id], Tags=[{"Key": "a", "Value": "one"}])
    assert listed(ec2, resource_id=volume_id) == {"a": "one", "b": "2", "c": "", "d": "4"}
    assert listed(ec2, key="a", resource_type="volume") == {"a": "one"}
    assert listed(ec2, value="?") == {"b": "2", "d": "4"}
    assert listed(ec2, resource_type="snapshot") == {}
    ec2.delete_tags(
        Resources=[volume_id], Tags=[{"Key": "a"}, {"Key": "b", "Value": "other"}, {"Key": "c", "Value": ""}]
    )
    assert listed(ec2) == {"b": "2", "d": "4"}
    ec2.delete_tags(Resources=[volume_id])
    assert listed(ec2) == {}


@pytest.mark.parametrize(
    ("resources", "tags", "code"),
    [
        (["vol-00000000000000000"], {"a": ""}, "InvalidVolume.NotFound"),
        (["snap-00000000000000000"], {"a": ""}, "InvalidSnapshot.NotFound"),
        (["i-1"], {"a": ""}, "InvalidID"),
        ([], {"AWS:x": ""}, "InvalidParameterValue"),
        ([], {"k" * 128: ""}, "InvalidParameterValue"),
        ([], {"k": "v" * 257}, "InvalidParameterValue"),
        ([], {str(number): "" for number in range(50)}, "TagLimitExceeded"),
    ],
)
def test_tags_that_are_refused(ec2: Any, volume_id: str, resources: list[str], tags: dict[str, str], code: str) -> None:
    """One resource that is not there, or one tag too many, and none of the resources is changed."""
    ec2.create_tags(Resources=[volume_id], Tags=[{"Key": "kept", "Value": ""}])
    asked = [{"Key": key, "Value": value} for key, value in tags.items()]
    assert refused(ec2.create_tags, Resources=[volume_id, *resources], Tags=asked)[0] == code
    assert listed(ec2) == {"kept": ""}

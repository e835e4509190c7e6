"""AttachVolume, DetachVolume, DescribeInstances: what is refused before anything is attached."""

from __future__ import annotations

from typing import Any

import pytest

from ebscrypt.config import Settings
from ebscrypt.control.site import Site
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import VolumeState
from tests.unit.api.in_process import refused

HERE = {"InstanceId": instance_id()}


@pytest.fixture
def volume_id(ec2: Any) -> str:
    return str(ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"])


def test_this_machine_is_the_instance(ec2: Any, volume_id: str) -> None:
    """There is one, with its id and zone; nothing is attached to it."""
    (reservation,) = ec2.describe_instances(InstanceIds=[instance_id()])["Reservations"]
    (instance,) = reservation["Instances"]
    assert (instance["InstanceId"], instance["State"]["Name"]) == (instance_id(), "running")
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1a"
    assert instance["BlockDeviceMappings"] == []
    stopped = [{"Name": "instance-state-name", "Values": ["stopped"]}]
    assert ec2.describe_instances(Filters=stopped)["Reservations"] == []
    assert refused(ec2.describe_instances, InstanceIds=["i-00000000000000000"])[0] == "InvalidInstanceID.NotFound"
    assert volume_id.startswith("vol-")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"InstanceId": "i-00000000000000000"}, "InvalidInstanceID.NotFound"),
        ({"InstanceId": "x"}, "InvalidInstanceID.Malformed"),
        ({"Device": "/dev/null"}, "InvalidParameterValue"),
        ({"Device": "../sdf"}, "InvalidParameterValue"),
        ({"EbsCardIndex": 1}, "UnsupportedOperation"),
        ({"DryRun": True}, "DryRunOperation"),
    ],
)
def test_attach_is_refused(ec2: Any, volume_id: str, request_: dict[str, Any], code: str) -> None:
    """An instance that is not this one, a name that no device has, what there is not."""
    asked = {"VolumeId": volume_id, "Device": "/dev/sdf"} | HERE | request_
    assert refused(ec2.attach_volume, **asked)[0] == code
    assert ec2.describe_volumes()["Volumes"][0]["State"] == "available"


def test_what_needs_another_state(ec2: Any, volume_id: str, settings: Settings) -> None:
    """An available volume cannot be detached; one in use neither attached again nor deleted."""
    assert refused(ec2.detach_volume, VolumeId=volume_id) == (
        "IncorrectState",
        f"Volume '{volume_id}' is in the 'available' state.",
    )
    with Site(settings) as site:
        site.catalog.change_state(volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    assert refused(ec2.attach_volume, VolumeId=volume_id, Device="/dev/sdf", **HERE) == (
        "VolumeInUse",
        f"{volume_id} is already attached to an instance",
    )
    assert refused(ec2.delete_volume, VolumeId=volume_id) == (
        "VolumeInUse",
        f"Volume {volume_id} is currently attached to {instance_id()}",
    )
    with Site(settings) as site:
        site.catalog.change_state(volume_id, VolumeState.IN_USE, VolumeState.AVAILABLE)

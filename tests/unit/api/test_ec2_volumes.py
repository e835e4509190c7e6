"""CreateVolume, DeleteVolume, DescribeVolumes as boto3 uses them: what is made, what is shown, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.config import Settings
from ebscrypt.control import create as creation
from ebscrypt.control.site import Site
from ebscrypt.errors import KmsThrottled, OutOfSpace
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import VolumeState
from tests.unit.api.in_process import Clients, refused

ZONE = {"AvailabilityZone": "us-east-1a"}
NO_VOLUME = "vol-00000000000000000"
DELETED = "The client token you have provided is associated with a resource that is already deleted. "


def create(ec2: Any, **request: Any) -> dict[str, Any]:
    made: dict[str, Any] = ec2.create_volume(**(ZONE | {"Size": 1} | request))
    return made


def described(ec2: Any, **request: Any) -> list[str]:
    return sorted(volume["VolumeId"] for volume in ec2.describe_volumes(**request)["Volumes"])


def where(name: str, *values: str) -> dict[str, Any]:
    return {"Filters": [{"Name": name, "Values": list(values)}]}


def test_a_volume_is_made_shown_and_deleted(ec2: Any, settings: Settings) -> None:
    """Plain unless asked, gp2 unless asked, ``creating`` in the answer then available; and gone with its file."""
    made = create(ec2, TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "web"}]}])
    assert (made["State"], made["Encrypted"], made["VolumeType"], made["Iops"]) == ("creating", False, "gp2", 100)
    assert "KmsKeyId" not in made
    (shown,) = ec2.describe_volumes(VolumeIds=[made["VolumeId"]])["Volumes"]
    assert (shown["State"], shown["Size"], shown["Attachments"]) == ("available", 1, [])
    assert shown["Tags"] == [{"Key": "Name", "Value": "web"}]
    assert shown["CreateTime"] <= datetime.now(UTC)
    assert [path.stem for path in settings.volumes_dir.glob("vol-*.raw")] == [made["VolumeId"]]

    ec2.delete_volume(VolumeId=made["VolumeId"])
    assert refused(ec2.describe_volumes, VolumeIds=[made["VolumeId"]]) == (
        "InvalidVolume.NotFound",
        f"The volume '{made['VolumeId']}' does not exist.",
    )
    assert list(settings.volumes_dir.iterdir()) == []


def test_encryption(ec2: Any, clients: Clients) -> None:
    """Under a key of the caller the answer names its ARN; under the default key only DescribeVolumes does."""
    key = clients.client("kms").create_key()["KeyMetadata"]
    by_id = create(ec2, Encrypted=True, KmsKeyId=key["KeyId"])
    assert (by_id["Encrypted"], by_id["KmsKeyId"]) == (True, key["Arn"])
    by_default = create(ec2, Encrypted=True)
    assert "KmsKeyId" not in by_default
    (shown,) = ec2.describe_volumes(VolumeIds=[by_default["VolumeId"]])["Volumes"]
    assert shown["KmsKeyId"].startswith("arn:aws:kms:us-east-1:")
    assert refused(ec2.create_volume, **ZONE, Size=1, KmsKeyId=key["KeyId"])[0] == "InvalidParameterDependency"


def test_a_key_that_cannot_be_used(ec2: Any, clients: Clients, settings: Settings) -> None:
    """The answer is a volume in ``creating``; then there is none, and its token is of no more use (facts §6.4)."""
    kms = clients.client("kms")
    key = kms.create_key()["KeyMetadata"]
    kms.disable_key(KeyId=key["KeyId"])
    made = create(ec2, Encrypted=True, KmsKeyId=key["Arn"], ClientToken="once")
    assert (made["State"], made["Encrypted"], made["KmsKeyId"]) == ("creating", True, key["Arn"])
    assert refused(ec2.describe_volumes, VolumeIds=[made["VolumeId"]])[0] == "InvalidVolume.NotFound"
    assert described(ec2) == []
    assert list(settings.volumes_dir.glob("*")) == []
    again = refused(ec2.create_volume, **ZONE, Size=1, Encrypted=True, KmsKeyId=key["Arn"], ClientToken="once")
    assert again[0] == "IdempotentParameterMismatch"
    assert again[1].startswith(DELETED)

    unknown = create(ec2, Encrypted=True, KmsKeyId="alias/nobody")
    assert unknown["State"] == "creating"
    assert "KmsKeyId" not in unknown
    assert described(ec2) == []


def test_a_failure_that_passes_may_be_tried_again(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where KMS is throttled, or no space is left, the client hears it, nothing stays, and the token is good still."""
    request = {**ZONE, "Size": 1, "ClientToken": "again"}
    real = creation.create_volume
    for error, code in ((KmsThrottled("slow down"), "RequestLimitExceeded"), (OutOfSpace("full"), "Insufficient")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(creation, "create_volume", fail)
        assert refused(ec2.create_volume, **request)[0].startswith(code)
        assert described(ec2) == []
    monkeypatch.setattr(creation, "create_volume", real)
    made = ec2.create_volume(**request)
    assert described(ec2) == [made["VolumeId"]]


def test_a_token_is_done_once(ec2: Any) -> None:
    """The same request gives the same volume; another one with the token is refused; so is one for a deleted volume."""
    made = create(ec2, ClientToken="t")
    assert create(ec2, ClientToken="t")["VolumeId"] == made["VolumeId"]
    assert described(ec2) == [made["VolumeId"]]
    assert refused(ec2.create_volume, **ZONE, Size=2, ClientToken="t")[0] == "IdempotentParameterMismatch"
    ec2.delete_volume(VolumeId=made["VolumeId"])
    assert refused(ec2.create_volume, **ZONE, Size=1, ClientToken="t")[1].startswith(DELETED)
    assert refused(ec2.create_volume, **ZONE, Size=1, ClientToken="t" * 65)[0] == "InvalidParameterValue"


def test_a_token_whose_server_was_killed(ec2: Any, settings: Settings) -> None:
    """A creation that was interrupted is taken back and done anew by the request that comes again."""
    made = create(ec2, ClientToken="t")
    (path,) = (settings.api_dir / "tokens").iterdir()
    path.write_text(path.read_text().replace('"done":true', '"done":false'))
    assert create(ec2, ClientToken="t")["VolumeId"] == made["VolumeId"]
    with Site(settings) as site:
        volume = site.catalog.volume(made["VolumeId"])
        site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)
        site.catalog.remove(volume.volume_id)
        Path(volume.backing).unlink()
    again = create(ec2, ClientToken="t")["VolumeId"]
    assert again != made["VolumeId"]
    assert described(ec2) == [again]


TABLE = [
    ({"AvailabilityZone": None}, "MissingParameter", "The request must contain the parameter zone"),
    ({"AvailabilityZone": "x"}, "InvalidZone.NotFound", "The zone 'x' does not exist."),
    ({"AvailabilityZone": None, "AvailabilityZoneId": "x"}, "InvalidZone.NotFound", "The zone 'x' does not exist."),
    ({"AvailabilityZoneId": "use1-az1"}, "InvalidParameterCombination", "cannot be given together"),
    ({"Size": None}, "MissingParameter", "The request must contain the parameter size/snapshot"),
    ({"VolumeType": "x"}, "UnknownVolumeType", "Unsupported volume type 'x'"),
    ({"Size": 99999}, "InvalidParameterValue", "Volume of 99999GiB is too large for volume type gp2; maximum is 16384"),
    ({"Size": 0}, "InvalidParameterValue", "Volume of 0GiB is too small for volume type gp2; minimum is 1GiB"),
    ({"VolumeType": "st1"}, "InvalidParameterValue", "Volume of 1GiB is too small for volume type st1"),
    ({"Iops": 100}, "InvalidParameterCombination", "The parameter iops is not supported for gp2 volumes."),
    ({"VolumeType": "io1", "Size": 4}, "InvalidParameterCombination", "iops must be specified for io1 volumes."),
    (
        {"VolumeType": "io1", "Size": 4, "Iops": 50},
        "InvalidParameterValue",
        "Volume iops of 50 is too low; minimum is 100.",
    ),
    ({"VolumeType": "io1", "Size": 4, "Iops": 64001}, "InvalidParameterValue", "maximum is 64000."),
    (
        {"VolumeType": "io1", "Size": 10, "Iops": 600},
        "InvalidParameterValue",
        "Iops to volume size ratio of 60.000000 is too high; maximum is 50",
    ),
    ({"VolumeType": "gp3", "Iops": 3001}, "InvalidParameterValue", "ratio of 3001.000000 is too high; maximum is 500"),
    ({"VolumeType": "gp3", "Throughput": 124}, "InvalidParameterValue", "throughput of 124 is too low; minimum is 125"),
    ({"VolumeType": "gp3", "Throughput": 2001}, "InvalidParameterValue", "maximum is 2000"),
    ({"VolumeType": "gp3", "Throughput": 751}, "InvalidParameterValue", "Throughput (MiBps) to iops ratio"),
    (
        {"VolumeType": "io2", "Size": 4, "Iops": 100, "Throughput": 125},
        "InvalidParameterCombination",
        "The throughput parameter is not supported for io2 volumes.",
    ),
    ({"MultiAttachEnabled": True}, "InvalidParameterCombination", "not supported for gp2 volumes."),
    (
        {"VolumeType": "io2", "Size": 4, "Iops": 100, "MultiAttachEnabled": True},
        "UnsupportedOperation",
        "attached once",
    ),
    ({"OutpostArn": "arn:aws:outposts:x"}, "UnsupportedOperation", "OutpostArn"),
    ({"SnapshotId": "snap-1"}, "InvalidSnapshotID.Malformed", 'Invalid id: "snap-1"'),
    ({"SnapshotId": f"snap-{'0' * 17}"}, "InvalidSnapshot.NotFound", "does not exist."),
    ({"SnapshotId": "snap-12345678"}, "InvalidSnapshot.NotFound", "The snapshot 'snap-12345678' does not exist."),
    ({"TagSpecifications": [{"ResourceType": "snapshot", "Tags": []}]}, "InvalidParameterValue", "taggable resource"),
    ({"TagSpecifications": [{"Tags": [{"Key": "a", "Value": "b"}]}]}, "MissingParameter", "ResourceType"),
    (
        {"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "aws:a", "Value": ""}]}]},
        "InvalidParameterValue",
        "Tag keys starting with 'aws:' are reserved for internal use",
    ),
    (
        {
            "TagSpecifications": [
                {"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}
            ]
        },
        "InvalidParameterValue",
        "Duplicate tag key 'a' specified.",
    ),
    (
        {"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": str(i), "Value": ""} for i in range(51)]}]},
        "TagLimitExceeded",
        "51 tags",
    ),
    ({"DryRun": True}, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."),
]


@pytest.mark.parametrize(("request_", "code", "message"), TABLE, ids=[str(place) for place in range(len(TABLE))])
def test_what_is_refused(ec2: Any, request_: dict[str, Any], code: str, message: str) -> None:
    """Each broken rule of facts §6.3 has EC2's code and text, and nothing is made."""
    asked = {name: value for name, value in (ZONE | {"Size": 1} | request_).items() if value is not None}
    told = refused(ec2.create_volume, **asked)
    assert told[0] == code
    assert message in told[1]
    assert described(ec2) == []


@pytest.mark.parametrize(
    ("request_", "iops", "throughput"),
    [
        ({"VolumeType": "gp2", "Size": 400}, 1200, None),
        ({"VolumeType": "gp2", "Size": 6000}, 16000, None),
        ({"VolumeType": "gp3"}, 3000, 125),
        ({"VolumeType": "gp3", "Size": 200, "Iops": 80000, "Throughput": 2000}, 80000, 2000),
        ({"VolumeType": "gp3", "Iops": 3000, "Throughput": 750}, 3000, 750),
        ({"VolumeType": "io1", "Size": 4, "Iops": 200}, 200, None),
        ({"VolumeType": "io2", "Size": 4, "Iops": 4000}, 4000, None),
        ({"VolumeType": "st1", "Size": 125}, None, None),
        ({"VolumeType": "standard", "Size": 1024}, None, None),
    ],
)
def test_performance_is_kept(ec2: Any, request_: dict[str, Any], iops: int | None, throughput: int | None) -> None:
    """What was asked for, or what the type has, is shown by the answer and by DescribeVolumes."""
    made = create(ec2, **request_)
    (shown,) = ec2.describe_volumes(VolumeIds=[made["VolumeId"]])["Volumes"]
    for volume in (made, shown):
        assert (volume.get("Iops"), volume.get("Throughput")) == (iops, throughput)
        assert volume["VolumeType"] == request_["VolumeType"]


def test_filters_and_pages(ec2: Any) -> None:
    """Values are alternatives, filters must all hold, wildcards work; pages have all volumes once."""
    small = [create(ec2, Size=size)["VolumeId"] for size in (1, 1, 1, 1, 2, 3)]
    tags = [{"Key": "Name", "Value": "web-1"}]
    fast = create(ec2, VolumeType="gp3", TagSpecifications=[{"ResourceType": "volume", "Tags": tags}])["VolumeId"]
    assert described(ec2, **where("size", "2", "3")) == sorted(small[4:])
    assert described(ec2, **where("volume-type", "gp*")) == sorted([*small, fast])
    assert described(ec2, **where("tag:Name", "web-?")) == [fast]
    assert described(ec2, **where("tag-key", "Na*")) == [fast]
    assert described(ec2, **where("tag:Name", "WEB*")) == []
    assert described(ec2, **where("status", "available")) == sorted([*small, fast])
    assert described(ec2, **where("encrypted", "true")) == []
    both = [{"Name": "size", "Values": ["1"]}, {"Name": "volume-type", "Values": ["gp3"]}]
    assert described(ec2, Filters=both) == [fast]
    assert described(ec2, **where("attachment.instance-id", "*")) == []
    assert refused(ec2.describe_volumes, **where("nonsense", "1"))[0] == "InvalidParameterValue"

    pages = list(ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Volumes"]) for page in pages] == [5, 2]
    assert sorted(volume["VolumeId"] for page in pages for volume in page["Volumes"]) == sorted([*small, fast])
    assert refused(ec2.describe_volumes, MaxResults=4)[0] == "InvalidParameterValue"
    assert refused(ec2.describe_volumes, NextToken="x")[0] == "InvalidNextToken"


def test_status(ec2: Any) -> None:
    """A volume that works is ok, and its I/O enabled."""
    made = create(ec2)["VolumeId"]
    (status,) = ec2.describe_volume_status(**where("volume-status.status", "ok"))["VolumeStatuses"]
    assert (status["VolumeId"], status["VolumeStatus"]["Status"]) == (made, "ok")
    assert status["VolumeStatus"]["Details"][0] == {"Name": "io-enabled", "Status": "passed"}
    assert ec2.describe_volume_status(**where("volume-status.status", "impaired"))["VolumeStatuses"] == []
    ec2.enable_volume_io(VolumeId=made)


@pytest.mark.parametrize(
    ("action", "more"),
    [
        ("attach_volume", {"InstanceId": instance_id(), "Device": "/dev/sdf"}),
        ("delete_volume", {}),
        ("describe_volume_attribute", {"Attribute": "autoEnableIO"}),
        ("detach_volume", {}),
        ("enable_volume_io", {}),
        ("modify_volume", {"Size": 2}),
        ("modify_volume_attribute", {"AutoEnableIO": {"Value": True}}),
    ],
)
def test_a_volume_that_is_none(ec2: Any, action: str, more: dict[str, Any]) -> None:
    """Each action on one volume tells an id that cannot be from one that is not there."""
    operation = getattr(ec2, action)
    assert refused(operation, VolumeId=NO_VOLUME, **more) == (
        "InvalidVolume.NotFound",
        f"The volume '{NO_VOLUME}' does not exist.",
    )
    assert refused(operation, VolumeId="vol-12345678", **more)[0] == "InvalidVolume.NotFound"
    assert refused(operation, VolumeId="volume", **more)[0] == "InvalidVolumeID.Malformed"

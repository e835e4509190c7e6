"""EC2's snapshot actions as boto3 and the aws command use them, on a real server and real snapshots.

Both check the shape of every answer by the service model: what does not fit it is not there for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError

from ebscrypt.kms.principals import instance_id
from tests.behaviour.ebs_direct.server import BLOCK, Server, download, upload
from tests.behaviour.volume.place import Place

HERE = "us-east-1"
SOON = {"Delay": 1, "MaxAttempts": 60}
"""A waiter's own patience is made for AWS: 15 seconds between two looks."""


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)  # noqa: S311 - the same in each run


def wait(ec2: Any, *snapshot_ids: str) -> None:
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=list(snapshot_ids), WaiterConfig=SOON)


def test_boto3_copies_under_another_key_what_ebs_direct_wrote(server: Server) -> None:
    """Under either key the blocks are the same; copies outlive the server; pages hold each snapshot once."""
    ec2, ebs, kms = server.client("ec2"), server.client("ebs"), server.client("kms")
    first, second = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    blocks = {index: noise(index) for index in (0, 1, 2047)}
    source = upload(ebs, blocks, KmsKeyArn=first, Description="from afar", Tags=[{"Key": "a", "Value": "b"}])
    (shown,) = ec2.describe_snapshots(SnapshotIds=[source])["Snapshots"]
    assert (shown["State"], shown["VolumeId"], shown["VolumeSize"]) == ("completed", "vol-ffffffff", 1)
    assert (shown["KmsKeyId"], shown["Encrypted"], shown["Description"]) == (first, True, "from afar")

    copies = [
        ec2.copy_snapshot(SourceRegion=HERE, SourceSnapshotId=source, Encrypted=True, KmsKeyId=key)["SnapshotId"]
        for key in (second, first)
    ]
    server.kill()
    server.start()
    ec2, ebs, kms = server.client("ec2"), server.client("ebs"), server.client("kms")
    wait(ec2, *copies)

    by_id = {one["SnapshotId"]: one for one in ec2.describe_snapshots(SnapshotIds=copies)["Snapshots"]}
    assert [by_id[copy]["KmsKeyId"] for copy in copies] == [second, first]
    assert by_id[copies[0]]["DataEncryptionKeyId"] != shown["DataEncryptionKeyId"]
    assert by_id[copies[1]]["DataEncryptionKeyId"] == shown["DataEncryptionKeyId"]
    assert all(one["Tags"] == [] and one["Description"] == "" for one in by_id.values())
    ec2.delete_snapshot(SnapshotId=source)
    for copy in copies:
        assert download(ebs, copy) == blocks

    kms.disable_key(KeyId=first)
    failed = ec2.copy_snapshot(SourceRegion=HERE, SourceSnapshotId=copies[1], Encrypted=True, KmsKeyId=second)
    with pytest.raises(WaiterError):
        wait(ec2, failed["SnapshotId"])
    (told,) = ec2.describe_snapshots(Filters=[{"Name": "status", "Values": ["err*"]}])["Snapshots"]
    assert told["SnapshotId"] == failed["SnapshotId"]
    assert told["StateMessage"].startswith("Given key ID is not accessible: ")

    more = [ebs.start_snapshot(VolumeSize=1)["SnapshotId"] for _ in range(9)]
    pages = list(ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], PaginationConfig={"PageSize": 5}))
    listed = [one["SnapshotId"] for page in pages for one in page["Snapshots"]]
    assert [len(page["Snapshots"]) for page in pages] == [5, 5, 2]
    assert sorted(listed) == sorted([*copies, failed["SnapshotId"], *more])


def test_the_aws_command_makes_lists_copies_and_deletes(place: Place, server: Server, aws: Callable[..., Any]) -> None:
    """The life of a snapshot of a real volume; encryption by default makes its copy an encrypted one."""
    volume_id = place.do("create", "--size", "8M", "--no-encrypted")
    tagged = "ResourceType=snapshot,Tags=[{Key=night,Value=1}]"
    made = aws("create-snapshot", "--volume-id", volume_id, "--description", "by aws", "--tag-specifications", tagged)
    source = made["SnapshotId"]
    assert (made["State"], made["VolumeSize"], made["Encrypted"]) == ("pending", 1, False)
    wait(server.client("ec2"), source)

    ec2 = server.client("ec2")
    key = server.client("kms").create_key()["KeyMetadata"]["Arn"]
    assert aws("modify-ebs-default-kms-key-id", "--kms-key-id", key)["KmsKeyId"] == key
    assert ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == key
    assert ec2.enable_ebs_encryption_by_default()["EbsEncryptionByDefault"] is True
    assert aws("get-ebs-encryption-by-default")["EbsEncryptionByDefault"] is True
    copy = aws("copy-snapshot", "--source-region", HERE, "--source-snapshot-id", source)["SnapshotId"]
    wait(ec2, copy)
    assert ec2.reset_ebs_default_kms_key_id()["KmsKeyId"] == "alias/aws/ebs"
    assert ec2.disable_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False

    def listed(*filters: str) -> list[str]:
        found = aws("describe-snapshots", "--owner-ids", "self", "--filters", *filters)["Snapshots"]
        return [one["SnapshotId"] for one in found]

    assert listed(f"Name=volume-id,Values={volume_id}", "Name=tag:night,Values=1,2") == [source]
    (shown,) = ec2.describe_snapshots(Filters=[{"Name": "encrypted", "Values": ["true"]}])["Snapshots"]
    assert shown["SnapshotId"] == copy
    assert (shown["KmsKeyId"], shown["Progress"]) == (key, "100%")

    assert "(DryRunOperation)" in aws("delete-snapshot", "--snapshot-id", source, "--dry-run", fails=True)
    aws("delete-snapshot", "--snapshot-id", source)
    ec2.delete_snapshot(SnapshotId=copy)
    gone = aws("describe-snapshots", "--snapshot-ids", source, fails=True)
    assert "(InvalidSnapshot.NotFound)" in gone
    assert f"The snapshot '{source}' does not exist." in gone
    assert ec2.describe_snapshots()["Snapshots"] == []


def test_snapshots_of_what_is_attached_to_this_machine(place: Place, server: Server) -> None:
    """One of each volume but the excluded one, with the tags of its source; a volume that is not attached has none."""
    ec2 = server.client("ec2")
    first, second, detached = (place.do("create", "--size", "8M", "--tag", f"n={n}") for n in range(3))
    for volume_id in (first, second):
        place.do("attach", volume_id, "--export", "socket")
    instance = {"InstanceId": instance_id()}

    both = ec2.create_snapshots(InstanceSpecification=instance, CopyTagsFromSource="volume", Description="all")
    wait(ec2, *(one["SnapshotId"] for one in both["Snapshots"]))
    assert {one["VolumeId"]: one["Tags"] for one in both["Snapshots"]} == {
        first: [{"Key": "n", "Value": "0"}],
        second: [{"Key": "n", "Value": "1"}],
    }
    one = ec2.create_snapshots(InstanceSpecification=instance | {"ExcludeDataVolumeIds": [first]})
    assert [made["VolumeId"] for made in one["Snapshots"]] == [second]
    wait(ec2, one["Snapshots"][0]["SnapshotId"])
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        ec2.create_snapshots(InstanceSpecification=instance | {"ExcludeDataVolumeIds": [detached]})
    assert len(ec2.describe_snapshots()["Snapshots"]) == 3

"""AWS's documented examples for encrypted volumes, deployed, updated and deleted with real daemons."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ebscrypt import config
from ebscrypt.catalog.stack_records import StackStatus
from ebscrypt.control.site import Site
from ebscrypt.control.stacks import operations, requests
from ebscrypt.kms.principals import instance_id
from tests.behaviour.volume.place import Place, wait_until

GIB = 1 << 30

# The example "Encrypted Amazon EBS volume with DeletionPolicy to make a snapshot on delete" of AWS::EC2::Volume, with
# the attachment of its neighbour "MountPoint". The instance, which is AWS's to start there, is a parameter here.
ENCRYPTED = """
AWSTemplateFormatVersion: 2010-09-09
Description: An encrypted volume, attached
Parameters:
  Ec2Instance:
    Type: AWS::EC2::Instance::Id
  Gigabytes:
    Type: Number
    Default: 1
    MinValue: 1
Resources:
  NewVolume:
    Type: AWS::EC2::Volume
    Properties:
      Size: !Ref Gigabytes
      Encrypted: true
      AvailabilityZone: !Select [0, !GetAZs '']
      Tags:
        - Key: MyTag
          Value: TagValue
    DeletionPolicy: Snapshot
  MountPoint:
    Type: AWS::EC2::VolumeAttachment
    Properties:
      InstanceId: !Ref Ec2Instance
      VolumeId: !Ref NewVolume
      Device: /dev/sdh
Outputs:
  VolumeId:
    Value: !Ref NewVolume
"""

# "Customer managed key and alias" of AWS::KMS::Key and AWS::KMS::Alias, with a volume under it, as JSON.
UNDER_A_KEY: dict[str, Any] = {
    "Resources": {
        "MyKey": {
            "Type": "AWS::KMS::Key",
            "Properties": {
                "Description": "A sample key",
                "EnableKeyRotation": True,
                "PendingWindowInDays": 20,
                "KeyPolicy": {
                    "Version": "2012-10-17",
                    "Id": "key-default-1",
                    "Statement": [
                        {
                            "Sid": "Enable IAM User Permissions",
                            "Effect": "Allow",
                            "Principal": {"AWS": {"Fn::Sub": "arn:aws:iam::${AWS::AccountId}:root"}},
                            "Action": "kms:*",
                            "Resource": "*",
                        }
                    ],
                },
            },
        },
        "MyAlias": {
            "Type": "AWS::KMS::Alias",
            "Properties": {"AliasName": "alias/exampleAlias", "TargetKeyId": {"Ref": "MyKey"}},
        },
        "Volume": {
            "Type": "AWS::EC2::Volume",
            "DependsOn": "MyAlias",
            "Properties": {
                "AvailabilityZone": "us-east-1a",
                "Size": 1,
                "VolumeType": "gp3",
                "Iops": 3000,
                "Throughput": 125,
                "Encrypted": True,
                "KmsKeyId": "alias/exampleAlias",
            },
        },
    }
}


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "encrypted.yaml"
    path.write_text(ENCRYPTED)
    return str(path)


def shown(place: Place, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(place.do("stack", "show", name, "--output", "json"))
    return record


def refused(place: Place, *words: str) -> str:
    """What an operation that fails said, after the events that it told."""
    ran = place.run(*words)
    assert (ran.status, ran.out) == (1, "")
    return ran.err[ran.err.index("ebscrypt: error: ") :]


def test_an_encrypted_volume_attached(place: Place, template: str) -> None:
    """It holds data, grows while attached, keeps its data in a snapshot when it is deleted, and nothing else stays."""
    deploy = ("stack", "deploy", template, "--name", "web")
    stack_id = place.do(*deploy, "--parameter", f"Ec2Instance={instance_id()}")
    record = shown(place, "web")
    volume_id = record["Outputs"][0]["OutputValue"]
    assert (record["StackId"], record["StackStatus"]) == (stack_id, "CREATE_COMPLETE")
    assert place.show(volume_id)["Encrypted"]
    device = Path(place.attachment(volume_id)["Device"])
    with device.open("r+b") as file:
        file.write(b"kept" * 1024)

    assert place.do(*deploy) == stack_id
    assert shown(place, "web")["LastUpdatedTime"] is None
    place.do(*deploy, "--parameter", "Gigabytes=2")
    assert place.show(volume_id)["SizeBytes"] == 2 * GIB
    assert place.attachment(volume_id)["Device"] == str(device)
    assert "cannot shrink" in refused(place, *deploy, "--parameter", "Gigabytes=1")
    assert shown(place, "web")["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"

    place.do("stack", "delete", "web")

    assert json.loads(place.do("ls", "--output", "json"))["Volumes"] == []
    assert place.daemons() == []
    (snapshot,) = json.loads(place.do("snapshot", "ls", "--output", "json"))["Snapshots"]
    assert (snapshot["State"], snapshot["VolumeId"]) == ("completed", volume_id)
    assert snapshot["Tags"] == [{"Key": "MyTag", "Value": "TagValue"}]
    again = place.do("create", "--snapshot-id", snapshot["SnapshotId"])
    restored = Path(place.do("attach", again))
    with restored.open("rb") as file:
        assert file.read(4096) == b"kept" * 1024


def test_a_mounted_volume_is_not_taken_away(place: Place, template: str, tmp_path: Path) -> None:
    """Deleting the stack fails and says who uses the volume; after unmounting it goes on to the end."""
    place.do("stack", "deploy", template, "--name", "web", "--parameter", f"Ec2Instance={instance_id()}")
    volume_id = shown(place, "web")["Outputs"][0]["OutputValue"]
    device = place.attachment(volume_id)["Device"]
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, mountpoint], check=True)
    try:
        told = refused(place, "stack", "delete", "web")
        assert "DELETE_FAILED: MountPoint:" in told
        assert str(mountpoint) in told
        assert place.show(volume_id)["State"] == "in-use"
    finally:
        subprocess.run(["umount", mountpoint], check=True)

    place.do("stack", "delete", "web")

    assert json.loads(place.do("stack", "ls", "--output", "json"))["Stacks"] == []


def test_an_attachment_that_fails_leaves_nothing(place: Place, template: str) -> None:
    """Another instance than this machine: the volume that was made before goes again, and its snapshot was not due."""
    wrong = "i-00000000000000000"

    told = refused(place, "stack", "deploy", template, "--name", "web", "--parameter", f"Ec2Instance={wrong}")

    assert f"ROLLBACK_COMPLETE: MountPoint: The instance ID '{wrong}' does not exist" in told
    assert json.loads(place.do("ls", "--output", "json"))["Volumes"] == []
    assert json.loads(place.do("snapshot", "ls", "--output", "json"))["Snapshots"] == []


def test_a_volume_under_a_key_with_an_alias(place: Place, tmp_path: Path) -> None:
    """JSON on the command line's door; a dry run says what would be done, and does nothing."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(UNDER_A_KEY))
    preview = json.loads(place.do("stack", "deploy", str(path), "--name", "db", "--dry-run", "--output", "json"))
    assert [one["ResourceChange"]["Action"] for one in preview["Changes"]] == ["Add"] * 3
    assert json.loads(place.do("stack", "ls", "--deleted", "--output", "json"))["Stacks"] == []

    place.do("stack", "deploy", str(path), "--name", "db")

    ids = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in shown(place, "db")["Resources"]}
    volume = place.show(ids["Volume"])
    assert volume["KmsKeyId"].endswith(ids["MyKey"])
    assert json.loads(place.do("kms", "get-key-rotation-status", ids["MyKey"], "--output", "json"))[
        "KeyRotationEnabled"
    ]
    place.do("stack", "delete", "db")
    described = json.loads(place.do("kms", "describe-key", ids["MyKey"], "--output", "json"))["KeyMetadata"]
    assert described["KeyState"] == "PendingDeletion"


def test_a_process_of_its_own_does_what_the_api_asks(place: Place) -> None:
    """It is started, makes the stack, and ends; nobody waits for it."""
    names = {name: value for name, value in place.environ.items() if name.startswith("EBSCRYPT_")}
    with Site(config.load(names)) as site:
        stack = requests.create_stack(site, "db", json.dumps(UNDER_A_KEY), parameters={})
        assert stack.status is StackStatus.CREATE_IN_PROGRESS

        wait_until(lambda: not site.catalog.stacks.get("db").status.in_progress)

        assert site.catalog.stacks.get("db").status is StackStatus.CREATE_COMPLETE
        wait_until(lambda: not operations.is_under_way(site, stack))

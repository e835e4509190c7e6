"""The life of a volume by boto3 and by the `aws` command line, against a real server with real devices."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.behaviour.ebs_direct.server import BLOCK, Server, upload
from tests.behaviour.volume.place import TIMEOUT, Place, wait_until

ZONE = "us-east-1a"
QUICKLY = {"Delay": 1, "MaxAttempts": 10}


def qemu_io(uri: str, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    ran = subprocess.run(
        ["qemu-io", "-f", "raw", *words, uri], capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    return ran.stdout


def aws(place: Place, server: Server, *words: str) -> Any:
    """What `aws ec2 …` printed, which must succeed; it retries nothing."""
    command = shutil.which("aws")
    assert command is not None, "there is no aws command line: see scripts/setup"
    ran = subprocess.run(
        [command, "ec2", *words, "--endpoint-url", server.url, "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        env=place.environ
        | {
            "AWS_ACCESS_KEY_ID": server.key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": server.key["SecretAccessKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_MAX_ATTEMPTS": "1",
            "PYTHONPATH": "",
        },
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout) if ran.stdout.strip() else None


def code(operation: Any, **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        operation(**request)
    return str(caught.value.response["Error"]["Code"])


def test_the_life_of_a_volume_by_boto3(place: Place, server: Server) -> None:
    """Under the caller's key, attached, written, grown, detached, attached again with its data, deleted."""
    ec2, kms = server.client("ec2"), server.client("kms")
    key = kms.create_key()["KeyMetadata"]
    made = ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3", Encrypted=True, KmsKeyId=key["KeyId"])
    volume_id = made["VolumeId"]
    assert (made["State"], made["KmsKeyId"]) == ("creating", key["Arn"])
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=QUICKLY)
    instance = ec2.describe_instances()["Reservations"][0]["Instances"][0]["InstanceId"]

    attached = ec2.attach_volume(VolumeId=volume_id, InstanceId=instance, Device="/dev/sdf")
    assert (attached["State"], attached["Device"]) == ("attaching", "/dev/sdf")
    ec2.get_waiter("volume_in_use").wait(VolumeIds=[volume_id], WaiterConfig=QUICKLY)
    (shown,) = ec2.describe_volumes(Filters=[{"Name": "attachment.device", "Values": ["/dev/sdf"]}])["Volumes"]
    assert [one["State"] for one in shown["Attachments"]] == ["attached"]
    (mapping,) = ec2.describe_instances()["Reservations"][0]["Instances"][0]["BlockDeviceMappings"]
    assert (mapping["DeviceName"], mapping["Ebs"]["VolumeId"]) == ("/dev/sdf", volume_id)
    other = ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    taken = {"VolumeId": other, "InstanceId": instance, "Device": "sdf"}
    assert code(ec2.attach_volume, **taken) == "InvalidParameterValue"
    assert code(ec2.delete_volume, VolumeId=volume_id) == "VolumeInUse"
    assert code(ec2.detach_volume, VolumeId=volume_id, Device="/dev/sdg") == "InvalidAttachment.NotFound"
    qemu_io(place.attachment(volume_id)["Device"], "write -P 7 0 1M", "flush")

    ec2.modify_volume(VolumeId=volume_id, Size=2)
    (modification,) = ec2.describe_volumes_modifications(VolumeIds=[volume_id])["VolumesModifications"]
    assert (modification["ModificationState"], modification["TargetSize"]) == ("completed", 2)
    qemu_io(place.attachment(volume_id)["Device"], "write -P 8 2047M 1M", "flush")

    assert ec2.detach_volume(VolumeId=volume_id)["State"] == "detaching"
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=QUICKLY)
    assert place.daemons() == []
    place.do("attach", volume_id)
    (shown,) = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"]
    assert [one["Device"] for one in shown["Attachments"]] == [place.attachment(volume_id)["Device"]]
    place.do("detach", volume_id)
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance, Device="/dev/sdf")
    read = qemu_io(place.attachment(volume_id)["Device"], "read -P 7 0 1M", "read -P 8 2047M 1M")
    assert "failed" not in read
    ec2.detach_volume(VolumeId=volume_id, Force=True)
    ec2.delete_volume(VolumeId=volume_id)
    ec2.get_waiter("volume_deleted").wait(VolumeIds=[volume_id], WaiterConfig=QUICKLY)


def test_a_revoked_key(place: Place, server: Server) -> None:
    """Attaching is refused at once; creating is answered, and then there is no volume, as the waiter finds out."""
    ec2, kms = server.client("ec2"), server.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    request = {"AvailabilityZone": ZONE, "Size": 1, "Encrypted": True, "KmsKeyId": key}
    volume_id = ec2.create_volume(**request)["VolumeId"]
    instance = ec2.describe_instances()["Reservations"][0]["Instances"][0]["InstanceId"]
    kms.disable_key(KeyId=key)
    attach = {"VolumeId": volume_id, "InstanceId": instance, "Device": "/dev/sdf"}
    assert code(ec2.attach_volume, **attach) == "CustomerKeyHasBeenRevoked"
    (shown,) = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"]
    assert (shown["State"], shown["Attachments"]) == ("available", [])

    failed = ec2.create_volume(**request)
    assert failed["State"] == "creating"
    with pytest.raises(WaiterError, match=r"InvalidVolume\.NotFound"):
        ec2.get_waiter("volume_available").wait(VolumeIds=[failed["VolumeId"]], WaiterConfig=QUICKLY)
    assert [volume["VolumeId"] for volume in place.run("ls", "--output", "json").json["Volumes"]] == [volume_id]


def test_an_attachment_whose_daemon_died(place: Place, server: Server) -> None:
    """The volume is impaired until AttachVolume takes it up again."""
    ec2 = server.client("ec2")
    volume_id = ec2.create_volume(AvailabilityZone=ZONE, Size=1, Encrypted=True)["VolumeId"]
    instance = ec2.describe_instances()["Reservations"][0]["Instances"][0]["InstanceId"]
    attach = {"VolumeId": volume_id, "InstanceId": instance, "Device": "/dev/sdf"}
    ec2.attach_volume(**attach)

    def status() -> str:
        (one,) = ec2.describe_volume_status(VolumeIds=[volume_id])["VolumeStatuses"]
        return str(one["VolumeStatus"]["Status"])

    assert status() == "ok"
    place.kill_daemon(volume_id)
    wait_until(lambda: status() == "impaired")
    assert code(ec2.enable_volume_io, VolumeId=volume_id) == "IncorrectState"
    (shown,) = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"]
    assert [(one["State"], one["Device"]) for one in shown["Attachments"]] == [("busy", "/dev/sdf")]
    ec2.attach_volume(**attach)
    assert status() == "ok"
    ec2.detach_volume(VolumeId=volume_id)


def test_a_volume_from_a_snapshot(place: Place, server: Server) -> None:
    """It has the snapshot's blocks, size and key, and can be attached at once; a pending snapshot is refused."""
    ec2, ebs = server.client("ec2"), server.client("ebs")
    key = server.client("kms").create_key()["KeyMetadata"]["Arn"]
    snapshot = upload(ebs, {0: b"\x05" * BLOCK, 2047: b"\x06" * BLOCK}, KmsKeyArn=key)
    pending = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    zone = {"AvailabilityZone": ZONE}
    assert code(ec2.create_volume, **zone, SnapshotId=pending) == "IncorrectState"
    plain = {"SnapshotId": snapshot, "Encrypted": False}
    assert code(ec2.create_volume, **zone, **plain) == "InvalidParameterCombination"

    made = ec2.create_volume(**zone, SnapshotId=snapshot)
    volume_id = made["VolumeId"]
    assert (made["Size"], made["Encrypted"], made["KmsKeyId"], made["SnapshotId"]) == (1, True, key, snapshot)
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume_id], WaiterConfig=QUICKLY)
    instance = ec2.describe_instances()["Reservations"][0]["Instances"][0]["InstanceId"]
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance, Device="/dev/sdf")
    device = place.attachment(volume_id)["Device"]
    read = qemu_io(device, "read -P 5 0 512k", "read -P 0 512k 512k", f"read -P 6 {2047 * BLOCK} 512k")
    assert "failed" not in read
    ec2.detach_volume(VolumeId=volume_id)
    ec2.delete_volume(VolumeId=volume_id)


def test_the_life_of_a_volume_by_the_aws_command_line(place: Place, server: Server) -> None:
    """The same walk by `aws ec2`, as scripts have it."""
    key = server.client("kms").create_key()["KeyMetadata"]["Arn"]
    create = ["create-volume", "--availability-zone", ZONE, "--size", "1", "--encrypted", "--kms-key-id", key]
    volume_id = aws(place, server, *create)["VolumeId"]
    aws(place, server, "wait", "volume-available", "--volume-ids", volume_id)
    instances = aws(place, server, "describe-instances")
    instance = instances["Reservations"][0]["Instances"][0]["InstanceId"]
    names = ["--volume-id", volume_id]
    aws(place, server, "attach-volume", *names, "--instance-id", instance, "--device", "/dev/sdf")
    aws(place, server, "wait", "volume-in-use", "--volume-ids", volume_id)
    qemu_io(place.attachment(volume_id)["Device"], "write -P 9 0 1M", "flush")
    aws(place, server, "modify-volume", *names, "--size", "2")
    aws(place, server, "create-tags", "--resources", volume_id, "--tags", "Key=Name,Value=web")
    (shown,) = aws(place, server, "describe-volumes", "--filters", "Name=tag:Name,Values=w*")["Volumes"]
    assert (shown["VolumeId"], shown["Size"], shown["KmsKeyId"]) == (volume_id, 2, key)
    aws(place, server, "detach-volume", *names)
    aws(place, server, "wait", "volume-available", "--volume-ids", volume_id)
    aws(place, server, "delete-volume", *names)
    aws(place, server, "wait", "volume-deleted", "--volume-ids", volume_id)
    assert place.run("ls", "--output", "json").json["Volumes"] == []

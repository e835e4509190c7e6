"""Many clients at once, and requests that no client would send: no failure of the server's own, nothing left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st

from ebscrypt.api.ec2 import OPERATIONS
from ebscrypt.config import Settings
from tests.unit.api.in_process import Clients

ZONE = "us-east-1a"
ACTIONS = (
    "AttachVolume",
    "CreateTags",
    "CreateVolume",
    "DeleteTags",
    "DeleteVolume",
    "DescribeInstances",
    "DescribeTags",
    "DescribeVolumeAttribute",
    "DescribeVolumeStatus",
    "DescribeVolumes",
    "DescribeVolumesModifications",
    "DetachVolume",
    "EnableVolumeIO",
    "ModifyVolume",
    "ModifyVolumeAttribute",
)


def test_clients_at_once(clients: Clients, settings: Settings) -> None:
    """Each makes, tags, modifies and deletes a volume of its own; the same token makes one volume for all."""
    ec2 = clients.client()

    def life(number: int) -> None:
        volume_id = ec2.create_volume(AvailabilityZone=ZONE, Size=1, ClientToken=f"own-{number}")["VolumeId"]
        ec2.create_tags(Resources=[volume_id], Tags=[{"Key": "number", "Value": str(number)}])
        wanted = [{"Name": "tag:number", "Values": [str(number)]}]
        assert [one["VolumeId"] for one in ec2.describe_volumes(Filters=wanted)["Volumes"]] == [volume_id]
        ec2.modify_volume(VolumeId=volume_id, VolumeType="gp3")
        ec2.delete_volume(VolumeId=volume_id)

    def same(_: int) -> str:
        return str(ec2.create_volume(AvailabilityZone=ZONE, Size=1, ClientToken="shared")["VolumeId"])

    with ThreadPoolExecutor(8) as pool:
        shared = set(pool.map(same, range(8)))
        list(pool.map(life, range(16)))
    assert {one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]} == shared
    assert len(shared) == 1
    assert {path.stem for path in settings.volumes_dir.iterdir()} == shared
    assert list((settings.api_dir / "volumes").iterdir()) == []


TRIALS = trials(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.sampled_from(
    [
        "",
        "*",
        "\\",
        "vol-00000000000000000",
        "vol-12345678",
        "snap-00000000000000000",
        "i-0",
        "/dev/sdf",
        ZONE,
        "alias/x",
        "arn:aws:kms:us-east-1:000000000000:key/x",
        "volume",
        "gp2",
        "io1",
        "autoEnableIO",
        "é" * 300,
    ]
)
NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 5, 125, 1000, 2**31 - 1])


PLAIN = {"boolean": st.booleans(), "integer": NUMBERS, "long": NUMBERS, "string": TEXTS}


def values(shape: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Any value of a shape of the model, members present or not."""
    if shape.type_name == "structure" and depth < 4:
        members = {name: values(member, depth + 1) for name, member in shape.members.items()}
        return st.fixed_dictionaries({}, optional=members)
    if shape.type_name == "list":
        return st.lists(values(shape.member, depth + 1), max_size=2)
    plain = PLAIN.get(shape.type_name, st.just({}))
    return st.one_of(st.sampled_from(shape.enum), plain) if getattr(shape, "enum", None) else plain


def status(ec2: Any, action: str, request: dict[str, Any]) -> int:
    """The HTTP status of the answer."""
    try:
        answer = ec2._make_api_call(action, request)
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


@pytest.mark.parametrize("action", ACTIONS)
def test_any_request(clients: Clients, action: str) -> None:
    """Whatever the model lets a client say, the answer is one of EC2's, never a failure of the server's own.

    Half of the requests are for a volume that there is, so that they get to what an action does.
    """
    assert action in OPERATIONS
    ec2 = clients.client()
    model = ec2.meta.service_model.operation_model(action)
    volume_id = ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    sound = {"AvailabilityZone": ZONE, "Size": 5, "VolumeId": volume_id, "Resources": [volume_id]}
    sound = {name: value for name, value in sound.items() if name in model.input_shape.members}
    # Without botocore's own check of parameters, which would keep most of this from the server.
    protocol = ec2.meta.service_model.metadata["protocol"]
    ec2._serializer = create_serializer(protocol, include_validation=False)

    @TRIALS
    @given(values(model.input_shape), st.booleans())
    def ask(request: dict[str, Any], is_sound: bool) -> None:  # noqa: FBT001 - hypothesis gives it by place
        assert status(ec2, action, request | sound if is_sound else request) < 500

    ask()
    assert all(volume["State"] == "available" for volume in ec2.describe_volumes()["Volumes"])

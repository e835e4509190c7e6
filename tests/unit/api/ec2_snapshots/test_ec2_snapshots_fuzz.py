"""Requests made from the service model, most of them nonsense: each is answered or refused, never an error of ours."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.model import ListShape, Shape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebscrypt.api.errors import ApiError
from ebscrypt.control import storing
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import Volume
from tests.unit.api.ec2_snapshots.caller import MODEL, Caller

ACTIONS = [
    "CopySnapshot",
    "CreateSnapshot",
    "CreateSnapshots",
    "DeleteSnapshot",
    "DescribeSnapshotAttribute",
    "DescribeSnapshots",
    "ModifyEbsDefaultKmsKeyId",
    "ModifySnapshotAttribute",
    "ResetSnapshotAttribute",
]
WORDS = ["self", "all", "us-east-1", "snapshot", "encrypted", "tag:a", "true", "alias/aws/ebs", "999999999999", "*", ""]


def values(shape: Shape, likely: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """What the model lets through for a shape: the gateway has refused everything else before.

    ``likely`` has by name what three in four members of that name shall be, so that a request gets somewhere.
    """
    if name in likely:
        right, any_ = st.just(likely[name]), values(shape, likely)
        return st.integers(0, 3).flatmap(lambda dice: any_ if dice == 3 else right)
    if isinstance(shape, StructureShape):
        members = {name: values(member, likely, name) for name, member in shape.members.items()}
        required = {name: members.pop(name) for name in shape.required_members}
        return st.fixed_dictionaries(required, optional=members)
    if isinstance(shape, ListShape):
        return st.lists(values(shape.member, likely), min_size=1, max_size=3)
    if shape.type_name == "string":
        named = shape.metadata.get("enum")
        return st.sampled_from(named) if named else st.sampled_from(WORDS) | st.text(max_size=20)
    if shape.type_name == "boolean":
        return st.booleans()
    return st.integers(shape.metadata.get("min", -(2**31)), shape.metadata.get("max", 2**31 - 1))


def outcome(call: Caller, action: str, request: dict[str, Any]) -> int:
    """The HTTP status that a client would see. What is no `ApiError` goes on, and fails the test with its request."""
    try:
        call(action, **request)
    except ApiError as error:
        return error.status
    return 200


@pytest.mark.parametrize("action", ACTIONS)
def test_no_request_is_our_error(call: Caller, volume: Volume, action: str) -> None:
    """An answer that fits the model, or a refusal with a code of EC2's and a status of 4xx."""
    snapshot_id = str(call("CreateSnapshot", VolumeId=volume.volume_id)["SnapshotId"])
    storing.settle_snapshot(call.site, snapshot_id)
    likely = {
        "Attribute": "createVolumePermission",
        "DestinationAvailabilityZone": "",
        "DestinationOutpostArn": "",
        "DestinationRegion": "us-east-1",
        "InstanceId": instance_id(),
        "Location": "regional",
        "OutpostArn": "",
        "ResourceType": "snapshot",
        "SnapshotId": snapshot_id,
        "SnapshotIds": [snapshot_id],
        "SourceRegion": "us-east-1",
        "SourceSnapshotId": snapshot_id,
        "VolumeId": volume.volume_id,
    }
    shape = MODEL.operation_model(action).input_shape
    assert shape is not None
    asked = values(shape, likely)

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(request=asked)
    def ask(request: dict[str, Any]) -> None:
        outcomes.append(outcome(call, action, request))

    outcomes: list[int] = []
    ask()
    assert {status for status in outcomes if not 200 <= status < 500} == set()
    assert outcomes

"""The records of events: ARNs of every partition."""

from __future__ import annotations

import pytest

from ebscrypt.catalog.events import VolumeEvent, volume_event


@pytest.mark.parametrize(
    ("region", "partition"), [("eu-central-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_an_arn_has_the_partition_of_its_region(region: str, partition: str) -> None:
    """As key ARNs have it: a pattern that names a volume of such a Region must match."""
    event = volume_event(VolumeEvent.CREATE, "available", volume_id="vol-1", region=region, account="111122223333")

    assert event["resources"] == [f"arn:{partition}:ec2:{region}:111122223333:volume/vol-1"]

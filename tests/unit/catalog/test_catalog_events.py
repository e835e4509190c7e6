"""Events: the record of each, and that it is there exactly when its change is."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import VolumeEvent, volume_event
from ebscrypt.errors import CatalogError, StateError
from ebscrypt.model import Volume, VolumeState

VOLUME_ID = "vol-01234567890abcdef"
KEY_ARN = "arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
VOLUME_ARN = f"arn:aws:ec2:us-east-2:111122223333:volume/{VOLUME_ID}"


def record(event: VolumeEvent, result: str, **more: Any) -> dict[str, Any]:
    return volume_event(event, result, volume_id=VOLUME_ID, region="us-east-2", account="111122223333", **more)


def test_the_envelope_is_eventbridges() -> None:
    """Exactly the members of EBS's own events, with their fixed values and formats (facts §3.1)."""
    time = datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

    event = record(VolumeEvent.CREATE, "available", time=time)

    assert list(event) == [
        "version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail",
    ]  # fmt: skip
    assert event["version"] == "0"
    assert str(uuid.UUID(event["id"])) == event["id"]
    assert event["detail-type"] == "EBS Volume Notification"
    assert event["source"] == "aws.ec2"
    assert event["account"] == "111122223333"
    assert event["time"] == "2024-01-02T03:04:05Z"
    assert event["region"] == "us-east-2"


CASES = [
    (VolumeEvent.CREATE, "available", "", KEY_ARN, [VOLUME_ARN]),
    (VolumeEvent.CREATE, "failed", f"{KEY_ARN} is disabled.", KEY_ARN, [VOLUME_ARN]),
    (VolumeEvent.DELETE, "deleted", "", None, [VOLUME_ARN]),
    (VolumeEvent.ATTACH, "failed", f"{KEY_ARN} is pending deletion.", KEY_ARN, [VOLUME_ARN, KEY_ARN]),
    (VolumeEvent.REATTACH, "failed", f"{KEY_ARN} is pending deletion.", KEY_ARN, [VOLUME_ARN, KEY_ARN]),
    (VolumeEvent.ATTACH, "failed", "KMS cannot be reached.", None, [VOLUME_ARN]),
]


@pytest.mark.parametrize("case", CASES)
def test_details_are_those_of_ebs(case: tuple[VolumeEvent, str, str, str | None, list[str]]) -> None:
    """Event by event, detail and resources have EBS's spelling; attachments have an empty request id (facts §3.2)."""
    event, result, cause, key_arn, resources = case

    made = record(event, result, cause=cause, key_arn=key_arn)

    request_id = made["detail"].pop("request-id")
    assert made["detail"] == {"event": event.value, "result": result, "cause": cause}
    assert made["resources"] == resources
    if event in (VolumeEvent.CREATE, VolumeEvent.DELETE):
        assert str(uuid.UUID(request_id)) == request_id
    else:
        assert request_id == ""


def test_events_are_kept_in_order(catalog: Catalog) -> None:
    """Sequence numbers grow by each event, and a reader can go on after the last one that it saw."""
    events = [record(VolumeEvent.CREATE, "available"), record(VolumeEvent.DELETE, "deleted")]
    for event in events:
        catalog.add_event(event)

    (first, one), (second, two) = catalog.events()

    assert [one, two] == events
    assert first < second
    assert catalog.events(after=first) == [(second, two)]
    assert catalog.events(after=second) == []


def test_a_change_and_its_event_are_one(catalog: Catalog, make_volume: Callable[..., Volume]) -> None:
    """A refused change leaves no event, and an event that cannot be kept undoes its change."""
    volume = make_volume()
    event = record(VolumeEvent.CREATE, "available")
    catalog.add(volume)
    with pytest.raises(StateError):
        catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING, event)
    assert catalog.events() == []
    catalog.add_event(event)

    with pytest.raises(CatalogError):
        catalog.change_state(volume.volume_id, VolumeState.CREATING, VolumeState.AVAILABLE, event)

    assert catalog.volume(volume.volume_id).state is VolumeState.CREATING
    assert len(catalog.events()) == 1


def test_events_outlive_their_volume(catalog: Catalog, make_volume: Callable[..., Volume]) -> None:
    """`deleted` is told after the row is gone."""
    volume = make_volume(state=VolumeState.AVAILABLE)
    catalog.add(volume)
    catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)

    catalog.remove(volume.volume_id, record(VolumeEvent.DELETE, "deleted"))

    assert [event["detail"]["result"] for _, event in catalog.events()] == ["deleted"]

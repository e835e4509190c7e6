"""Rules as people write them for EBS, on the events of facts §3.2 and §3.3."""

from typing import Any

import pytest

from ebscrypt.events.patterns import Pattern

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
VOLUME = "arn:aws:ec2:eu-central-1:111122223333:volume/vol-0123456789abcdef0"
REQUEST = "2b6e5f7e-8f4e-4c7c-a3f7-5a0a51c0a1f5"


def notification(kind: str, detail: dict[str, Any], *resources: str) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "01234567-0123-0123-0123-0123456789ab",
        "detail-type": f"EBS {kind}",
        "source": "aws.ec2",
        "account": "111122223333",
        "time": "2026-10-02T16:24:49Z",
        "region": "eu-central-1",
        "resources": list(resources),
        "detail": detail,
    }


def volume(event: str, result: str, cause: str = "", request: str = REQUEST, *keys: str) -> dict[str, Any]:
    told = {"event": event, "result": result, "cause": cause, "request-id": request}
    return notification("Volume Notification", told, VOLUME, *keys)


def snapshot(event: str, result: str, **extras: Any) -> dict[str, Any]:
    arn = "arn:aws:ec2::eu-central-1:snapshot/snap-0123456789abcdef0"
    told = {"event": event, "result": result, "cause": "", "request-id": "", "snapshot_id": arn} | extras
    return notification("Snapshot Notification", told, arn)


EVENTS = {
    "created": volume("createVolume", "available"),
    "create disabled": volume("createVolume", "failed", f"{KEY} is disabled."),
    "create pending import": volume("createVolume", "failed", f"{KEY} is pending import."),
    "attach pending deletion": volume("attachVolume", "failed", f"{KEY} is pending deletion.", "", KEY),
    "reattach pending deletion": volume("reattachVolume", "failed", f"{KEY} is pending deletion.", "", KEY),
    "deleted": volume("deleteVolume", "deleted"),
    "optimizing": volume("modifyVolume", "optimizing"),
    "snapshot": snapshot("createSnapshot", "succeeded", source="arn:aws:ec2::eu-central-1:volume/vol-0"),
    "full copy": snapshot("copySnapshot", "succeeded", incremental="false"),
    "incremental copy": snapshot("copySnapshot", "succeeded", incremental="true"),
    "bad copy": snapshot("copySnapshot", "failed", cause="Source snapshot ID is not valid"),
    "shared": snapshot("shareSnapshot", "succeeded", source=111122223333),
    "many": notification(
        "Multi-Volume Snapshots Completion Status",
        {
            "event": "createSnapshots",
            "result": "failed",
            "cause": "Snapshot snap-2 is in status error",
            "snapshots": [
                {"snapshot_id": "snap-1", "source": "vol-1", "status": "completed"},
                {"snapshot_id": "snap-2", "source": "vol-2", "status": "error"},
            ],
        },
        "snap-1",
        "snap-2",
    ),
}
KEY_FAILURES = {"create disabled", "create pending import", "attach pending deletion", "reattach pending deletion"}
ATTACH_FAILURES = {"attach pending deletion", "reattach pending deletion"}


@pytest.mark.parametrize(
    ("detail", "wanted"),
    [
        ({"event": ["attachVolume", "reattachVolume"], "result": ["failed"]}, ATTACH_FAILURES),
        ({"event": [{"suffix": {"equals-ignore-case": "attachvolume"}}]}, ATTACH_FAILURES),
        ({"cause": [{"suffix": "is disabled."}]}, {"create disabled"}),
        ({"cause": [{"prefix": KEY}]}, KEY_FAILURES),
        ({"cause": [{"wildcard": "arn:aws:kms:*:key/* is pending *."}]}, KEY_FAILURES - {"create disabled"}),
        ({"result": ["failed"], "cause": [{"anything-but": {"prefix": "arn:aws:kms:"}}]}, {"bad copy", "many"}),
        (
            {"event": ["createVolume"], "request-id": [{"anything-but": ""}]},
            KEY_FAILURES - ATTACH_FAILURES | {"created"},
        ),
        ({"cause": [""], "result": [{"anything-but": ["available", "succeeded"]}]}, {"deleted", "optimizing"}),
        ({"incremental": ["true"]}, {"incremental copy"}),
        ({"incremental": [True]}, set()),
        ({"event": ["copySnapshot"], "incremental": [{"exists": False}]}, {"bad copy"}),
        ({"source": [111122223333]}, {"shared"}),
        ({"source": [{"numeric": [">", 0]}]}, {"shared"}),
        ({"snapshots": {"snapshot_id": ["snap-2"], "status": ["error"]}}, {"many"}),
        ({"snapshots": {"snapshot_id": ["snap-1"], "status": ["error"]}}, set()),
        ({"snapshots": {"status": [{"anything-but": "completed"}]}}, {"many"}),
        ({"$or": [{"event": ["deleteVolume"]}, {"snapshots": {"source": ["vol-1"]}}]}, {"deleted", "many"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",  # a set has no order of its own
)
def test_a_rule_on_the_detail_picks_its_events(detail: dict[str, Any], wanted: set[str]) -> None:
    """Of every event that EBS sends, exactly those that the rule is for."""
    pattern = Pattern.compile({"source": ["aws.ec2"], "detail": detail})
    assert {name for name, event in EVENTS.items() if pattern.matches(event)} == wanted


def test_a_rule_may_ask_for_the_key_among_the_resources() -> None:
    """Failed attachments name the key beside the volume; creations, whose cause names it too, do not."""
    pattern = Pattern.compile({"resources": [KEY], "detail-type": ["EBS Volume Notification"]})
    assert {name for name, event in EVENTS.items() if pattern.matches(event)} == ATTACH_FAILURES


def test_a_source_of_our_own_is_not_amazon_s() -> None:
    """A rule for another source leaves every one of these events alone."""
    pattern = Pattern.compile({"source": [{"anything-but": {"prefix": "aws."}}]})
    assert not any(pattern.matches(event) for event in EVENTS.values())

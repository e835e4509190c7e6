"""The record of one event about a volume or a snapshot, in the shape in which EventBridge carries EBS's (facts §3)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from ebscrypt.kms.names import partition_of
from ebscrypt.model import utc_now

DETAIL_TYPE: Final = "EBS Volume Notification"
SNAPSHOT_DETAIL_TYPE: Final = "EBS Snapshot Notification"
SOURCE: Final = "aws.ec2"


class VolumeEvent(StrEnum):
    """The ``event`` of a detail; the spelling is EBS's."""

    CREATE = "createVolume"
    DELETE = "deleteVolume"
    ATTACH = "attachVolume"
    REATTACH = "reattachVolume"
    INITIALIZE = "initializeVolume"


class SnapshotEvent(StrEnum):
    """The ``event`` of a detail about a snapshot. EBS has none for a deletion."""

    CREATE = "createSnapshot"
    COPY = "copySnapshot"


_WITH_REQUEST_ID: Final = frozenset({VolumeEvent.CREATE, VolumeEvent.DELETE, VolumeEvent.INITIALIZE})
"""EBS gives these a request id; in its samples of failed attachments the field is empty."""


def volume_arn(volume_id: str, *, region: str, account: str) -> str:
    """The ARN by which an event names a volume."""
    return f"arn:{partition_of(region)}:ec2:{region}:{account}:volume/{volume_id}"


def volume_event(
    event: VolumeEvent,
    result: str,
    *,
    volume_id: str,
    region: str,
    account: str,
    cause: str = "",
    key_arn: str | None = None,
    time: datetime | None = None,
) -> dict[str, Any]:
    """One "EBS Volume Notification": what happened (``event``), how it ended (``result``) and why (``cause``).

    ``key_arn`` becomes a second resource of a failed attachment, as in EBS's samples; others name the volume only.
    """
    resources = [volume_arn(volume_id, region=region, account=account)]
    if key_arn is not None and event not in _WITH_REQUEST_ID:
        resources.append(key_arn)
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": DETAIL_TYPE,
        "source": SOURCE,
        "account": account,
        "time": _seconds(time or utc_now()),
        "region": region,
        "resources": resources,
        "detail": {
            "event": event.value,
            "result": result,
            "cause": cause,
            "request-id": str(uuid.uuid4()) if event in _WITH_REQUEST_ID else "",
        },
    }


def snapshot_arn(snapshot_id: str, *, region: str) -> str:
    """The ARN by which an event about a snapshot names it: these have the Region where others have the account."""
    return f"arn:{partition_of(region)}:ec2::{region}:snapshot/{snapshot_id}"


def snapshot_event(
    event: SnapshotEvent,
    result: str,
    *,
    snapshot_id: str,
    source: str,
    region: str,
    account: str,
    start_time: datetime,
    end_time: datetime | None = None,
    cause: str = "",
    incremental: bool | None = None,
    source_region: str | None = None,
) -> dict[str, Any]:
    """One "EBS Snapshot Notification": ``result`` is ``succeeded`` or ``failed``.

    ``source`` is the id of the volume that it was made from, or of the snapshot that was copied, in ``source_region``
    where that is another one. ``incremental`` is told of copies.
    """
    arn = snapshot_arn(snapshot_id, region=region)
    end = end_time or utc_now()
    kind, place = "volume" if event is SnapshotEvent.CREATE else "snapshot", source_region or region
    detail = {
        "event": event.value,
        "result": result,
        "cause": cause,
        "request-id": "",
        "snapshot_id": arn,
        "source": f"arn:{partition_of(place)}:ec2::{place}:{kind}/{source}",
        "startTime": _seconds(start_time),
        "endTime": _seconds(end),
    }
    if incremental is not None:
        detail["incremental"] = "true" if incremental else "false"
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": SNAPSHOT_DETAIL_TYPE,
        "source": SOURCE,
        "account": account,
        "time": _seconds(end),
        "region": region,
        "resources": [arn],
        "detail": detail,
    }


def _seconds(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

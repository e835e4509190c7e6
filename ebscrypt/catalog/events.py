"""The record of one event about a volume, in the shape in which EventBridge carries EBS's own (facts §3.1, §3.2)."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from ebscrypt.model import utc_now

DETAIL_TYPE: Final = "EBS Volume Notification"
SOURCE: Final = "aws.ec2"


class VolumeEvent(StrEnum):
    """The ``event`` of a detail; the spelling is EBS's."""

    CREATE = "createVolume"
    DELETE = "deleteVolume"
    ATTACH = "attachVolume"
    REATTACH = "reattachVolume"


_WITH_REQUEST_ID: Final = frozenset({VolumeEvent.CREATE, VolumeEvent.DELETE})
"""EBS gives these a request id; in its samples of failed attachments the field is empty."""


def volume_arn(volume_id: str, *, region: str, account: str) -> str:
    """The ARN by which an event names a volume."""
    return f"arn:aws:ec2:{region}:{account}:volume/{volume_id}"


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
        "time": (time or utc_now()).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": resources,
        "detail": {
            "event": event.value,
            "result": result,
            "cause": cause,
            "request-id": str(uuid.uuid4()) if event in _WITH_REQUEST_ID else "",
        },
    }

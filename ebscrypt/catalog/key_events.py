"""The records of what becomes of an attached volume whose KMS key cannot be used, and can be used again.

EBS has no such events: a volume that is attached goes on working. So these have a source and a detail-type of their
own, which no pattern made for EBS matches by mistake, and for the rest the shape of EBS's volume events:

    event         result                                                        cause
    checkKey      unusable | usable                                             KMS's words; empty when it is usable
    changeAccess  read-only | suspended | detached | read-write | failed        the same; why it failed
"""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from ebscrypt.catalog.events import volume_arn
from ebscrypt.model import OnKeyUnusable, utc_now

DETAIL_TYPE: Final = "ebscrypt Volume Key Notification"
SOURCE: Final = "ebscrypt"


class KeyEvent(StrEnum):
    """The ``event`` of a detail."""

    CHECK_KEY = "checkKey"
    CHANGE_ACCESS = "changeAccess"


def key_event(
    event: KeyEvent,
    result: str,
    *,
    volume_id: str,
    region: str,
    account: str,
    mode: OnKeyUnusable,
    cause: str = "",
    key_arn: str | None = None,
    time: datetime | None = None,
) -> dict[str, Any]:
    """One event about the KMS key of an attached volume whose ``on_key_unusable`` is ``mode``."""
    arn = volume_arn(volume_id, region=region, account=account)
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": DETAIL_TYPE,
        "source": SOURCE,
        "account": account,
        "time": (time or utc_now()).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [arn] if key_arn is None else [arn, key_arn],
        "detail": {
            "event": event.value,
            "result": result,
            "cause": cause,
            "request-id": "",
            "on-key-unusable": mode.value,
        },
    }

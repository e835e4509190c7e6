"""An EventBridge bus, an SNS topic or an SQS queue as target, through boto3 with its ordinary credential chain.

No one but AWS may put events whose source begins with ``aws.``; on a bus ours come from ``ebscrypt``, and the rest of
the event is as it was. A topic and a queue get the whole event, as EventBridge would give it to them.
"""

from __future__ import annotations

import functools
import json
from datetime import datetime
from http import HTTPStatus
from threading import Lock
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ebscrypt.events.targets.kinds import BusTarget, QueueTarget, TopicTarget
from ebscrypt.events.targets.outcome import Undelivered

SOURCE: Final = "ebscrypt"
_AGAIN: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InternalException",
        "InternalFailure",
        "RequestExpired",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "Throttled",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Error codes with a status below 500 (or none) after which the same call may succeed later."""

_making = Lock()
"""Sessions are not made for threads; the clients that they make are."""


def deliver(target: BusTarget | TopicTarget | QueueTarget, body: str, profile: str) -> str:
    """Hand the event over; the id that AWS gave it. Raises `Undelivered`."""
    event = json.loads(body)
    try:
        match target:
            case BusTarget():
                return _put_event(target, event, profile)
            case TopicTarget():
                return _publish(target, event, body, profile)
            case QueueTarget():
                return _send_message(target, event, body, profile)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        final = status < HTTPStatus.INTERNAL_SERVER_ERROR and code not in _AGAIN
        raise Undelivered(str(error), final=final) from None
    except BotoCoreError as error:
        raise Undelivered(str(error)) from None


@functools.cache
def _made(service: str, region: str, profile: str, timeout: float) -> Any:
    config = Config(
        connect_timeout=timeout,
        read_timeout=timeout,
        # The deliverer tries again itself, and knows how often it may.
        retries={"mode": "standard", "total_max_attempts": 1},
        user_agent_extra="ebscrypt",
    )
    session: Any = boto3.Session(profile_name=profile or None)
    return session.client(service, region_name=region, config=config)


def _client(service: str, target: BusTarget | TopicTarget | QueueTarget, profile: str) -> Any:
    with _making:
        return _made(service, target.region, profile, target.timeout)


def _put_event(target: BusTarget, event: dict[str, Any], profile: str) -> str:
    entry = {
        "Time": datetime.fromisoformat(event["time"]),
        "Source": SOURCE,
        "Resources": event["resources"],
        "DetailType": event["detail-type"],
        "Detail": json.dumps(event["detail"]),
        "EventBusName": target.arn,
    }
    answer = _client("events", target, profile).put_events(Entries=[entry])
    result = answer["Entries"][0]
    if answer["FailedEntryCount"]:
        code = str(result.get("ErrorCode", ""))
        raise Undelivered(f"PutEvents: {code}: {result.get('ErrorMessage', '')}", final=code not in _AGAIN)
    return f"EventId {result['EventId']}"


def _publish(target: TopicTarget, event: dict[str, Any], body: str, profile: str) -> str:
    ordered = _fifo(event) if target.is_fifo else {}
    answer = _client("sns", target, profile).publish(TopicArn=target.arn, Message=body, **ordered)
    return f"MessageId {answer['MessageId']}"


def _send_message(target: QueueTarget, event: dict[str, Any], body: str, profile: str) -> str:
    client = _client("sqs", target, profile)
    url = client.get_queue_url(QueueName=target.name, QueueOwnerAWSAccountId=target.account)["QueueUrl"]
    ordered = _fifo(event) if target.is_fifo else {}
    answer = client.send_message(QueueUrl=url, MessageBody=body, **ordered)
    return f"MessageId {answer['MessageId']}"


def _fifo(event: dict[str, Any]) -> dict[str, str]:
    """What a FIFO topic or queue wants besides; it drops an event that it has had already."""
    return {"MessageGroupId": SOURCE, "MessageDeduplicationId": event["id"]}

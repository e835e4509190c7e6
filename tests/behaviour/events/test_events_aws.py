"""An event bus, a topic and a queue as targets: boto3 against moto's server, and what each refusal leads to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from ebscrypt.catalog.events import VolumeEvent, volume_event
from ebscrypt.events.targets import aws
from ebscrypt.events.targets.kinds import BusTarget, QueueTarget, TopicTarget
from ebscrypt.events.targets.outcome import Undelivered

REGION = "eu-central-1"
ACCOUNT = "123456789012"
Client = Callable[[str], Any]


@pytest.fixture
def client(aws_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Clients as the test has them; the targets' own go to the same server, as AWS's variables say."""
    for name, value in {
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    made = aws._made
    made.cache_clear()
    yield lambda service: boto3.client(service, region_name=REGION)  # type: ignore[call-overload]
    made.cache_clear()


@pytest.fixture
def queue(client: Client) -> Callable[..., tuple[str, str]]:
    """Makes a queue: its ARN and its URL."""

    def make(name: str, **attributes: str) -> tuple[str, str]:
        url = client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}", url

    return make


def an_event() -> dict[str, Any]:
    return volume_event(
        VolumeEvent.ATTACH,
        "failed",
        volume_id="vol-0123456789abcdef0",
        region=REGION,
        account=ACCOUNT,
        cause="… is disabled.",
        key_arn=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    )


def received(client: Client, url: str) -> list[Any]:
    messages = client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(message["Body"]) for message in messages]


def test_a_queue_gets_the_event(client: Client, queue: Callable[..., tuple[str, str]]) -> None:
    """The whole of it, as EventBridge would send it."""
    arn, url = queue("events")
    event = an_event()

    told = aws.deliver(QueueTarget(arn=arn), json.dumps(event), "")

    assert told.startswith("MessageId ")
    assert received(client, url) == [event]


def test_a_fifo_queue_gets_it_once(client: Client, queue: Callable[..., tuple[str, str]]) -> None:
    """An event that is delivered twice has the same deduplication id twice."""
    arn, url = queue("events.fifo", FifoQueue="true")
    event = an_event()

    for _ in range(2):
        aws.deliver(QueueTarget(arn=arn), json.dumps(event), "")

    assert received(client, url) == [event]


def test_a_topic_gets_the_event(client: Client, queue: Callable[..., tuple[str, str]]) -> None:
    """Its subscribers have the whole of it as message."""
    arn, url = queue("subscriber")
    topic = client("sns").create_topic(Name="events")["TopicArn"]
    client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    event = an_event()

    aws.deliver(TopicTarget(arn=topic), json.dumps(event), "")

    assert received(client, url) == [event]


def test_a_bus_gets_the_event_from_us(client: Client, queue: Callable[..., tuple[str, str]]) -> None:
    """`aws.` is AWS's own: there the source is `ebscrypt`, and detail, type, resources and time are as they were."""
    arn, url = queue("rule-target")
    events = client("events")
    bus = events.create_event_bus(Name="bus")["EventBusArn"]
    events.put_rule(Name="all", EventBusName="bus", EventPattern='{"source": ["ebscrypt"]}')
    events.put_targets(Rule="all", EventBusName="bus", Targets=[{"Id": "1", "Arn": arn}])
    event = an_event()

    told = aws.deliver(BusTarget(arn=bus), json.dumps(event), "")

    (got,) = received(client, url)
    assert told.startswith("EventId ")
    assert got["source"] == "ebscrypt"
    for name in ("detail", "detail-type", "resources"):
        assert got[name] == event[name]
    assert got["time"].startswith(event["time"].removesuffix("Z"))


def test_a_queue_that_is_gone_is_final(client: Client) -> None:
    """As with EventBridge: what does not exist does not come back by asking 185 times."""
    del client
    target = QueueTarget(arn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:nowhere")

    with pytest.raises(Undelivered, match=r"NonExistentQueue|does not exist") as caught:
        aws.deliver(target, json.dumps(an_event()), "")

    assert caught.value.final


def test_aws_away_is_tried_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the endpoint."""
    del client
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(Undelivered, match=r"127\.0\.0\.1:9") as caught:
        aws.deliver(TopicTarget(arn=f"arn:aws:sns:{REGION}:{ACCOUNT}:t", timeout=2), json.dumps(an_event()), "")

    assert not caught.value.final


def test_a_profile_that_is_missing_is_told(client: Client) -> None:
    """By its name."""
    del client
    target = TopicTarget(arn=f"arn:aws:sns:{REGION}:{ACCOUNT}:t")

    with pytest.raises(Undelivered, match="no-such-profile"):
        aws.deliver(target, json.dumps(an_event()), "no-such-profile")


@pytest.mark.parametrize(
    ("code", "status", "final"),
    [
        ("ThrottlingException", 400, False),
        ("Throttled", 400, False),
        ("ExpiredToken", 403, False),
        ("InternalError", 500, False),
        ("ServiceUnavailable", 503, False),
        ("AuthorizationError", 403, True),
        ("NotFound", 404, True),
        ("InvalidParameter", 400, True),
    ],
)
def test_refusals_of_a_call(
    client: Client, monkeypatch: pytest.MonkeyPatch, code: str, status: int, *, final: bool
) -> None:
    """Throttling, expired credentials and AWS's own trouble pass; a missing permission or topic does not."""
    sns = client("sns")
    monkeypatch.setattr(aws, "_made", lambda *_: sns)
    with Stubber(sns) as stubber:
        stubber.add_client_error("publish", code, "no", status)

        with pytest.raises(Undelivered, match=code) as caught:
            aws.deliver(TopicTarget(arn=f"arn:aws:sns:{REGION}:{ACCOUNT}:t"), json.dumps(an_event()), "")

    assert caught.value.final is final


@pytest.mark.parametrize(
    ("code", "final"),
    [("InternalFailure", False), ("ThrottlingException", False), ("NotAuthorizedForSourceException", True)],
)
def test_refusals_of_an_entry(client: Client, monkeypatch: pytest.MonkeyPatch, code: str, *, final: bool) -> None:
    """PutEvents answers 200 even where it took nothing: the entry's own code counts."""
    events = client("events")
    monkeypatch.setattr(aws, "_made", lambda *_: events)
    with Stubber(events) as stubber:
        answer = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": code, "ErrorMessage": "no"}]}
        stubber.add_response("put_events", answer)

        with pytest.raises(Undelivered, match=code) as caught:
            aws.deliver(BusTarget(arn=f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/b"), json.dumps(an_event()), "")

    assert caught.value.final is final

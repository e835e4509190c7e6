"""Rules: what `put` takes and refuses, what it leaves as it is, and what TestEventPattern says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.errors import CatalogDamaged, InvalidEventPattern, InvalidParameter, MissingDependency, RuleNotFound
from ebscrypt.events import rules
from ebscrypt.events.targets.kinds import (
    BusTarget,
    CommandTarget,
    QueueTarget,
    RetryPolicy,
    Target,
    TopicTarget,
    WebhookTarget,
)

PATTERN = '{"source": ["aws.ec2"]}'
BUS = "arn:aws:events:eu-central-1:111122223333:event-bus/default"
TOPIC = "arn:aws:sns:eu-central-1:111122223333:topic.fifo"
QUEUE = "arn:aws:sqs:eu-central-1:111122223333:queue"


def test_a_rule_is_read_back_as_it_was_put(catalog: Catalog) -> None:
    """Every kind of target, with timeout and retry policy, through the catalog's text and back."""
    policy = RetryPolicy(maximum_retry_attempts=0, maximum_event_age_in_seconds=60)
    targets: dict[str, Target] = {
        "command-1": CommandTarget(argv=("/bin/echo", "a b", "ü"), timeout=1.5, retry_policy=policy),
        "webhook-1": WebhookTarget(url="https://hooks.example.com/x?token=1"),
        "bus": BusTarget(arn=BUS),
        "topic": TopicTarget(arn=TOPIC),
        "queue": QueueTarget(arn=QUEUE),
    }

    put = rules.put_rule(catalog, "a.B-c_1", event_pattern=PATTERN, description="why", targets=targets)

    assert put == rules.Rule("a.B-c_1", PATTERN, enabled=True, description="why", targets=targets)
    assert rules.list_rules(catalog) == [put]


def test_what_is_not_given_stays(catalog: Catalog) -> None:
    """A put that only changes the state keeps pattern, description and targets."""
    command = {"c": CommandTarget(argv=("/bin/true",))}
    rules.put_rule(catalog, "r", event_pattern=PATTERN, description="why", targets=command)

    rule = rules.put_rule(catalog, "r", enabled=False)

    assert rule == rules.Rule("r", PATTERN, enabled=False, description="why", targets=command)
    assert rules.put_rule(catalog, "r", targets={}).targets == {}


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a/b", "ä", "a\n", "a" * 10_000])
def test_names_are_eventbridges(catalog: Catalog, name: str) -> None:
    """1 to 64 of its characters; a message never shows more of another than fits a line."""
    with pytest.raises(InvalidParameter, match="name of a rule") as caught:
        rules.put_rule(catalog, name, event_pattern=PATTERN)

    assert len(caught.value.message) < 200
    assert rules.list_rules(catalog) == []


def test_a_new_rule_needs_a_pattern(catalog: Catalog) -> None:
    """There is no rule for nothing."""
    with pytest.raises(MissingDependency, match="no pattern"):
        rules.put_rule(catalog, "r", enabled=True)


def test_a_wrong_pattern_is_refused_with_its_place(catalog: Catalog) -> None:
    """And the rule stays what it was."""
    rules.put_rule(catalog, "r", event_pattern=PATTERN)

    with pytest.raises(InvalidEventPattern, match=r"detail\.event"):
        rules.put_rule(catalog, "r", event_pattern='{"detail": {"event": "attachVolume"}}')

    assert rules.list_rules(catalog)[0].event_pattern == PATTERN


WRONG: list[tuple[Target, str]] = [
    (CommandTarget(argv=("no-such-program",)), "no program"),
    (CommandTarget(argv=("bin/true",)), "relative"),
    (CommandTarget(argv=("/etc/passwd",)), "no program"),
    (CommandTarget(argv=("/bin/true", "a\0b")), "null byte"),
    (CommandTarget(argv=()), "length >= 1"),
    (CommandTarget(argv=("/bin/true",), timeout=0), "Timeout"),
    (CommandTarget(argv=("/bin/true",), retry_policy=RetryPolicy(186)), "RetryPolicy"),
    (CommandTarget(argv=("/bin/true",), retry_policy=RetryPolicy(1, 59)), "MaximumEventAgeInSeconds"),
    (WebhookTarget(url="ftp://example.com/"), "not an http"),
    (WebhookTarget(url="file:///etc/passwd"), "not an http"),
    (WebhookTarget(url="https://"), "not an http"),
    (WebhookTarget(url="https://example.com:99999/"), "not an http"),
    (WebhookTarget(url="https://exa mple.com/"), "not an http"),
    (WebhookTarget(url="https://example.com/\r\nX: y"), "not an http"),
    (WebhookTarget(url="https://user:secret@example.com/"), "user name"),
    (BusTarget(arn=TOPIC), "not the ARN"),
    (BusTarget(arn="arn:aws:events:eu-central-1:111122223333:rule/x"), "not the ARN"),
    (BusTarget(arn="default"), "not the ARN"),
    (TopicTarget(arn=QUEUE), "not the ARN"),
    (QueueTarget(arn=QUEUE + "\n"), "not the ARN"),
    (QueueTarget(arn="arn:" * 10_000), "not the ARN"),
]


@pytest.mark.parametrize(("target", "message"), WRONG, ids=range(len(WRONG)))
def test_targets_that_cannot_work_are_refused(catalog: Catalog, target: Target, message: str) -> None:
    """At once and by name, not at three in the morning."""
    with pytest.raises(InvalidParameter, match=message) as caught:
        rules.put_rule(catalog, "r", event_pattern=PATTERN, targets={"t": target})

    assert len(caught.value.message) < 400
    assert "secret" not in caught.value.message
    assert rules.list_rules(catalog) == []


def test_a_rule_has_five_targets_at_most(catalog: Catalog) -> None:
    """EventBridge's limit."""
    targets: dict[str, Target] = {str(number): CommandTarget(argv=("/bin/true",)) for number in range(6)}

    with pytest.raises(InvalidParameter, match="6 targets"):
        rules.put_rule(catalog, "r", event_pattern=PATTERN, targets=targets)
    targets.pop("5")

    assert len(rules.put_rule(catalog, "r", event_pattern=PATTERN, targets=targets).targets) == 5


def test_a_program_is_looked_for_on_the_path_that_it_will_have(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the path of who puts the rule, or it would be found now and not when it counts."""
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(InvalidParameter, match="no program"):
        rules.put_rule(catalog, "r", event_pattern=PATTERN, targets={"t": CommandTarget(argv=("only-here",))})

    rules.put_rule(catalog, "r", event_pattern=PATTERN, targets={"t": CommandTarget(argv=(str(program),))})


def test_a_damaged_target_is_told(catalog: Catalog) -> None:
    """With the way out; and the rule can be deleted."""
    rules.put_rule(catalog, "r", event_pattern=PATTERN, targets={"t": CommandTarget(argv=("/bin/true",))})
    with catalog._transaction(write=True) as connection:
        connection.exec_driver_sql('UPDATE rule_targets SET body = \'{"Type": "Pigeon"}\'')

    with pytest.raises(CatalogDamaged, match="Pigeon"):
        rules.list_rules(catalog)
    rules.delete_rule(catalog, "r")

    assert rules.list_rules(catalog) == []


def test_deleting_what_is_not_there_is_refused(catalog: Catalog) -> None:
    """By name."""
    with pytest.raises(RuleNotFound, match="'r'"):
        rules.delete_rule(catalog, "r")


def test_test_event_pattern_is_eventbridges(make_event: Callable[..., dict[str, Any]]) -> None:
    """True, false, and what it wants an event to have."""
    event = make_event()

    assert rules.test_event_pattern('{"detail": {"event": ["attachVolume"]}}', event) is True
    assert rules.test_event_pattern('{"detail": {"event": ["createVolume"]}}', event) is False
    with pytest.raises(InvalidEventPattern):
        rules.test_event_pattern('{"source": []}', event)
    with pytest.raises(InvalidParameter, match="not a JSON object"):
        rules.test_event_pattern(PATTERN, [event])
    for name in ("id", "account", "source", "time", "region", "resources", "detail-type"):
        with pytest.raises(InvalidParameter, match=f"no {name}$"):
            rules.test_event_pattern(PATTERN, {key: value for key, value in event.items() if key != name})

"""`ebscrypt events` and `ebscrypt rule`: what they print, refuse and leave."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import VolumeEvent, volume_event

Run = Callable[..., Any]
PATTERN = '{"detail": {"event": ["createVolume"]}}'


@pytest.fixture
def three(run: Run) -> list[str]:
    """Ids of three volumes that were made, so that there are three events."""
    return [run("create", "--size", "1M", "--no-encrypted").out.strip() for _ in range(3)]


def test_events_as_json_are_one_event_a_line(run: Run, three: list[str]) -> None:
    """Exactly EventBridge's members, oldest first."""
    ran = run("events", "--output", "json")
    events = [json.loads(line) for line in ran.out.splitlines()]

    assert (ran.status, ran.err) == (0, "")
    assert [event["resources"][0].rpartition("/")[2] for event in events] == three
    assert set(events[0]) == {
        "version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail",
    }  # fmt: skip


def test_events_as_text_are_one_line_each(run: Run, three: list[str]) -> None:
    """Sequence number, time, event, result, volume; and the cause where there is one."""
    lines = run("events").out.splitlines()

    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert [line.split()[2:] for line in lines] == [["createVolume", "available", volume] for volume in three]


@pytest.mark.parametrize(
    ("words", "sequences"),
    [
        (["--limit", "2"], ["2", "3"]),
        (["--limit", "0"], []),
        (["--after", "1"], ["2", "3"]),
        (["--after", "1", "--limit", "1"], ["2"]),
        (["--after", "3"], []),
        (["--after", "0"], ["1", "2", "3"]),
    ],
)
@pytest.mark.usefixtures("three")
def test_events_can_be_bounded(run: Run, words: list[str], sequences: list[str]) -> None:
    """The newest so many, or from a place on page by page."""
    assert [line.split()[0] for line in run("events", *words).out.splitlines()] == sequences


@pytest.mark.usefixtures("three")
def test_events_go_on_after_an_id(run: Run) -> None:
    """A reader of JSON has no sequence numbers, but the id of the last event that it saw."""
    events = [json.loads(line) for line in run("events", "--output", "json").out.splitlines()]

    ran = run("events", "--output", "json", "--after", events[1]["id"])

    assert [json.loads(line) for line in ran.out.splitlines()] == events[2:]


@pytest.mark.parametrize(
    "words", [["--after", "no-such-id"], ["--after", "x" * 10_000], ["--limit", "-1"], ["--limit", "9" * 5000]]
)
def test_a_place_that_is_none_is_refused(run: Run, words: list[str]) -> None:
    """By the option's name, in one line."""
    ran = run("events", *words)

    assert (ran.status, ran.out) == (2, "")
    assert words[0] in ran.err.splitlines()[0]
    assert len(ran.err) < 400


def test_a_cause_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    """Control characters in what a KMS said are shown as such."""
    with Catalog(tmp_path / "state" / "catalog.db") as catalog:
        catalog.add_event(
            volume_event(
                VolumeEvent.ATTACH, "failed", volume_id="vol-1", region="r", account="1" * 12, cause="\x1b[2Jü\n gone"
            )
        )

    ran = run("events")

    assert ran.out.endswith("vol-1  �[2Jü� gone\n")


def test_the_setting_keep_is_heeded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """events.keep says how many events there are at most."""
    monkeypatch.setenv("EBSCRYPT_EVENTS_KEEP", "2")
    for _ in range(4):
        run("create", "--size", "1M", "--no-encrypted")

    assert [line.split()[0] for line in run("events").out.splitlines()] == ["3", "4"]


def test_a_rule_is_put_listed_changed_and_deleted(run: Run) -> None:
    """Silently in text; `ls` shows state, what is pending, what is dead, and the targets without their secrets."""
    ran = run("rule", "put", "wake", "--event-pattern", PATTERN, "--command", "/bin/echo 'a b'")
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    run("rule", "put", "hook", "--event-pattern", PATTERN, "--webhook", "https://h.example/x?token=geheim")
    run("rule", "put", "hook", "--state", "DISABLED")

    assert run("rule", "ls").out.splitlines() == [
        "RULE  STATE     PENDING  DEAD  TARGETS",
        "hook  DISABLED  0        0     https://h.example/…",
        "wake  ENABLED   0        0     /bin/echo 'a b'",
    ]
    assert run("rule", "delete", "hook").status == 0
    assert [rule["Name"] for rule in run("rule", "ls", "--output", "json").json["Rules"]] == ["wake"]


def test_a_rule_as_json_is_eventbridges(run: Run, tmp_path: Path) -> None:
    """Name, EventPattern, State, and each target with its id and retry policy."""
    bus = "arn:aws:events:eu-central-1:111122223333:event-bus/b"
    words = ["--command", "/bin/true", "--command", "/bin/false x", "--event-bus", bus]
    more = ["--maximum-retry-attempts", "0", "--maximum-event-age-in-seconds", "60", "--timeout", "2.5"]

    put = run("rule", "put", "r", "--event-pattern", PATTERN, *words, *more, "--output", "json").json

    common = {
        "Timeout": 2.5,
        "RetryPolicy": {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60},
    }
    assert put == {
        "Name": "r",
        "EventPattern": PATTERN,
        "State": "ENABLED",
        "Description": "",
        "Targets": [
            {"Id": "command-1", "Type": "Command", **common, "Argv": ["/bin/true"]},
            {"Id": "command-2", "Type": "Command", **common, "Argv": ["/bin/false", "x"]},
            {"Id": "event-bus-1", "Type": "EventBus", **common, "Arn": bus},
        ],
        "Pending": 0,
        "DeadLetters": 0,
        "DeadLetterFile": str(tmp_path / "state/events/dead-letters/r.jsonl"),
    }


def test_a_rule_without_targets_is_noted(run: Run) -> None:
    """It can be meant, but rarely is."""
    run("rule", "put", "r", "--event-pattern", PATTERN, "--command", "/bin/true")

    ran = run("rule", "put", "r", "--no-targets")

    assert ran.status == 0
    assert "no target yet" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a b", "--event-pattern", PATTERN], "'a b' is not the name of a rule"),
        (["r"], "has no pattern"),
        (["r", "--event-pattern", "nonsense"], "event pattern"),
        (["r", "--event-pattern", '{"a": "b"}'], "at a"),
        (["r", "--event-pattern", "file:///nowhere"], "/nowhere"),
        (["r", "--event-pattern", PATTERN, "--command", "'"], "--command"),
        (["r", "--event-pattern", PATTERN, "--command", ""], "--command"),
        (["r", "--event-pattern", PATTERN, "--command", "nowhere"], "nowhere"),
        (["r", "--event-pattern", PATTERN, "--webhook", "gopher://x"], "gopher://x"),
        (["r", "--event-pattern", PATTERN, "--queue", "https://sqs"], "https://sqs"),
        (["r", "--event-pattern", PATTERN, "--command", "/bin/true", "--timeout", "-1"], "Timeout"),
        (["r", "--event-pattern", PATTERN, "--command", "/bin/true", "--no-targets"], "--no-targets"),
        (["r", "--event-pattern", PATTERN, "--state", "ON"], "--state"),
        (["r", "--event-pattern", PATTERN, "--description", "x" * 513], "description"),
        (["r", "--event-pattern", PATTERN, *["--command", "/bin/true"] * 6], "6 targets"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(run: Run, words: list[str], message: str) -> None:
    """As a matter of usage, and nothing is put."""
    ran = run("rule", "put", *words)

    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err.splitlines()[0]
    assert run("rule", "ls").out.splitlines()[1:] == []


def test_deleting_an_unknown_rule_is_refused(run: Run) -> None:
    """With what to do next."""
    ran = run("rule", "delete", "nobody")

    assert ran.status == 1
    assert "'nobody'" in ran.err
    assert "hint: `ebscrypt rule ls`" in ran.err


@pytest.mark.usefixtures("three")
def test_rule_test_is_test_event_pattern(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, files and stdin; true, false, and AWS's Result in JSON."""
    event = run("events", "--limit", "1", "--output", "json").out
    (tmp_path / "event").write_text(event)
    (tmp_path / "pattern").write_text(PATTERN)

    assert run("rule", "test", PATTERN, event).out == "true\n"
    assert run("rule", "test", f"file://{tmp_path}/pattern", f"file://{tmp_path}/event").out == "true\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(event))
    assert run("rule", "test", '{"source": ["other"]}', "-").out == "false\n"
    assert run("rule", "test", PATTERN, event, "--output", "json").json == {"Result": True}


@pytest.mark.parametrize(
    ("event", "message"), [("{", "not JSON"), ("[]", "not a JSON object"), ('{"id": 1}', "has no account")]
)
def test_rule_test_refuses_what_is_no_event(run: Run, event: str, message: str) -> None:
    """TestEventPattern wants a whole one."""
    ran = run("rule", "test", PATTERN, event)

    assert ran.status == 2
    assert message in ran.err


def test_rule_deliver_is_for_timers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It delivers what there is, in the foreground; and `--help` does not speak of it."""
    monkeypatch.setattr("ebscrypt.control.deliveries.start_deliverer", lambda _: None)
    run("rule", "put", "r", "--event-pattern", PATTERN, "--command", f"/bin/cp /dev/stdin {tmp_path}/got")
    run("create", "--size", "1M", "--no-encrypted")
    assert not (tmp_path / "got").exists()

    ran = run("rule", "deliver")

    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert json.loads((tmp_path / "got").read_text())["detail"]["event"] == "createVolume"
    assert "deliver" not in run("rule", "--help").out


def test_without_rules_no_deliverer_is_started(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for a rule that is disabled."""
    started: list[object] = []
    monkeypatch.setattr("ebscrypt.control.deliveries.start_deliverer", started.append)
    run("create", "--size", "1M", "--no-encrypted")
    run("rule", "put", "r", "--event-pattern", PATTERN, "--command", "/bin/true", "--state", "DISABLED")
    run("create", "--size", "1M", "--no-encrypted")
    assert started == []

    run("rule", "put", "r", "--state", "ENABLED")
    run("ls")
    assert started == []
    run("create", "--size", "1M", "--no-encrypted")

    assert len(started) == 1


def test_a_deliverer_that_cannot_start_fails_no_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume is made, and its event waits for the next command."""
    run("rule", "put", "r", "--event-pattern", PATTERN, "--command", "/bin/true")
    monkeypatch.setattr("sys.executable", "/nowhere/python")

    ran = run("create", "--size", "1M", "--no-encrypted")

    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("vol-")


@pytest.mark.parametrize("status", [0, 1])
def test_under_systemd_the_deliverer_is_a_unit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """It must not live in the control group of the step that had the event; without systemd's help we start it."""
    fake = tmp_path / "bin" / "systemd-run"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\nexit {status}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    monkeypatch.setattr("ebscrypt.control.systemd.is_used", lambda _: True)
    started: list[object] = []
    monkeypatch.setattr("ebscrypt.control.deliveries.start_deliverer", started.append)
    run("rule", "put", "r", "--event-pattern", PATTERN, "--command", "/bin/true")

    run("create", "--size", "1M", "--no-encrypted")

    words = (tmp_path / "words").read_text().splitlines()
    assert words[-3:] == [sys.executable, "-m", "ebscrypt.events.deliver"]
    assert "--no-block" in words
    assert len(started) == status

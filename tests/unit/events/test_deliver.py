"""The deliverer in this process: what it takes in, tries again, writes off and writes down."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.config import Settings
from ebscrypt.events import deliver as deliverer
from ebscrypt.events import records
from ebscrypt.events.deliver import pause_bound, run
from ebscrypt.events.rules import put_rule
from ebscrypt.events.targets.kinds import CommandTarget, RetryPolicy, Target, WebhookTarget

Make = Callable[..., dict[str, Any]]
FAILED = '{"detail": {"result": ["failed"]}}'


def at_once(_low: float, _high: float) -> float:
    """The shortest pause that full jitter may draw."""
    return 0.0


def put(catalog: Catalog, name: str = "r", pattern: str = FAILED, **targets: Target) -> None:
    put_rule(catalog, name, event_pattern=pattern, targets=targets)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def letters(settings: Settings, name: str = "r") -> list[dict[str, Any]]:
    return lines(records.dead_letters_path(settings, name))


def test_matching_events_arrive_once(settings: Settings, catalog: Catalog, hook: Any, make_event: Make) -> None:
    """Of 100, the 50 that the pattern wants, each once, in their order; then nothing is left."""
    put(catalog, w=WebhookTarget(url=hook.url))
    events = [make_event(result=("failed", "available")[number % 2]) for number in range(100)]
    for event in events:
        catalog.add_event(event)

    assert run(settings)

    assert hook.got == events[::2]
    assert not catalog.rules.is_work_left()
    assert [line["Result"] for line in lines(records.log_path(settings))] == ["delivered"] * 50
    assert "geheim" not in records.log_path(settings).read_text()


def test_each_target_gets_its_own(settings: Settings, catalog: Catalog, hook: Any, make_event: Make) -> None:
    """A target that fails does not keep the event from another one of the same rule."""
    put(catalog, bad=CommandTarget(argv=("/bin/false",), retry_policy=RetryPolicy(0)), good=WebhookTarget(url=hook.url))
    event = make_event()
    catalog.add_event(event)

    run(settings, at_once)

    assert hook.got == [event]
    assert [letter["TargetId"] for letter in letters(settings)] == ["bad"]


def test_what_fails_is_tried_again(settings: Settings, catalog: Catalog, hook: Any, make_event: Make) -> None:
    """Until it arrives; the log tells each attempt with its reason."""
    hook.answers = [(500, {}), (503, {}), (429, {})]
    put(catalog, w=WebhookTarget(url=hook.url))
    event = make_event()
    catalog.add_event(event)

    run(settings, at_once)

    assert hook.got == [event] * 4
    log = lines(records.log_path(settings))
    assert [(line["Attempt"], line["Result"]) for line in log] == [
        (1, "failed"), (2, "failed"), (3, "failed"), (4, "delivered"),
    ]  # fmt: skip
    assert log[0]["Reason"].endswith("answered 500")


@pytest.mark.parametrize("retries", [0, 3])
def test_attempts_are_bounded(
    settings: Settings, catalog: Catalog, tmp_path: Path, make_event: Make, retries: int
) -> None:
    """MaximumRetryAttempts beyond the first, then a dead letter that holds the event, the reason and the output."""
    script = f"echo tried >> {tmp_path}/tries; echo no luck; exit 7"
    policy = RetryPolicy(maximum_retry_attempts=retries)
    put(catalog, c=CommandTarget(argv=("/bin/sh", "-c", script), retry_policy=policy))
    event = make_event()
    catalog.add_event(event)

    run(settings, at_once)

    assert (tmp_path / "tries").read_text().count("tried") == retries + 1
    (letter,) = letters(settings)
    assert letter["Event"] == event
    assert letter["Attempt"] == retries + 1
    assert letter["Condition"] == "MaximumRetryAttempts"
    assert letter["Reason"] == "the command ended with status 7"
    assert letter["Output"] == "no luck\n"
    assert letter["Rule"] == "r"
    assert not catalog.rules.is_work_left()


def test_age_is_bounded(settings: Settings, catalog: Catalog, make_event: Make) -> None:
    """When the next attempt would come after MaximumEventAgeInSeconds, this one was the last."""
    policy = RetryPolicy(maximum_event_age_in_seconds=60)
    put(catalog, c=CommandTarget(argv=("/bin/false",), retry_policy=policy))
    catalog.add_event(make_event())

    run(settings, lambda _low, _high: 61.0)

    (letter,) = letters(settings)
    assert (letter["Condition"], letter["Attempt"]) == ("MaximumEventAgeInSeconds", 1)


def test_what_cannot_succeed_is_not_repeated(settings: Settings, catalog: Catalog, hook: Any, make_event: Make) -> None:
    """A 404 is a dead letter at once."""
    hook.answers = [(404, {})]
    put(catalog, w=WebhookTarget(url=hook.url))
    catalog.add_event(make_event())

    run(settings, at_once)

    (letter,) = letters(settings)
    assert (letter["Condition"], letter["Attempt"]) == ("NotRetryable", 1)
    assert len(hook.got) == 1
    assert "geheim" not in json.dumps(letter)


def test_dead_letters_are_private_and_named_by_their_rule(
    settings: Settings, catalog: Catalog, make_event: Make
) -> None:
    """Mode 0600 in a directory of 0700; a rule may be called "..", and stays in the directory all the same."""
    put(catalog, "..", c=CommandTarget(argv=("/bin/false",), retry_policy=RetryPolicy(0)))
    catalog.add_event(make_event())

    run(settings, at_once)

    path = settings.events_dir / "dead-letters" / "...jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert records.count_dead_letters(settings, "..") == 1


def test_a_slow_target_holds_up_no_other(settings: Settings, catalog: Catalog, hook: Any, make_event: Make) -> None:
    """While one hangs, the next one gets its events; and one target has one attempt at a time."""
    put(catalog, "slow", w=WebhookTarget(url=hook.url))
    put(catalog, "fast", c=CommandTarget(argv=("/bin/true",)))
    hook.held.clear()
    for _ in range(3):
        catalog.add_event(make_event())
    thread = threading.Thread(target=run, args=(settings, at_once))
    thread.start()
    try:
        while catalog.rules.one("fast").pending or catalog.rules.one("fast").cursor < 3:
            time.sleep(0.01)
        assert len(hook.got) == 1
        assert catalog.rules.one("slow").pending == 3
    finally:
        hook.held.set()
        thread.join()

    assert len(hook.got) == 3


def test_a_target_that_never_ends_is_given_up(
    settings: Settings, catalog: Catalog, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its own timeout missed; the deliverer does not hang with it."""
    hung = threading.Event()
    monkeypatch.setattr(deliverer, "_LATE", 0.1)
    monkeypatch.setattr(deliverer, "deliver", lambda *_, **__: hung.wait(60))
    put(catalog, c=CommandTarget(argv=("/bin/true",), timeout=0.1, retry_policy=RetryPolicy(0)))
    catalog.add_event(make_event())

    run(settings, at_once)
    hung.set()

    assert letters(settings)[0]["Reason"] == "the target gave no answer in time"


def test_a_targets_surprise_is_its_own(
    settings: Settings, catalog: Catalog, make_event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw is a failed attempt, not the end of the deliverer."""

    def surprise(*_: Any, **__: Any) -> str:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(deliverer, "deliver", surprise)
    put(catalog, c=CommandTarget(argv=("/bin/true",), retry_policy=RetryPolicy(1)))
    catalog.add_event(make_event())

    run(settings, at_once)

    assert letters(settings)[0]["Reason"] == "ZeroDivisionError: surprise"


def test_a_damaged_target_is_a_dead_letter(settings: Settings, catalog: Catalog, make_event: Make) -> None:
    """It does not stand in the way of the others for ever."""
    put(catalog, "bad", c=CommandTarget(argv=("/bin/true",)))
    put(catalog, "good", c=CommandTarget(argv=("/bin/true",)))
    with catalog._transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE rule_targets SET body = '{}' WHERE rule_name = 'bad'")
    catalog.add_event(make_event())

    run(settings, at_once)

    assert letters(settings, "bad")[0]["Condition"] == "NotRetryable"
    assert records.count_dead_letters(settings, "good") == 0
    assert not catalog.rules.is_work_left()


def test_events_that_come_meanwhile_are_delivered_too(
    settings: Settings, catalog: Catalog, tmp_path: Path, make_event: Make
) -> None:
    """A rule's command may cause the next event; the deliverer ends after that one."""
    put(catalog, c=CommandTarget(argv=("/bin/sh", "-c", f"cat >> {tmp_path}/got")))
    first, second = make_event(), make_event()
    catalog.add_event(first)
    remove = catalog.rules.__class__.remove_delivery
    added: list[dict[str, Any]] = []

    def add_then_remove(rules: Any, delivery: Any) -> None:
        if not added:
            added.append(second)
            catalog.add_event(second)
        remove(rules, delivery)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(catalog.rules.__class__, "remove_delivery", add_then_remove)
        run(settings)

    assert lines(tmp_path / "got") == [first, second]


def test_pauses_grow_and_are_drawn_from_zero(settings: Settings, catalog: Catalog, make_event: Make) -> None:
    """Full jitter: each pause is drawn between 0 and a bound that doubles from one second to a quarter of an hour."""
    bounds: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    put(catalog, c=CommandTarget(argv=("/bin/false",), retry_policy=RetryPolicy(4)))
    catalog.add_event(make_event())
    run(settings, draw)

    assert bounds == [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16)]
    assert [pause_bound(failed) for failed in (9, 10, 185)] == [512, 900, 900]
    assert 20 * 3600 < sum(map(pause_bound, range(185))) / 2 < 24 * 3600


def test_nothing_but_the_pause_is_waited_for(settings: Settings, catalog: Catalog, hook: Any, make_event: Make) -> None:
    """A retry that is due in half a second comes then; and the deliverer does not spin until it is."""
    hook.answers = [(500, {})]
    put(catalog, w=WebhookTarget(url=hook.url))
    catalog.add_event(make_event())
    began, used = time.monotonic(), time.process_time()

    run(settings, lambda _low, _high: 0.5)

    assert 0.5 <= time.monotonic() - began < 10
    assert time.process_time() - used < 0.4
    assert len(hook.got) == 2


def test_retry_after_prolongs_the_pause(settings: Settings, catalog: Catalog, hook: Any, make_event: Make) -> None:
    """The target knows best."""
    hook.answers = [(503, {"Retry-After": "1"})]
    put(catalog, w=WebhookTarget(url=hook.url))
    catalog.add_event(make_event())
    began = time.monotonic()

    run(settings, at_once)

    assert time.monotonic() - began >= 1

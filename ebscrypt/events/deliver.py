"""The deliverer: `python -m ebscrypt.events.deliver` brings events to the targets of their rules, and ends.

A command that leaves events behind starts it, detached, if none is at work; nothing that happens here can delay or
fail that command. It takes the rules' next events in, makes one attempt per target at a time, tries failed ones again
after a pause drawn from a growing bound (full jitter), writes off what cannot arrive to the rule's dead letters, and
ends when nothing is left. Delivery is *at least once*: a deliverer that is killed leaves the catalog as it was before
the attempts that were under way, and the next one makes them again.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

import msgspec

from ebscrypt import config
from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.rules import Delivery, StoredRule
from ebscrypt.config import Settings
from ebscrypt.errors import CatalogDamaged, EbscryptError, InvalidEventPattern
from ebscrypt.events import records
from ebscrypt.events.patterns import Pattern
from ebscrypt.events.targets import kinds
from ebscrypt.events.targets.delivery import deliver
from ebscrypt.events.targets.kinds import RetryPolicy
from ebscrypt.events.targets.outcome import Undelivered
from ebscrypt.events.turn import Bell, turn

FIRST_PAUSE: Final = 1.0
"""Seconds: the bound of the pause before the first retry. It doubles with each one."""
LONGEST_PAUSE: Final = 900.0
"""Seconds: 185 retries with pauses of up to this, 450 on average, take about a day, EventBridge's default age."""
AT_ONCE: Final = 8
"""Targets that are tried at the same time: one that hangs must not hold up the others."""
_BATCH: Final = 500
"""Events that a rule takes in in one transaction."""
_LONGEST_SLEEP: Final = 60.0
"""Seconds after which the clock is looked at again: it may have been set."""
_LATE: Final = 10.0
"""Seconds beyond its timeout after which an attempt is given up: one server may send a byte now and then for ever."""


class _Attempt(msgspec.Struct, frozen=True):
    delivery: Delivery
    target: str
    policy: RetryPolicy
    give_up_at: float


_Outcome = tuple[int, str | Undelivered]


def run(settings: Settings, uniform: Callable[[float, float], float] = random.uniform) -> bool:
    """Deliver until nothing is left; False if another deliverer is at work. ``uniform`` draws the pauses."""
    with turn(settings) as ours:
        if not ours:
            return False
        with Catalog(settings.catalog_path, keep_events=settings.events.keep) as catalog:
            while catalog.rules.is_work_left():
                with Bell(settings) as bell:
                    _Deliverer(settings, catalog, bell, uniform).run()
    return True


class _Deliverer:
    """The loop. Only its own thread uses the catalog; each attempt has a thread, which hands its outcome back."""

    def __init__(
        self, settings: Settings, catalog: Catalog, bell: Bell, uniform: Callable[[float, float], float]
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._bell = bell
        self._uniform = uniform
        self._attempts: dict[int, _Attempt] = {}
        self._outcomes: SimpleQueue[_Outcome] = SimpleQueue()

    def run(self) -> None:
        while True:
            self._take_in()
            self._start_due()
            due = self._catalog.rules.next_due(self._busy())
            if due is None and not self._attempts:
                return
            self._bell.wait(self._pause(due))
            self._settle()

    def _busy(self) -> set[tuple[str, str]]:
        return {(one.delivery.rule_name, one.delivery.target_id) for one in self._attempts.values()}

    def _pause(self, due: float | None) -> float:
        """How long there is nothing to do unless someone rings, as the end of each attempt does."""
        ends = [one.give_up_at - time.monotonic() for one in self._attempts.values()]
        if due is not None and len(ends) < AT_ONCE:
            ends.append(due - time.time())
        return min(_LONGEST_SLEEP, *ends)

    def _take_in(self) -> None:
        newest = self._catalog.newest_sequence()
        for rule in self._catalog.rules.all():
            while rule.enabled and rule.cursor < newest:
                events = self._catalog.rules.unseen(rule, _BATCH)
                cursor = events[-1][0] if events else newest
                matched = [sequence for sequence, event in events if self._wants(rule, event)]
                if not self._catalog.rules.take_in(rule, cursor, matched, time.time()):
                    self._bell.ring()  # it was changed meanwhile: look at it again
                    break
                rule = msgspec.structs.replace(rule, cursor=cursor)  # noqa: PLW2901 - the same rule, further on

    def _wants(self, rule: StoredRule, event: dict[str, object]) -> bool:
        try:
            return Pattern.compile(rule.event_pattern).matches(event)
        except InvalidEventPattern as error:
            # It was sound when it was put; an older version may have been more lenient.
            records.write_log(self._settings, {"Rule": rule.name, "Result": "ignored", "Reason": error.message})
            return False

    def _start_due(self) -> None:
        while len(self._attempts) < AT_ONCE:
            delivery = self._catalog.rules.due(time.time(), self._busy())
            if delivery is None:
                return
            self._start(delivery)

    def _start(self, delivery: Delivery) -> None:
        try:
            target = kinds.decode(delivery.target)
        except CatalogDamaged as error:
            damaged = _Attempt(delivery, delivery.target, RetryPolicy(), time.monotonic())
            self._settle_one(damaged, Undelivered(error.message, final=True))
            return
        give_up_at = time.monotonic() + target.timeout + _LATE
        self._attempts[delivery.delivery_id] = _Attempt(delivery, str(target), target.retry_policy, give_up_at)

        def attempt() -> None:
            outcome: str | Undelivered
            try:
                outcome = deliver(target, delivery.body, profile=self._settings.kms.profile)
            except Undelivered as failure:
                outcome = failure
            except Exception as error:  # noqa: BLE001 - one target's surprise must not take the others along
                outcome = Undelivered(f"{type(error).__name__}: {error}")
            self._outcomes.put((delivery.delivery_id, outcome))
            self._bell.ring()

        Thread(target=attempt, name=f"deliver-{delivery.delivery_id}", daemon=True).start()

    def _settle(self) -> None:
        """Write down how attempts ended, and give up those that are late."""
        while True:
            try:
                delivery_id, outcome = self._outcomes.get_nowait()
            except Empty:
                break
            if attempt := self._attempts.pop(delivery_id, None):
                self._settle_one(attempt, outcome)
        for attempt in [one for one in self._attempts.values() if one.give_up_at <= time.monotonic()]:
            del self._attempts[attempt.delivery.delivery_id]
            self._settle_one(attempt, Undelivered("the target gave no answer in time"))

    def _settle_one(self, attempt: _Attempt, outcome: str | Undelivered) -> None:
        delivery = attempt.delivery
        told = {"Rule": delivery.rule_name, "TargetId": delivery.target_id, "Attempt": delivery.attempts + 1}
        told["EventId"] = delivery.event["id"]
        if isinstance(outcome, str):
            self._catalog.rules.remove_delivery(delivery)
            records.write_log(self._settings, told | {"Result": "delivered", "Output": outcome})
            return
        told |= {"Reason": outcome.reason, "Output": outcome.output}
        due = time.time() + max(outcome.pause, self._uniform(0, pause_bound(delivery.attempts)))
        if (condition := _exhausted(attempt, outcome, due)) is None:
            self._catalog.rules.put_off(delivery, due)
            records.write_log(self._settings, told | {"Result": "failed", "RetryIn": round(due - time.time(), 1)})
            return
        letter = told | {"Condition": condition, "Target": attempt.target, "Event": delivery.event}
        # First the letter, then the row: a crash between them makes two letters, the other way round none.
        records.write_dead_letter(self._settings, delivery.rule_name, letter)
        self._catalog.rules.remove_delivery(delivery)
        records.write_log(self._settings, told | {"Result": "dead", "Condition": condition})


def pause_bound(failed: int) -> float:
    """Seconds that the pause after ``failed`` failed attempts and one more may last."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failed, 20))


def _exhausted(attempt: _Attempt, failure: Undelivered, due: float) -> str | None:
    """Why there is no further attempt, in EventBridge's words for its dead letters; None if there is one."""
    if failure.final:
        return "NotRetryable"
    if attempt.delivery.attempts >= attempt.policy.maximum_retry_attempts:
        return "MaximumRetryAttempts"
    if due > attempt.delivery.created + attempt.policy.maximum_event_age_in_seconds:
        return "MaximumEventAgeInSeconds"
    return None


def main() -> int:
    """The process's exit status. What goes wrong is in the log: nobody reads its stderr."""
    os.umask(0o077)
    settings = config.load()
    try:
        run(settings)
    except (EbscryptError, OSError) as error:
        records.write_log(settings, {"Result": "stopped", "Reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

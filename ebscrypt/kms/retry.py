"""The one layer that tries again: bounded attempts, full-jitter backoff, one deadline for everything.

botocore's own retries are switched off, since two layers multiply each other and neither knows the deadline. Full
jitter (a pause drawn evenly from zero to the doubled bound) is what spreads clients best after a shared outage:
M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Protocol, TypeVar

from ebscrypt.config import KmsSettings
from ebscrypt.kms.failures import Failure

FIRST_PAUSE: Final = 0.1
"""Seconds: the bound of the first pause. KMS answers in some 10 ms, and its throttle windows are one second."""
LONGEST_PAUSE: Final = 5.0

T = TypeVar("T")


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


class SystemClock:
    """The machine's own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float, /) -> None:
        time.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How one operation is tried: ``attempts`` in all, ``timeout`` seconds each, ``deadline`` seconds together."""

    attempts: int
    timeout: float
    deadline: float
    clock: Clock = field(default_factory=SystemClock)
    uniform: Callable[[float, float], float] = random.uniform

    @classmethod
    def of(cls, settings: KmsSettings, clock: Clock | None = None) -> Retry:
        """As the settings say."""
        limits = {"attempts": settings.attempts, "timeout": settings.timeout, "deadline": settings.deadline}
        return cls(**limits, clock=clock or SystemClock())  # type: ignore[arg-type]

    def run(self, attempt: Callable[[float], T | Failure]) -> T:
        """The first success of ``attempt``, which is told how many seconds it may take.

        Raises the error of the last attempt, when that must not be repeated, when there were enough of them, or when
        the pause before another would pass the deadline. The message says after how many attempts.
        """
        clock, tried = self.clock, 0
        end = clock.monotonic() + self.deadline
        while True:
            outcome = attempt(max(0.0, min(self.timeout, end - clock.monotonic())))
            if not isinstance(outcome, Failure):
                return outcome
            tried += 1
            pause = self.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tried - 1)))
            if not outcome.retry or tried >= self.attempts or clock.monotonic() + pause >= end:
                break
            clock.sleep(pause)
        if tried > 1:
            outcome.error.message += f" (after {tried} attempts)"
            outcome.error.args = (outcome.error.message,)
        raise outcome.error


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``, or TimeoutError after ``seconds``.

    botocore's timeouts bound one connect and one read each. Neither bounds a name lookup, a credential provider or a
    server that sends a byte now and then; so the work runs in a thread, which is left behind when it is late. It is a
    daemon thread and keeps no process alive.
    """
    done: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except Exception as error:  # noqa: BLE001 - handed to the caller, who translates every kind
            done.put((None, error))

    Thread(target=run, name="kms-attempt", daemon=True).start()
    try:
        result, error = done.get(timeout=max(seconds, 0.001))
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # no error means that work returned it

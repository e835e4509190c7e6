"""Attempts, pauses and deadlines, on a clock that nobody waits for."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebscrypt.errors import KmsThrottled
from ebscrypt.kms.failures import Failure
from ebscrypt.kms.retry import FIRST_PAUSE, LONGEST_PAUSE, Retry, within
from tests.unit.kms.scripted import FakeClock


@given(attempts=st.integers(1, 20), deadline=st.floats(0.05, 100), fractions=st.lists(st.floats(0, 1), min_size=20))
@settings(max_examples=200)
def test_never_too_often_and_never_too_late(attempts: int, deadline: float, fractions: list[float]) -> None:
    """Whatever the jitter draws: no more attempts than allowed, no pause over its bound, none past the deadline."""
    clock = FakeClock()
    drawn = iter(fractions)
    retry = Retry(
        attempts=attempts, timeout=5, deadline=deadline, clock=clock, uniform=lambda low, high: low + next(drawn) * high
    )
    allowed: list[float] = []

    def attempt(seconds: float) -> Failure:
        allowed.append(seconds)
        return Failure(KmsThrottled("throttled"), retry=True)

    with pytest.raises(KmsThrottled):
        retry.run(attempt)

    assert 1 <= len(allowed) <= attempts
    rounding = 1e-9
    assert clock.now <= 1000 + deadline + rounding
    assert all(0 <= seconds <= min(5, deadline) + rounding for seconds in allowed)
    for number, pause in enumerate(clock.slept):
        assert 0 <= pause <= min(LONGEST_PAUSE, FIRST_PAUSE * 2**number)


def test_each_attempt_gets_what_is_left() -> None:
    """The last attempt is told the rest of the deadline, not the whole timeout."""
    clock = FakeClock()
    retry = Retry(attempts=9, timeout=5, deadline=7, clock=clock, uniform=lambda _, high: high)
    told: list[float] = []

    def attempt(seconds: float) -> str | Failure:
        told.append(seconds)
        clock.now += seconds
        return Failure(KmsThrottled("throttled"), retry=True)

    with pytest.raises(KmsThrottled):
        retry.run(attempt)

    assert told == [5, pytest.approx(1.9)]


def test_within_returns_raises_and_gives_up() -> None:
    """`within` hands over results and exceptions, and leaves late work behind without waiting for it."""
    release = threading.Event()

    def fail() -> None:
        raise KeyError("x")

    assert within(5, lambda: "done") == "done"
    with pytest.raises(KeyError):
        within(5, fail)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.05, release.wait)
    assert time.monotonic() - started < 2
    release.set()

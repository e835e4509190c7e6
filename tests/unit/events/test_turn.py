"""One deliverer at a time, woken when there is something new, and none overlooked at its end."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from ebscrypt.config import Settings
from ebscrypt.events import turn as turns
from ebscrypt.events.turn import Bell, turn, wake


def test_nobody_to_wake(settings: Settings) -> None:
    """No FIFO, or one that nobody reads."""
    assert not wake(settings)
    with turn(settings), Bell(settings):
        pass

    assert not wake(settings)


def test_of_two_one_has_its_turn(settings: Settings) -> None:
    """The other learns it at once, and has woken the first."""
    with turn(settings) as first, Bell(settings) as bell:
        began = time.monotonic()
        with turn(settings) as second:
            assert (first, second) == (True, False)
        assert time.monotonic() - began < 5
        bell.wait(30)
        assert time.monotonic() - began < 10
    with turn(settings) as third:
        assert third


def test_one_that_is_about_to_end_is_waited_for(settings: Settings) -> None:
    """It does not listen any more, so the next one takes over instead of trusting it."""
    held = os.open(make(settings) / "deliver.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    timer = threading.Timer(0.3, os.close, [held])
    timer.start()

    with turn(settings) as ours:
        assert ours

    timer.join()


def test_one_that_neither_listens_nor_ends_is_not_doubled(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the other gives up; two never run."""
    monkeypatch.setattr(turns, "_PATIENCE", 0.2)
    held = os.open(make(settings) / "deliver.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with turn(settings) as ours:
            assert not ours
    finally:
        os.close(held)


def make(settings: Settings) -> Path:
    settings.events_dir.mkdir(parents=True)
    return settings.events_dir


def test_a_full_bell_rings_all_the_same(settings: Settings) -> None:
    """Neither side blocks, however often it was rung; one look empties it."""
    make(settings)
    with Bell(settings) as bell:
        for _ in range(70_000):
            bell.ring()
        assert wake(settings)
        bell.wait(30)
        began = time.monotonic()
        bell.wait(0.05)
        assert time.monotonic() - began >= 0.05


def test_something_else_in_the_fifos_place_is_replaced(settings: Settings) -> None:
    """A file of that name, from a backup that knows no FIFOs, would read as ended for ever."""
    (make(settings) / "deliver.wake").write_text("not a FIFO")

    with Bell(settings) as bell:
        assert wake(settings)
        bell.wait(30)


def test_a_bell_that_was_put_away_rings_nobody(settings: Settings, tmp_path: Path) -> None:
    """A thread that comes late must not write into the file that has the descriptor's number by then."""
    make(settings)
    with Bell(settings) as bell:
        pass
    others = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(8)]
    try:
        bell.ring()
    finally:
        for other in others:
            os.close(other)

    assert all((tmp_path / str(number)).stat().st_size == 0 for number in range(8))

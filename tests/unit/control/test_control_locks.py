"""The lock of a volume: one command at a time, known by name, gone with its process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.control import locks
from ebscrypt.errors import StateError
from ebscrypt.model import new_volume_id

HOLD = """
import sys, msgspec
from ebscrypt.config import Settings
from ebscrypt.control import locks
settings = msgspec.json.decode(sys.argv[1], type=Settings)
with locks.held(settings, sys.argv[2], sys.argv[3]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(settings: Settings, volume_id: str, command: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until the block ends."""
    arguments = [sys.executable, "-c", HOLD, msgspec.json.encode(settings).decode(), volume_id, command]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_command_is_told_who_has_the_lock(settings: Settings) -> None:
    """When the time is up the error names the command and its process."""
    volume_id = new_volume_id()
    with (
        holder(settings, volume_id, "resize") as process,
        pytest.raises(StateError) as caught,
        locks.held(settings, volume_id, "delete", timeout=0.1),
    ):
        pass

    assert "`resize`" in caught.value.message
    assert str(process.pid) in caught.value.message


def test_it_waits_for_its_turn(settings: Settings) -> None:
    """A command that comes second goes on as soon as the first has ended."""
    volume_id, order = new_volume_id(), []
    taken = threading.Event()

    def first() -> None:
        with locks.held(settings, volume_id, "create"):
            taken.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    taken.wait()
    with locks.held(settings, volume_id, "delete", timeout=10):
        order.append("second")
    thread.join()

    assert order == ["first", "second"]


def test_a_killed_holder_holds_nothing(settings: Settings) -> None:
    """A lock by flock ends with the process: no stale lock is possible."""
    volume_id = new_volume_id()
    with holder(settings, volume_id, "attach") as process:
        assert locks.holder(settings, volume_id) == locks.Holder("attach", process.pid)
        process.kill()
        process.wait()

        assert locks.holder(settings, volume_id) is None
        with locks.held(settings, volume_id, "detach", timeout=0) as ours:
            assert ours


def test_volumes_do_not_wait_for_each_other(settings: Settings) -> None:
    """The lock is the volume's."""
    with locks.held(settings, new_volume_id(), "attach"), locks.held(settings, new_volume_id(), "attach", timeout=0):
        pass


def test_a_step_goes_on_for_the_command_that_waits_for_it(settings: Settings) -> None:
    """What systemd runs on behalf of `attach` does not wait for `attach`, and is told that it need do nothing."""
    volume_id = new_volume_id()
    with (
        holder(settings, volume_id, "attach"),
        locks.held(settings, volume_id, "prepare", timeout=0, on_behalf_of=("attach", "detach")) as ours,
    ):
        assert not ours

    with (
        holder(settings, volume_id, "delete"),
        pytest.raises(StateError),
        locks.held(settings, volume_id, "prepare", timeout=0, on_behalf_of=("attach", "detach")),
    ):
        pass


def test_a_lock_on_a_file_that_is_gone_is_none(settings: Settings) -> None:
    """Who waited for the lock of a deleted volume gets a lock that the next comer sees too."""
    volume_id = new_volume_id()
    with locks.held(settings, volume_id, "delete"):
        waiting = threading.Thread(target=lambda: results.append(hold_and_probe()))
        results: list[locks.Holder | None] = []

        def hold_and_probe() -> locks.Holder | None:
            with locks.held(settings, volume_id, "show", timeout=10):
                return locks.holder(settings, volume_id)

        waiting.start()
        locks.forget(settings, volume_id)
    waiting.join()

    [seen] = results
    assert seen is not None
    assert seen.command == "show"


def test_many_at_once_are_never_two(settings: Settings) -> None:
    """With lock files that come and go, at most one thread is inside at any moment."""
    volume_id, inside, most = new_volume_id(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locks.held(settings, volume_id, "work", timeout=30):
                inside += 1
                most = max(most, inside)
                inside -= 1
                locks.forget(settings, volume_id)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1

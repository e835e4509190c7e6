"""Keys that a server keeps unwrapped: how long, how many, and that each is wiped exactly when it must be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ebscrypt.control.key_cache import KeyCache
from ebscrypt.errors import KmsKeyDisabled


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeCipher:
    """Knows whether it was wiped."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Unwraps:
    """Makes ciphers and keeps them."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self) -> Any:
        self.made.append(FakeCipher())
        return self.made[-1]

    @property
    def wiped(self) -> list[int]:
        return [cipher.closed for cipher in self.made]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Iterator[KeyCache]:
    made = KeyCache(most=3, idle=60, longest=300, clock=clock)
    yield made
    made.close()


@pytest.fixture
def unwraps() -> Unwraps:
    return Unwraps()


def use(cache: KeyCache, name: str, unwrap: Callable[[], Any]) -> None:
    with cache.cipher(name, unwrap):
        pass


def test_a_key_is_unwrapped_once(cache: KeyCache, unwraps: Unwraps) -> None:
    """A second block does not ask KMS again."""
    use(cache, "a", unwraps)
    use(cache, "a", unwraps)
    assert unwraps.wiped == [0]


def test_an_idle_key_is_wiped(cache: KeyCache, clock: Clock, unwraps: Unwraps) -> None:
    """After the idle time, counted from the last use; the next use unwraps again."""
    use(cache, "a", unwraps)
    clock.now += 59
    use(cache, "a", unwraps)
    clock.now += 59
    assert cache.wipe_expired() == 1
    clock.now += 1
    assert cache.wipe_expired() is None
    assert unwraps.wiped == [1]
    use(cache, "a", unwraps)
    assert unwraps.wiped == [1, 0]


def test_a_key_in_steady_use_is_unwrapped_again_now_and_then(cache: KeyCache, clock: Clock, unwraps: Unwraps) -> None:
    """So that a KMS key that was disabled ends the reading of a client that never pauses."""
    for _ in range(11):
        use(cache, "a", unwraps)
        clock.now += 30
    assert unwraps.wiped == [1, 0]


def test_a_key_in_use_is_wiped_by_its_last_user(cache: KeyCache, clock: Clock, unwraps: Unwraps) -> None:
    """Nobody's cipher is closed under his hands."""
    with cache.cipher("a", unwraps):
        with cache.cipher("a", unwraps):
            clock.now += 301
            assert cache.wipe_expired() is None
            assert unwraps.wiped == [0]
        assert unwraps.wiped == [0]
    assert unwraps.wiped == [1]


def test_of_too_many_keys_the_one_not_used_for_longest_goes(cache: KeyCache, unwraps: Unwraps) -> None:
    """The bound holds whatever clients ask for."""
    for name in ("a", "b", "c", "a", "d"):
        use(cache, name, unwraps)
    assert len(cache) == 3
    assert unwraps.wiped == [0, 1, 0, 0]


def test_closing_wipes_all(unwraps: Unwraps) -> None:
    """Also what is in use, once it is not any more."""
    cache = KeyCache()
    use(cache, "a", unwraps)
    with cache.cipher("b", unwraps):
        cache.close()
        assert unwraps.wiped == [1, 0]
    assert unwraps.wiped == [1, 1]


def test_the_cache_wipes_by_itself(unwraps: Unwraps) -> None:
    """Nobody has to ask: a thread of its own sees to it, and ends when there is nothing left."""
    cache = KeyCache(idle=0.05)
    use(cache, "a", unwraps)
    watch = cache._watch
    assert watch is not None
    watch.join(30)
    assert unwraps.wiped == [1]
    assert len(cache) == 0
    cache.close()


def test_many_who_ask_at_once_have_it_unwrapped_once(cache: KeyCache) -> None:
    """The others wait for the one who does it."""
    go_on, asked = threading.Event(), []

    def unwrap() -> Any:
        asked.append(1)
        assert go_on.wait(30)
        return FakeCipher()

    with ThreadPoolExecutor(8) as pool:
        users = [pool.submit(use, cache, "a", unwrap) for _ in range(8)]
        go_on.set()
        for user in users:
            user.result()
    assert asked == [1]


def test_a_failure_is_told_and_tried_again(cache: KeyCache, unwraps: Unwraps) -> None:
    """It is not kept: KMS may answer otherwise the next time."""

    def fail() -> Any:
        raise KmsKeyDisabled("it is disabled")

    for _ in range(2):
        with pytest.raises(KmsKeyDisabled):
            use(cache, "a", fail)
    assert len(cache) == 0
    use(cache, "a", unwraps)
    assert unwraps.wiped == [0]

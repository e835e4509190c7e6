import threading
from collections.abc import Iterator

import pytest

from ebscrypt.errors import TransferCancelled
from ebscrypt.stores.transfer import Progress, transfer


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_every_item_is_done_once(workers: int) -> None:
    """However many workers: each item once, and the totals are right."""
    done: list[int] = []

    def work(item: int) -> int:
        done.append(item)
        return item

    progress = transfer(iter(range(200)), work, workers=workers, total=200)
    assert sorted(done) == list(range(200))
    assert (progress.items, progress.total, progress.size) == (200, 200, sum(range(200)))


def test_nothing_to_do_is_done() -> None:
    """No items: no bytes, and no waiting."""
    assert transfer([], lambda _: 1, workers=4).items == 0


def test_items_are_taken_only_when_a_worker_is_free() -> None:
    """An endless iterator is never read ahead: at most one item more than is done for each worker."""
    done, ahead, lock = 0, [0], threading.Lock()

    def items() -> Iterator[int]:
        for number in range(500):
            ahead.append(number - done)
            yield number

    def work(_: int) -> int:
        nonlocal done
        with lock:
            done += 1
        return 1

    transfer(items(), work, workers=4)
    assert max(ahead) <= 4


def test_workers_work_at_once() -> None:
    """Four items that wait for each other get done by four workers."""
    together = threading.Barrier(4, timeout=20)
    assert transfer(range(4), lambda _: together.wait() * 0, workers=4).items == 4


def test_the_first_error_wins_and_ends_it() -> None:
    """The error is raised as it is, no further item is begun, and no thread stays."""
    before, begun = threading.active_count(), []

    def work(item: int) -> int:
        begun.append(item)
        if item == 10:
            raise OSError("item 10")
        return 0

    with pytest.raises(OSError, match="item 10"):
        transfer(range(1_000_000), work, workers=4)
    assert len(begun) < 1_000_000
    assert threading.active_count() == before


def test_an_error_of_the_iterator_is_raised() -> None:
    """What the source of the items raises ends the transfer as well."""

    def items() -> Iterator[int]:
        yield 1
        raise OSError("the volume cannot be read")

    with pytest.raises(OSError, match="cannot be read"):
        transfer(items(), lambda _: 1, workers=3)


def test_an_error_of_the_progress_callback_is_raised() -> None:
    """Whoever watches can fail too, for example because the terminal is gone; no thread stays."""
    before, gate = threading.active_count(), threading.Event()

    def progress(_: Progress) -> None:
        gate.set()
        raise BrokenPipeError

    def work(_: int) -> int:
        gate.wait(20)
        return 1

    with pytest.raises(BrokenPipeError):
        transfer(range(1_000_000), work, workers=2, progress=progress)
    assert threading.active_count() == before


def test_cancelling() -> None:
    """Once it is asked to stop it begins nothing more, and says that it was stopped."""
    cancel, begun = threading.Event(), []

    def work(item: int) -> int:
        begun.append(item)
        if item == 5:
            cancel.set()
        return 1

    with pytest.raises(TransferCancelled):
        transfer(range(1_000_000), work, workers=2, cancel=cancel)
    assert len(begun) < 1_000_000


def test_progress_is_told_in_the_callers_thread() -> None:
    """While it goes on, and at the end with the totals."""
    told: list[tuple[Progress, int]] = []
    gate = threading.Event()

    def progress(now: Progress) -> None:
        told.append((now, threading.get_ident()))
        gate.set()

    def work(_: int) -> int:
        gate.wait(20)
        return 512

    last = transfer(range(8), work, workers=2, total=8, progress=progress)

    assert told[-1][0] == last
    assert len(told) >= 2
    assert {ident for _, ident in told} == {threading.get_ident()}
    assert (last.items, last.size) == (8, 4096)
    assert last.rate > 0
    assert Progress(0, None, 0, 0.0).rate == 0.0

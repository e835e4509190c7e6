"""Many blocks at once, in bounded memory: workers that each take the next item when they have done the last.

There is no queue that could fill up or run dry: an item is taken from its iterator only when a worker is free. So the
memory in use is what ``workers`` calls of the work need, however many items there are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ebscrypt.errors import TransferCancelled

T = TypeVar("T")
INTERVAL: Final = 0.2
"""Seconds between two calls of the progress callback."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is: items and bytes done, of how many items if that is known, after how many seconds."""

    items: int
    total: int | None
    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second, on average since the start."""
        return self.size / self.seconds if self.seconds > 0 else 0.0


def transfer(
    items: Iterable[T],
    work: Callable[[T], int],
    *,
    workers: int,
    total: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Progress:
    """Do ``work``, which returns how many bytes it moved, for each of ``items``. Returns the totals.

    The first error of the work, of the iterator or of ``progress`` is raised, as it is, after the calls under way have
    come back; no other is begun. `TransferCancelled` likewise after ``cancel`` was set. ``progress`` is called in the
    caller's own thread, some five times a second and at the end. ``items`` is used by one thread at a time.
    """
    return _Transfer(iter(items), work, total, cancel or threading.Event()).run(workers, progress)


class _Transfer(Generic[T]):
    def __init__(
        self, items: Iterator[T], work: Callable[[T], int], total: int | None, cancel: threading.Event
    ) -> None:
        self._items, self._work, self._total, self._cancel = items, work, total, cancel
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._running = self._count = self._size = 0
        self._stopped = False
        self._error: BaseException | None = None

    def run(self, workers: int, progress: Callable[[Progress], None] | None) -> Progress:
        threads = [threading.Thread(target=self._run, name=f"transfer-{number}") for number in range(workers)]
        try:
            for thread in threads:
                with self._changed:
                    self._running += 1
                thread.start()
            self._watch(progress)
        finally:
            # Also when the watching was interrupted: nobody is left behind at work.
            self._stopped = True
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error
        if self._cancel.is_set():
            raise TransferCancelled("the transfer was stopped", hint="what was moved so far is kept")
        done = self._progress()
        if progress is not None:
            progress(done)
        return done

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running, timeout=INTERVAL)
                if not self._running:
                    return
            if self._cancel.is_set():
                self._stopped = True
            elif progress is not None:
                progress(self._progress())

    def _progress(self) -> Progress:
        return Progress(self._count, self._total, self._size, time.monotonic() - self._began)

    def _run(self) -> None:
        try:
            while not self._stopped and not self._cancel.is_set():
                with self._taking:
                    try:
                        item = next(self._items)
                    except StopIteration:
                        return
                moved = self._work(item)
                with self._changed:
                    self._count, self._size = self._count + 1, self._size + moved
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            with self._changed:
                self._error = self._error or error
            self._stopped = True
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify()

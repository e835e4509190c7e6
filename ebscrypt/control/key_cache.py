"""`KeyCache`: the data keys of snapshots that clients read and write just now, unwrapped once and not for each block.

An unwrapping takes about half a second and a KMS request; a block takes some milliseconds. So the round keys stay in
the core's secret memory for a while: until nobody has asked for ``idle`` seconds, and for ``longest`` seconds at most,
so that a KMS key that was disabled or a grant that was revoked takes effect on clients that never pause. Of more than
``most``, the one that was not used for the longest time goes. No plaintext key is ever a Python object.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ebscrypt.control.turning import BlockCipher

MOST: Final = 16
IDLE: Final = 60.0
LONGEST: Final = 300.0


@dataclass(eq=False, slots=True)
class _Kept:
    """A cipher, or why there is none; ``made`` and ``used`` in seconds of the cache's clock."""

    made: float
    used: float
    users: int = 0
    gone: bool = False
    cipher: Future[BlockCipher] = field(default_factory=Future)


class KeyCache:
    """Safe for use from several threads. To be closed: that wipes every key that is not in use, and the others then."""

    def __init__(
        self,
        *,
        most: int = MOST,
        idle: float = IDLE,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._idle, self._longest, self._clock = most, idle, longest, clock
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._changed = threading.Condition()
        self._watch: threading.Thread | None = None

    def __len__(self) -> int:
        """How many keys are unwrapped now."""
        with self._changed:
            return len(self._kept)

    @contextmanager
    def cipher(self, name: Hashable, unwrap: Callable[[], BlockCipher]) -> Iterator[BlockCipher]:
        """The cipher with the data key that ``name`` stands for. Of several who ask at once, one calls ``unwrap``.

        Raises what that raised.
        """
        kept, is_new = self._taken(name)
        try:
            if is_new:
                self._fill(name, kept, unwrap)
            yield kept.cipher.result()
        finally:
            self._given_back(kept)

    def wipe_expired(self) -> float | None:
        """Wipe what was idle or kept for too long; in how many seconds the next is due, None where there is none."""
        with self._changed:
            now = self._clock()
            for name, kept in list(self._kept.items()):
                if self._due(kept) <= now:
                    self._drop(name)
            return min((self._due(kept) - now for kept in self._kept.values()), default=None)

    def close(self) -> None:
        with self._changed:
            for name in list(self._kept):
                self._drop(name)
            self._changed.notify_all()
            watch = self._watch
        if watch is not None:
            watch.join()

    def _due(self, kept: _Kept) -> float:
        return min(kept.used + self._idle, kept.made + self._longest)

    def _taken(self, name: Hashable) -> tuple[_Kept, bool]:
        with self._changed:
            now = self._clock()
            kept = self._kept.get(name)
            if kept is not None and self._due(kept) <= now:
                self._drop(name)
                kept = None
            is_new = kept is None
            if kept is None:
                while len(self._kept) >= self._most:
                    self._drop(next(iter(self._kept)))
                kept = self._kept[name] = _Kept(now, now)
                self._start_watch()
            kept.used, kept.users = now, kept.users + 1
            self._kept.move_to_end(name)
            return kept, is_new

    def _fill(self, name: Hashable, kept: _Kept, unwrap: Callable[[], BlockCipher]) -> None:
        try:
            kept.cipher.set_result(unwrap())
        except BaseException as error:  # noqa: BLE001 - who asked raises it
            # Who waits for it learns the same; who asks after that has it tried again.
            with self._changed:
                if self._kept.get(name) is kept:
                    self._drop(name)
            kept.cipher.set_exception(error)

    def _given_back(self, kept: _Kept) -> None:
        with self._changed:
            kept.users -= 1
            kept.used = self._clock()
            if kept.gone and kept.users == 0:
                _wipe(kept)

    def _drop(self, name: Hashable) -> None:
        """Forget a key; the last who uses it wipes it. The caller has the lock."""
        kept = self._kept.pop(name)
        kept.gone = True
        if kept.users == 0:
            _wipe(kept)

    def _start_watch(self) -> None:
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Thread(target=self._wipe_in_time, name="key-cache", daemon=True)
            self._watch.start()
        self._changed.notify_all()

    def _wipe_in_time(self) -> None:
        """Runs as long as there are keys."""
        with self._changed:
            while (wait := self.wipe_expired()) is not None:
                self._changed.wait(wait)
            self._watch = None


def _wipe(kept: _Kept) -> None:
    if kept.cipher.done() and kept.cipher.exception() is None:
        kept.cipher.result().close()

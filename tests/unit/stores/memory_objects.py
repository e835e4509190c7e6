"""Objects in memory, and threads whose every step is chosen by a seed: to try the orders in which things can happen."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence

from ebscrypt.stores.names import Content
from ebscrypt.stores.objects import Entry


class Memory:
    """`Objects` in a dictionary. ``step`` is called before each request takes effect, which it does at once."""

    url = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.step: Callable[[], None] = lambda: None
        self.changed: Callable[[], None] = lambda: None
        self._time = 0

    def put(self, path: str, content: Content, *, sha256: bytes, replace: bool = False, durable: bool = True) -> bool:
        del sha256, durable
        self.step()
        if path in self.objects and not replace:
            return False
        self._time += 1
        self.objects[path] = (bytes(content), float(self._time))
        self.changed()
        return True

    def get(self, path: str, largest: int) -> bytes | None:
        self.step()
        return self.objects[path][0][: largest + 1] if path in self.objects else None

    def present(self, paths: Sequence[str]) -> set[str]:
        found = set()
        for path in paths:
            self.step()
            if path in self.objects:
                found.add(path)
        return found

    def entries(self, prefix: str) -> Iterator[Entry]:
        """As S3 lists with pages of one: what comes later in the order is looked at later.

        Folders of blocks with nothing in them are no step: 250 of them would leave little to choose between the others.
        """
        last = ""
        while not prefix.startswith("blocks/") or any(path.startswith(prefix) for path in self.objects):
            self.step()
            here = sorted(path for path in self.objects if path.startswith(prefix) and path > last)
            if not here:
                return
            last = here[0]
            content, modified = self.objects[last]
            yield Entry(last, len(content), modified)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.step()
            self.objects.pop(path, None)
            self.changed()

    def is_empty(self) -> bool:
        return not self.objects

    def sync(self) -> None:
        """Nothing is ever lost here."""

    def clean_up(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to give back."""


class Turns:
    """Runs functions in threads of which one moves at a time; at each step a seeded choice says which.

    The choice is uneven, and its weights change now and then: some threads fly while others stand still, which is how
    races of several requests come about. Even odds hardly ever show them.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._condition = threading.Condition()
        self._alive: list[int] = []
        self._weights: dict[int, float] = {}
        self._next = -1
        self._failure: BaseException | None = None

    def step(self) -> None:
        """Let somebody else go first, perhaps. Outside of `run` nothing happens."""
        me = threading.get_ident()
        with self._condition:
            if me in self._alive:
                self._pass_on()
                self._condition.wait_for(lambda: self._next == me)

    def run(self, *functions: Callable[[], None]) -> None:
        """Run them all to their ends. Raises the first of their errors."""
        threads = [threading.Thread(target=self._run, args=(function,)) for function in functions]
        with self._condition:
            for thread in threads:
                thread.start()
            self._condition.wait_for(lambda: len(self._alive) == len(threads))
            self._alive.sort(key=[thread.ident for thread in threads].index)
            self._pass_on()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self, function: Callable[[], None]) -> None:
        me = threading.get_ident()
        with self._condition:
            self._alive.append(me)
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._next == me)
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised by run
            self._failure = self._failure or error
        finally:
            with self._condition:
                self._alive.remove(me)
                if self._alive:
                    self._pass_on()

    def _pass_on(self) -> None:
        if self._random.random() < 0.1 or not self._weights.keys() >= set(self._alive):
            self._weights = {ident: self._random.choice((0.001, 1, 100)) for ident in self._alive}
        self._next = self._random.choices(self._alive, [self._weights[ident] for ident in self._alive])[0]
        self._condition.notify_all()

"""The blocks of a copy: carried as they are, or turned to another data key, and the manifest that lists them.

A copy under the same data key has the blocks of its source: in the same store nothing moves, in another one what is not
there yet. A copy with a data key of its own has other blocks, every one of them. Both ways a sweep may run meanwhile:
what was put is pinned now and then, and `publish` sees to the rest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from ebscrypt.control.snapshot_source import check_length
from ebscrypt.stores.block_list import NAME_SIZE, BlockList, BlockListBuilder
from ebscrypt.stores.names import BlockName, block_name
from ebscrypt.stores.publish import Pin, publish
from ebscrypt.stores.store import LARGEST_PIN
from ebscrypt.stores.transfer import Progress, transfer

if TYPE_CHECKING:
    from ebscrypt.control.snapshot_source import Source
    from ebscrypt.control.turning import Turning
    from ebscrypt.stores.store import Store

T = TypeVar("T")
PIN_EVERY: Final = 300.0
"""Seconds between two parts of the pin: well under `stores.grace`, for which new blocks are safe without one."""


class BlockCopier:
    """Moves the blocks of one copy. ``snapshot_id`` is the copy's, ``workers`` blocks are in memory at once.

    ``told`` hears of the progress in bytes, some five times a second, in the caller's thread. What it raises ends the
    copy, and so does ``cancel``.
    """

    def __init__(
        self,
        source: Source,
        target: Store,
        snapshot_id: str,
        turning: Turning | None,
        *,
        workers: int,
        told: Callable[[Progress], None],
        cancel: threading.Event | None = None,
    ) -> None:
        self._source, self._target, self._turning = source, target, turning
        self._snapshot_id, self._workers, self._told, self._cancel = snapshot_id, workers, told, cancel
        self._blocks = source.manifest.blocks
        self._turned = bytearray(0 if turning is None else len(self._blocks) * NAME_SIZE)
        self._pin = Pin(target, snapshot_id)
        self._put: deque[BlockName] = deque()
        self._pinned_at = time.monotonic()

    def copy(self) -> BlockList:
        """Put every block into the target; the list that the copy's manifest has. Raises `StoreError`, OSError."""
        if self._turning is not None:
            self._move(self._places(), self._turn)
            return self._turned_list()
        if not self._is_same_store:
            self._move(self._target.missing(self._blocks.names()), self._carry)
        return self._blocks

    def publish(self, raw: bytes, blocks: BlockList) -> None:
        """Make ``raw`` the manifest of the copy, whose blocks are there to stay. Raises `StoreError`."""
        names = blocks.names()
        publish(
            self._target,
            self._snapshot_id,
            raw,
            names=names,
            pin=self._pin,
            put_again=self._put_again,
            held=names if self._turning is None and self._is_same_store else frozenset(),
        )

    def release(self) -> None:
        """Let the target's sweep have what no manifest lists: after `publish`, or after a failure."""
        self._pin.release()

    @property
    def _is_same_store(self) -> bool:
        return self._target.url == self._source.store.url

    def _places(self, wanted: Collection[BlockName] | None = None) -> Iterator[tuple[int, int, BlockName]]:
        """Place in the list, index and name of every block; or of those whose turned block is in ``wanted``."""
        for place, (index, name) in enumerate(self._blocks):
            if wanted is None or self._turned_name(place) in wanted:
                yield place, index, name

    def _turned_name(self, place: int) -> BlockName:
        return bytes(self._turned[place * NAME_SIZE : (place + 1) * NAME_SIZE])

    def _turned_list(self) -> BlockList:
        """The turned blocks at the indexes of the old ones: a block that holds anything does so under any key."""
        made, at = BlockListBuilder(), 0
        for first, count in self._blocks.runs():
            end = at + count * NAME_SIZE
            made.add_run(first, bytes(self._turned[at:end]))
            at = end
        return made.build()

    def _turn(self, place: tuple[int, int, BlockName]) -> int:
        assert self._turning is not None  # noqa: S101 - who calls this has asked
        at, index, name = place
        stored = self._source.store.get_block(name)
        check_length(index, stored, self._source.manifest.header.block_length(index))
        turned = self._turning.turn(index, stored)
        new_name = block_name(turned)
        self._target.put_block(new_name, turned)
        self._turned[at * NAME_SIZE : (at + 1) * NAME_SIZE] = new_name
        self._put.append(new_name)
        return len(turned)

    def _carry(self, name: BlockName) -> int:
        stored = self._source.store.get_block(name)
        self._target.put_block(name, stored)
        self._put.append(name)
        return len(stored)

    def _put_again(self, absent: set[BlockName]) -> None:
        """What a sweep has taken meanwhile. The source is held, so that it can be made again."""
        if self._turning is None:
            self._move(absent, self._carry)
        else:
            self._move(self._places(absent), self._turn)

    def _move(self, items: Iterable[T], work: Callable[[T], int]) -> None:
        transfer(items, work, workers=self._workers, progress=self._tell, cancel=self._cancel)

    def _tell(self, progress: Progress) -> None:
        if time.monotonic() - self._pinned_at >= PIN_EVERY or len(self._put) >= LARGEST_PIN:
            self._pin.add([self._put.popleft() for _ in range(len(self._put))])
            self._pinned_at = time.monotonic()
        self._told(progress)

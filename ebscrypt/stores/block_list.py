"""Which blocks a snapshot has: runs of indexes, and the names one after another. What no run covers is a hole.

A volume of 16 TiB has 2²⁵ possible blocks; only those that hold data cost anything: 32 bytes each, and 8 a run. Nothing
here makes an object for each block unless it is asked for each block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ebscrypt.stores.names import BlockName

NAME_SIZE: Final = 32


class BlockList:
    """Frozen: index → name. Made by `BlockListBuilder`, `with_changes` or a manifest's decoder.

    ``firsts`` and ``counts`` describe the runs, in order, never touching each other; ``starts`` says at which block
    of ``names`` each begins.
    """

    __slots__ = ("_counts", "_firsts", "_names", "_starts")

    def __init__(self, firsts: array[int], counts: array[int], names: bytes) -> None:
        self._firsts, self._counts, self._names = firsts, counts, names
        self._starts = array("Q", [0])
        total = 0
        for count in counts:
            total += count
            self._starts.append(total)
        if total * NAME_SIZE != len(names):
            raise ValueError(f"{total} blocks in runs, but {len(names)} bytes of names")

    def __len__(self) -> int:
        return len(self._names) // NAME_SIZE

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockList):
            return NotImplemented
        return (self._firsts, self._counts, self._names) == (other._firsts, other._counts, other._names)

    __hash__ = None  # type: ignore[assignment]  # too large to be a key by accident

    def __repr__(self) -> str:
        return f"<{len(self)} blocks in {len(self._firsts)} runs>"

    def __iter__(self) -> Iterator[tuple[int, BlockName]]:
        """Index and name of every block, in order."""
        for first, count, at in zip(self._firsts, self._counts, self._starts, strict=False):
            for step in range(count):
                place = (at + step) * NAME_SIZE
                yield first + step, self._names[place : place + NAME_SIZE]

    def get(self, index: int) -> BlockName | None:
        """The name of the block at ``index``, or None for a hole."""
        run = bisect_right(self._firsts, index) - 1
        if run < 0 or index >= self._firsts[run] + self._counts[run]:
            return None
        place = (self._starts[run] + index - self._firsts[run]) * NAME_SIZE
        return self._names[place : place + NAME_SIZE]

    def runs(self) -> Iterator[tuple[int, int]]:
        """First index and number of blocks of each run, in order."""
        return zip(self._firsts, self._counts, strict=True)

    def packed_names(self) -> bytes:
        """All names, one after another, in the order of their blocks."""
        return self._names

    def names(self) -> set[BlockName]:
        """Every name once. A name may stand for many blocks: equal bytes are kept once."""
        return set(split_names(self._names))

    def with_changes(self, changes: Mapping[int, BlockName | None]) -> BlockList:
        """This list with some blocks replaced, or turned into holes by None. Costs what the changes and runs cost."""
        made, at = BlockListBuilder(), 0
        for index in sorted(changes):
            self._copy(made, at, index)
            if (name := changes[index]) is not None:
                made.add(index, name)
            at = index + 1
        self._copy(made, at, self.end)
        return made.build()

    def between(self, low: int, high: int) -> BlockList:
        """The blocks with low ≤ index < high, at their indexes. Costs what they and the runs cost."""
        made = BlockListBuilder()
        self._copy(made, low, high)
        return made.build()

    @property
    def end(self) -> int:
        """The index behind the last block; 0 for an empty list."""
        return self._firsts[-1] + self._counts[-1] if self._firsts else 0

    def changes_since(self, older: BlockList) -> Iterator[tuple[int, BlockName | None, BlockName | None]]:
        """Index, older and own name of each block in which the two differ, in order; None is a hole."""
        mine, theirs = iter(self), iter(older)
        a, b = next(mine, None), next(theirs, None)
        while a is not None or b is not None:
            if b is None or (a is not None and a[0] < b[0]):
                assert a is not None  # noqa: S101 - the loop's condition
                yield a[0], None, a[1]
                a = next(mine, None)
            elif a is None or b[0] < a[0]:
                yield b[0], b[1], None
                b = next(theirs, None)
            else:
                if a[1] != b[1]:
                    yield a[0], b[1], a[1]
                a, b = next(mine, None), next(theirs, None)

    def _copy(self, into: BlockListBuilder, low: int, high: int) -> None:
        """Give ``into`` the blocks with low ≤ index < high."""
        if low >= high:
            return
        for run in range(max(0, bisect_right(self._firsts, low) - 1), len(self._firsts)):
            first = self._firsts[run]
            if first >= high:
                return
            begin, end = max(first, low), min(first + self._counts[run], high)
            if begin < end:
                place = (self._starts[run] + begin - first) * NAME_SIZE
                into.add_run(begin, memoryview(self._names)[place : place + (end - begin) * NAME_SIZE])


class BlockListBuilder:
    """A `BlockList` in the making: blocks or runs, in order of their indexes."""

    def __init__(self) -> None:
        self._firsts, self._counts, self._names = array("I"), array("I"), bytearray()

    def add(self, index: int, name: BlockName) -> None:
        """The next block."""
        self.add_run(index, name)

    def add_run(self, first: int, names: bytes | memoryview) -> None:
        """The next blocks, one index after another. Raises `ValueError` when they do not lie behind the last one."""
        count, rest = divmod(len(names), NAME_SIZE)
        if rest or not count:
            raise ValueError(f"{len(names)} bytes are no whole number of names")
        end = self._firsts[-1] + self._counts[-1] if self._firsts else 0
        if first < end:
            raise ValueError(f"block {first} comes after block {end - 1}")
        if self._firsts and first == end:
            self._counts[-1] += count
        else:
            self._firsts.append(first)
            self._counts.append(count)
        self._names += names

    def build(self) -> BlockList:
        """What was added. The builder is done with then."""
        return BlockList(self._firsts, self._counts, bytes(self._names))


def block_list(blocks: Iterable[tuple[int, BlockName]]) -> BlockList:
    """A list of index and name pairs, in order of their indexes."""
    made = BlockListBuilder()
    for index, name in blocks:
        made.add(index, name)
    return made.build()


def split_names(packed: bytes) -> Iterator[BlockName]:
    """The single names of many, one after another."""
    return (packed[at : at + NAME_SIZE] for at in range(0, len(packed), NAME_SIZE))

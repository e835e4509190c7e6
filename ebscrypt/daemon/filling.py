"""A volume that is served while its blocks still come: its fill file, and how the blocks reach the core.

Who has the blocks is another process, since this one has neither stores nor KMS. It hands over memory that both see
(`fill_begin`), puts blocks there and says which (`fill`), and is told which blocks requests wait for. So a block is
copied once on its way, and the words between the two stay short.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import Any, Final

import trio

from ebscrypt.core import Device, Filling
from ebscrypt.errors import InvalidParameter, StateError

MOST_SHARED: Final = 64 << 20
"""Bytes of memory that a filler may share."""
_SOME: Final = 64
LONGEST_WAIT: Final = 5.0
"""Seconds for which `fill` waits at most for a block to be wanted."""


class FillService:
    """The operations by which a filler supplies the blocks of ``device``. They work while the volume is suspended."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: mmap.mmap | None = None

    @property
    def operations(self) -> dict[str, Any]:
        return {"fill": self.fill}

    @property
    def taking(self) -> dict[str, Any]:
        return {"fill_begin": self.begin}

    async def begin(self, parameters: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        """Share the memory behind ``descriptor``, a memfd that cannot shrink; a filler before is forgotten."""
        if descriptor is None:
            raise InvalidParameter("a descriptor of memory must come with this request")
        try:
            if parameters:
                raise InvalidParameter("this request has no parameters")
            filling = self._filling()
            # Memory that its owner cuts off would end this process (SIGBUS).
            if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise InvalidParameter("this memory can shrink: it needs the seal F_SEAL_SHRINK")
            size = os.fstat(descriptor).st_size
            if not 0 < size <= MOST_SHARED:
                raise InvalidParameter(f"{size} bytes of memory are none, or over {MOST_SHARED}")
            self._memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        except OSError as error:
            raise InvalidParameter(f"this is no memory to share: {error.strerror}") from error
        finally:
            os.close(descriptor)
        return {"left": filling.left}

    async def fill(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Take one block, or word that it cannot be had; say which are wanted, and which are missing."""
        filling = self._filling()
        known = {"supply": int, "offset": int, "length": int, "fail": int, "wait": float, "after": int, "settle": bool}
        for name, value in parameters.items():
            if name not in known or type(value) is not known[name]:
                raise InvalidParameter(f"{name[:40]!r} is not a parameter here, or has a value of another kind")
        return await trio.to_thread.run_sync(self._fill, filling, parameters)

    def _fill(self, filling: Filling, asked: dict[str, Any]) -> dict[str, Any]:
        if "supply" in asked:
            with self._shared(asked.get("offset", 0), asked.get("length", 0)) as stored:
                filling.supply(_number(asked["supply"]), stored)
        if "fail" in asked:
            filling.fail(_number(asked["fail"]), errno.EIO)
        if asked.get("settle"):
            filling.settle()
        wanted = filling.wanted(min(max(asked["wait"], 0.0), LONGEST_WAIT)) if "wait" in asked else []
        missing = some_missing(filling, _number(asked["after"])) if "after" in asked else []
        return {"wanted": wanted, "missing": missing, "left": filling.left}

    @contextlib.contextmanager
    def _shared(self, offset: int, length: int) -> Iterator[memoryview]:
        memory = self._memory
        if memory is None or offset < 0 or length < 0 or offset + length > len(memory):
            raise InvalidParameter(f"there are no {length} bytes at {offset} of the shared memory")
        with memoryview(memory) as whole, whole[offset : offset + length] as part:
            yield part

    def _filling(self) -> Filling:
        if (filling := self._device.filling) is None:
            raise StateError("the volume is whole")
        return filling


def some_missing(filling: Filling, after: int) -> list[int]:
    """The next missing blocks from ``after`` on, as many as are worth a question."""
    found: list[int] = []
    while len(found) < _SOME and (index := filling.next_missing(after)) is not None:
        found.append(index)
        after = index + 1
    return found


def _number(index: int) -> int:
    if not 0 <= index < 1 << 63:
        raise InvalidParameter(f"{index} is no block")
    return index

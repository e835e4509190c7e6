"""Where a filler puts blocks: into the backing of a detached volume, or into the hands of an attached one's daemon.

Both have the same four operations, and both may be called from several threads.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.filling import some_missing
from ebscrypt.stores.names import BLOCK_SIZE, Content

if TYPE_CHECKING:
    from pathlib import Path

    from ebscrypt.core import Device

_TIMEOUT: Final = 300.0
"""Seconds for a daemon to take a block: it may have to make 128 MiB durable on a slow disk."""


class Target(Protocol):
    """Takes blocks."""

    def supply(self, index: int, stored: Content) -> None:
        """A block as it is stored. Raises OSError, `EbscryptError`."""

    def fail(self, index: int) -> None:
        """A block cannot be had now."""

    def wanted(self, wait: float) -> list[int]:
        """The blocks that requests wait for, after waiting up to ``wait`` seconds for one. One thread asks this."""

    def missing(self, after: int) -> list[int]:
        """Some missing blocks from ``after`` on, in order; none where there are none."""

    def settle(self) -> int:
        """Make durable what came; how many blocks are left."""


class DeviceTarget:
    """The core's own device over the backing of a detached volume, without a key: what comes is stored bytes."""

    def __init__(self, device: Device) -> None:
        filling = device.filling
        assert filling is not None  # noqa: S101 - it was opened with a fill file
        self._filling = filling

    def supply(self, index: int, stored: Content) -> None:
        self._filling.supply(index, stored)

    def fail(self, index: int) -> None:
        """Nobody waits."""

    def wanted(self, wait: float) -> list[int]:
        return self._filling.wanted(wait)

    def missing(self, after: int) -> list[int]:
        return some_missing(self._filling, after)

    def settle(self) -> int:
        self._filling.settle()
        return self._filling.left


class _Slot(NamedTuple):
    """A place for one block in the shared memory, and a connection to say so."""

    client: DaemonClient
    offset: int


class DaemonTarget:
    """A daemon behind its control socket, with which memory for some blocks is shared; made by `daemon_target`."""

    def __init__(self, memory: mmap.mmap, slots: list[_Slot], asking: DaemonClient, telling: DaemonClient) -> None:
        self._memory, self._asking, self._telling, self._lock = memory, asking, telling, threading.Lock()
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def supply(self, index: int, stored: Content) -> None:
        slot = self._free.get()
        try:
            self._memory[slot.offset : slot.offset + len(stored)] = bytes(stored)
            slot.client.call("fill", timeout=_TIMEOUT, supply=index, offset=slot.offset, length=len(stored))
        finally:
            self._free.put(slot)

    def fail(self, index: int) -> None:
        self._call(fail=index)

    def wanted(self, wait: float) -> list[int]:
        found: list[int] = self._asking.call("fill", timeout=_TIMEOUT, wait=wait)["wanted"]
        return found

    def missing(self, after: int) -> list[int]:
        found: list[int] = self._call(after=after)["missing"]
        return found

    def settle(self) -> int:
        left: int = self._call(settle=True)["left"]
        return left

    def _call(self, **parameters: Any) -> dict[str, Any]:
        with self._lock:
            return self._telling.call("fill", timeout=_TIMEOUT, **parameters)


@contextmanager
def daemon_target(control_socket: Path, slots: int) -> Iterator[DaemonTarget]:
    """The daemon behind this socket, with memory for so many blocks at once. Raises `DaemonLost`, `StateError`."""
    with ExitStack() as stack:
        descriptor = os.memfd_create("ebscrypt-fill", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, descriptor)
        os.ftruncate(descriptor, slots * BLOCK_SIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        memory = stack.enter_context(mmap.mmap(descriptor, slots * BLOCK_SIZE))
        asking, telling = (stack.enter_context(DaemonClient(control_socket)) for _ in range(2))
        asking.call("fill_begin", descriptor=descriptor)
        places = [_Slot(stack.enter_context(DaemonClient(control_socket)), at * BLOCK_SIZE) for at in range(slots)]
        yield DaemonTarget(memory, places, asking, telling)

"""Waiting until a block device answers: its size is there, its node is there, and its first block can be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from ebscrypt.errors import ExportUnavailable

PATIENCE: Final = 20.0
"""Seconds: the device answers in milliseconds, unless the machine or the backing is in trouble."""
_POLL: Final = 0.01
_FIRST: Final = 4096


async def wait_until_answering(device: str, size: Callable[[], int]) -> None:
    """Return once ``device`` has a size and a read of its beginning succeeded. Raises `ExportUnavailable`, OSError.

    The read also has the kernel look at the partition table now, rather than at the first user's expense.
    """

    def is_there() -> bool:
        return size() > 0 and Path(device).exists()

    with trio.move_on_after(PATIENCE) as patience:
        while not is_there():  # noqa: ASYNC110 - sysfs has no event to wait for that works without udev
            await trio.sleep(_POLL)
        # In a thread that may be left behind: a read that hangs in the kernel cannot be called back.
        await trio.to_thread.run_sync(_read_first, device, abandon_on_cancel=True)
    if patience.cancelled_caught:
        why = "does not answer" if is_there() else "is not there"
        raise ExportUnavailable(
            f"{device} {why} after {PATIENCE:g} s",
            hint="in a container /dev must be the host's (devtmpfs); else look at `dmesg`",
        )


def _read_first(device: str) -> None:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.pread(descriptor, _FIRST, 0)
    finally:
        os.close(descriptor)

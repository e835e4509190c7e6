"""The process that fills a volume made from a snapshot: started, stopped, and started again after any crash.

    ebscrypt fill VOL        not for people: `create --lazy`, the end of other commands, and `recover` start it

It holds a lock of its own, so there is one at most. Of a detached volume it has the backing, and any command on that
volume ends it first (nothing of that is lost but work) and starts another at its end. Of an attached one it hands the
blocks to the daemon.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ebscrypt.control import fill_job, locks
from ebscrypt.control.fill_job import lock_name
from ebscrypt.errors import EbscryptError, StateError
from ebscrypt.model import VolumeState

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

COMMAND: Final = "fill"
_END: Final = 30.0
"""Seconds for a filler to be gone that was told to end: it may be in the middle of a sync."""


def is_at_work(site: Site, volume_id: str) -> bool:
    """Whether a process holds the filler's lock."""
    return locks.holder(site.settings, lock_name(volume_id)) is not None


def start_filler(site: Site, volume_id: str) -> None:
    """Have a process of its own fill the volume, without waiting for it. It ends at once if another is at it.

    Raises `StateError` when no process can be started: the next command tries again.
    """
    from ebscrypt.control import process, systemd  # noqa: PLC0415 - rarely needed

    command = [sys.executable, "-m", "ebscrypt.cli.main", COMMAND, volume_id]
    if systemd.is_used(site.settings) and systemd.start_transient(f"Blocks for {volume_id}", *command):
        return
    try:
        subprocess.run(
            ["setsid", "--fork", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=process.environment(site.settings),
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StateError(
            f"nothing can be started that fills {volume_id}: {error}", hint="the next command tries again"
        ) from error


def stop_filler(site: Site, volume_id: str) -> None:
    """End the filler of a volume, if one is at work; only work is lost. Raises `StateError` if it does not go."""
    import os  # noqa: PLC0415 - rarely needed
    import time  # noqa: PLC0415 - the same

    from ebscrypt.control import process  # noqa: PLC0415 - the same

    deadline = time.monotonic() + _END
    while (holder := locks.holder(site.settings, lock_name(volume_id))) is not None:
        if time.monotonic() >= deadline:
            raise StateError(f"process {holder.pid} fills volume {volume_id} and does not end", hint="try again")
        try:
            descriptor = os.pidfd_open(holder.pid)
        except (OSError, ValueError):
            time.sleep(locks.POLL)
            continue
        try:
            # Asked again after the pidfd exists: from then on the number cannot go to another process unnoticed.
            if locks.holder(site.settings, lock_name(volume_id)) == holder:
                process.end(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def aside(site: Site, volume_id: str) -> Iterator[None]:
    """No filler has the backing of a detached volume until this ends, and then one is at work again.

    The caller holds the volume's lock. The filler of an attached volume goes on.
    """
    if not fill_job.is_filling(site.settings, volume_id):
        yield
        return
    if site.catalog.volume(volume_id).state is not VolumeState.IN_USE:
        stop_filler(site, volume_id)
    try:
        yield
    finally:
        start_again(site, volume_id)


def start_again(site: Site, volume_id: str) -> None:
    """Start a filler if the volume needs one. What keeps it from starting becomes a note."""
    try:
        if fill_job.is_filling(site.settings, volume_id):
            start_filler(site, volume_id)
    except (EbscryptError, OSError) as error:
        site.notes.append(f"volume {volume_id} is not being filled: {error}")


def settle_fills(site: Site) -> None:
    """Start the fillers that have died. Costs a look into one directory where there is nothing to do."""
    for volume_id in fill_job.unfinished(site.settings):
        if not is_at_work(site, volume_id) and locks.holder(site.settings, volume_id) is None:
            start_again(site, volume_id)

"""The watch over an attached volume's KMS key: a process per volume whose ``on_key_unusable`` is not ``ignore``.

    ebscrypt attachment watch VOL     sleeps, and looks whether the daemon is still there; has no boto3, no catalog
      └─ … attachment check-key VOL   every attach.key_check_interval seconds: one `key_action.turn`, then it ends
           └─ … attachment detach VOL where the volume is to be detached: that ends the other two

Under systemd it is ``ebscrypt-watch@VOL.service``, bound to the volume's unit, and started again when it dies. Without
systemd `attach` starts it, and the next command does when it has died. A lock in the runtime directory says that it
is there. It holds no state: what was found is in watch.json, what was done the daemon knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from ebscrypt.config import Settings
from ebscrypt.control import process, runtime, systemd
from ebscrypt.control.site import Site
from ebscrypt.model import AttachmentState, OnKeyUnusable

_JITTER: Final = 0.1
"""Of the interval, either way: a hundred volumes that were attached by one boot should not ask KMS at one moment."""
_SUCCESSOR: Final = 15.0
"""Seconds that a new daemon may take to follow a dead one before the watch ends; systemd's begins after 0.1 s."""
_LOCK_PATIENCE: Final = 20.0
"""Seconds to wait for an older watch to end: it looks for a successor of its daemon for a while."""
_END_PATIENCE: Final = 5.0
_POLL: Final = 0.1

_log = logging.getLogger(__name__)
_children: list[subprocess.Popen[bytes]] = []
"""What this process started and does not wait for; it takes note of its end when it starts the next."""


def is_watched(settings: Settings, volume_id: str) -> bool:
    """Whether a watch is there."""
    try:
        descriptor = os.open(settings.runtime_dir(volume_id) / "watch.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def start(site: Site, volume_id: str) -> None:
    """Start a watch, without waiting for it. Where there is one already the new one ends by itself."""
    if not systemd.is_used(site.settings):
        _spawn(site.settings, "watch", volume_id)
    elif not systemd.start_watch(volume_id):
        site.notes.append(
            f"the KMS key of {volume_id} is not watched: {systemd.watch_unit(volume_id)} cannot be started; "
            "scripts/install puts it in place"
        )


def start_if_wanted(site: Site, volume_id: str) -> None:
    """Start a watch for an attachment whose spec asks for one, unless it is there.

    systemd is asked in any case: the one that is there may be one that it is about to end.
    """
    spec = runtime.directory(site.settings, volume_id).read_spec()
    wanted = spec.encrypted and spec.on_key_unusable is not OnKeyUnusable.IGNORE
    if wanted and (systemd.is_used(site.settings) or not is_watched(site.settings, volume_id)):
        start(site, volume_id)


def stop(settings: Settings, volume_id: str) -> None:
    """End the watch, if there is one. A check under way is cut off; the daemon is left as it is."""
    if not is_watched(settings, volume_id):
        return
    if systemd.is_used(settings):
        systemd.stop_watch(volume_id)
        return
    with contextlib.suppress(OSError, ValueError):
        pid, began = map(int, (settings.runtime_dir(volume_id) / "watch.lock").read_text(encoding="ascii").split())
        with process.followed(pid, began) as pidfd:
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                select.select([pidfd], [], [], _END_PATIENCE)
    _reap()


def start_detach(settings: Settings, volume_id: str) -> None:
    """Have the volume detached by a process that is no part of the watch, which ends with the attachment."""
    if systemd.is_used(settings):
        if not systemd.start_detach(volume_id):
            _log.error("systemd did not take the order to detach %s: the next check of its key tries again", volume_id)
    else:
        _spawn(settings, "detach", volume_id)


def run(settings: Settings, volume_id: str) -> int:
    """The watch itself, until the daemon is gone and none follows it, or SIGTERM. The exit status.

    The first check comes at once: so does what `modify` asks for, and what was missed while no watch was there.
    """
    signal.signal(signal.SIGTERM, _end)
    lock = _acquire(settings, volume_id)
    if lock is None:
        return 0
    try:
        while (daemon := _daemon(settings, volume_id)) is not None:
            with process.followed(*daemon) as pidfd:
                while pidfd is not None:
                    _check(volume_id)
                    pause = settings.attach.key_check_interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
                    if select.select([pidfd], [], [], pause)[0]:
                        break
    finally:
        os.close(lock)
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    raise SystemExit(0)


def _acquire(settings: Settings, volume_id: str) -> int | None:
    """The lock, with our number in the file; None when another watch keeps it, or the volume is detached."""
    path = settings.runtime_dir(volume_id) / "watch.lock"
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL)
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {_started_at()}".encode("ascii"), 0)
        return descriptor


def _started_at() -> int:
    """This process's start in clock ticks since boot: field 22 of proc_pid_stat(5). The name may hold anything."""
    return int(Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])


def _daemon(settings: Settings, volume_id: str) -> tuple[int, int] | None:
    """Process id and start of the volume's daemon, once there is one that serves; None when none comes."""
    deadline = time.monotonic() + _SUCCESSOR
    while time.monotonic() < deadline and settings.runtime_dir(volume_id).exists():
        attached = runtime.attachment_state(settings, volume_id)
        served = attached is not None and attached.state in (AttachmentState.ATTACHED, AttachmentState.ATTACHING)
        if served and attached is not None and attached.attachment is not None:
            one = attached.attachment
            if runtime.is_process(one.pid, one.pid_start):
                return one.pid, one.pid_start
        time.sleep(_POLL)
    return None


def _check(volume_id: str) -> None:
    """One check, in a process that ends. That of a watch which ends is ended too."""
    command = [sys.executable, "-m", "ebscrypt.cli.main", "attachment", "check-key", volume_id]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
    if child.returncode:
        _log.warning("a check of the key of %s ended with status %d", volume_id, child.returncode)


def _spawn(settings: Settings, step: str, volume_id: str) -> None:
    """``ebscrypt attachment STEP VOL`` as a process of its own, with our settings, its words in watch.log."""
    _reap()
    path = settings.runtime_dir(volume_id) / "watch.log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "ebscrypt.cli.main", "attachment", step, volume_id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=process.environment(settings),
            start_new_session=True,
        )
    finally:
        os.close(log)
    _children.append(child)


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]

"""The daemon as a process of our own, where systemd does not run: started detached, awaited, and seen to its end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from ebscrypt.config import Settings
from ebscrypt.control import runtime
from ebscrypt.errors import DaemonLost, EbscryptError
from ebscrypt.model import Attachment

_GRACE: Final = 5.0
"""Seconds between asking a daemon to end and ending it."""
_LOG_TAIL: Final = 400
"""Characters of its log that are shown when a daemon died without a word."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Daemons that this process started. They outlive it; while it lives, it must take note of their end."""


def start(settings: Settings, volume_id: str) -> None:
    """Start the volume's daemon and return when its device answers.

    It has a session of its own, no terminal, and its stderr in ``daemon.log``. Raises the daemon's own error when it
    gave up, `DaemonLost` when it died or was not ready within the start timeout; it does not run any more then.
    """
    _reap()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    process: subprocess.Popen[bytes] | None = None
    try:
        with _interrupts_deferred():
            # An interruption between the start and the assignment would leave a daemon that nobody knows.
            process = _spawn(settings, volume_id, writing)
        os.close(writing)
        writing = -1
        ready = _wait_readable(reading, settings.attach.start_timeout) and os.read(reading, 1) != b""
        failure = None if ready else _why_not(settings, volume_id, process)
    except BaseException:
        if process is not None:
            _end(process)
        raise
    finally:
        for descriptor in {reading, writing} - {-1}:
            os.close(descriptor)
    if failure is not None:
        _end(process)
        raise failure
    _children[process.pid] = process


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended. Only the main thread is ever interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def _spawn(settings: Settings, volume_id: str, ready: int) -> subprocess.Popen[bytes]:
    log = runtime.directory(settings, volume_id).log
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ebscrypt.daemon", volume_id, "--ready-fd", str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env=environment(settings),
            pass_fds=(ready,),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment, with every setting as it is here: who gets it must not read others from elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EBSCRYPT_")}
    kept |= {
        f"EBSCRYPT_{section}_{key}".upper(): _text(value)
        for section, values in msgspec.to_builtins(settings).items()
        for key, value in values.items()
    }
    kept["EBSCRYPT_CONFIG"] = os.devnull
    if path := kept.get("PYTHONPATH"):
        # The daemon starts in "/", where a relative entry of the path would lead elsewhere.
        kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in path.split(os.pathsep))
    return kept


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wait_readable(descriptor: int, timeout: float) -> bool:
    readable, _, _ = select.select([descriptor], [], [], timeout)
    return bool(readable)


def _why_not(settings: Settings, volume_id: str, process: subprocess.Popen[bytes]) -> EbscryptError:
    """The error to raise for a daemon that did not become ready."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    if process.returncode is None:
        return DaemonLost(
            f"the daemon of volume {volume_id} was not ready within {settings.attach.start_timeout:g} s",
            hint="attach.start_timeout says how long to wait; its backing or KMS may be slow",
        )
    if failure := runtime.read_failure(settings, volume_id):
        return failure
    with contextlib.suppress(OSError):
        tail = (
            runtime.directory(settings, volume_id)
            .log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
            .strip()
        )
        return DaemonLost(f"the daemon of volume {volume_id} ended with status {process.returncode}: {tail}")
    return DaemonLost(f"the daemon of volume {volume_id} ended with status {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def followed(pid: int, start: int) -> Iterator[int | None]:
    """A pidfd for exactly this process, None when it has ended. To be taken before it is told to end."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Checked after the pidfd exists: from then on the number cannot go to another process unnoticed.
        yield descriptor if runtime.is_process(pid, start) else None
    finally:
        os.close(descriptor)


def wait_for_end(pidfd: int, timeout: float) -> bool:
    """Wait until the process behind ``pidfd`` has ended; whether it has."""
    ended = _wait_readable(pidfd, timeout)
    _reap()
    return ended


def end(pidfd: int) -> None:
    """End the process: ask first, then insist. For a daemon that does not answer any more."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        if wait_for_end(pidfd, _GRACE):
            return


def end_daemon(attachment: Attachment) -> None:
    """End the daemon of an attachment that is not to be, if it runs; its device has been taken down."""
    with followed(attachment.pid, attachment.pid_start) as pidfd:
        if pidfd is not None:
            end(pidfd)


def _reap() -> None:
    for pid in [pid for pid, process in _children.items() if process.poll() is not None]:
        del _children[pid]

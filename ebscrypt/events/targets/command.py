"""A program as target: the event on its stdin, an environment without surprises, its output kept for the log."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from ebscrypt.events.targets.kinds import SAFE_PATH, CommandTarget
from ebscrypt.events.targets.outcome import Undelivered

OUTPUT_KEPT: Final = 4096
"""Bytes of a command's output that are kept: the last ones, which tell why it failed."""
_GRACE: Final = 2.0
"""Seconds between asking a command that is late to end, and ending it."""


def deliver(target: CommandTarget, body: str) -> str:
    """Run the command and return the end of its output. Exit status 0 means delivered.

    Raises `Undelivered` for any other end; one that could not even be started is final.
    """
    with _event_file(body) as event:
        try:
            process = subprocess.Popen(
                target.argv,
                stdin=event,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise Undelivered(f"{target.argv[0]} cannot be run: {error.strerror}", final=True) from error
    with process:
        output, late = _watch(process, time.monotonic() + target.timeout)
    if late:
        raise Undelivered(f"the command did not end within {target.timeout:g} s", output=output)
    if process.returncode < 0:
        raise Undelivered(f"the command was ended by signal {-process.returncode}", output=output)
    if process.returncode:
        raise Undelivered(f"the command ended with status {process.returncode}", output=output)
    return output


def environment() -> dict[str, str]:
    """What a command finds: a fixed path, the account's home, and ebscrypt's settings; no credentials, no locale."""
    account = pwd.getpwuid(os.geteuid())
    kept = {name: value for name, value in os.environ.items() if name.startswith("EBSCRYPT_")}
    who = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    return {"PATH": SAFE_PATH, "LANG": "C.UTF-8", **who, **kept}


@contextlib.contextmanager
def _event_file(body: str) -> Iterator[int]:
    """The event as a file in memory: a command that does not read it cannot make us wait, as a pipe could."""
    descriptor = os.memfd_create("event", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(body.encode() + b"\n")
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _watch(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, bool]:
    """The end of the process's output, and whether it had to be ended. It has ended by then.

    Its own end counts, not that of its output: what it started may keep that open for days.
    """
    assert process.stdout is not None  # noqa: S101 - we gave it a pipe
    output, reading = b"", process.stdout.fileno()
    os.set_blocking(reading, False)
    pidfd = os.pidfd_open(process.pid)
    try:
        waiting, late = [reading, pidfd], False
        while pidfd in waiting and not late:
            ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
            late = not ready
            if reading in ready:
                part = _read(reading)
                output = (output + part)[-OUTPUT_KEPT:]
                if not part:
                    waiting.remove(reading)
            if pidfd in ready:
                waiting.remove(pidfd)
            late = late or (pidfd in waiting and time.monotonic() >= deadline)
        if late:
            _end(process, pidfd)
        output = (output + _read(reading))[-OUTPUT_KEPT:]
    finally:
        os.close(pidfd)
    return output.decode(errors="replace"), late


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def _end(process: subprocess.Popen[bytes], pidfd: int) -> None:
    """End the command with all of its session's first group, that is what it started and did not detach."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if select.select([pidfd], [], [], _GRACE)[0]:
            return

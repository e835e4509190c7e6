"""What the deliverer writes down: a log of every attempt, and the dead letters of each rule.

Both are files of JSON lines with mode 0600 in the state directory's ``events``:

    deliver.log             one line an attempt; at 1 MiB it becomes deliver.log.1
    dead-letters/RULE.jsonl one line an event that a target did not get, with the reason; never removed by us
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from ebscrypt.config import Settings
from ebscrypt.model import utc_now

LARGEST_LOG: Final = 1024 * 1024
"""Bytes at which the log is set aside; the one set aside before goes."""


def log_path(settings: Settings) -> Path:
    return settings.events_dir / "deliver.log"


def dead_letters_path(settings: Settings, rule_name: str) -> Path:
    return settings.events_dir / "dead-letters" / f"{rule_name}.jsonl"


def count_dead_letters(settings: Settings, rule_name: str) -> int:
    """How many events the targets of a rule did not get."""
    try:
        with dead_letters_path(settings, rule_name).open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


def write_log(settings: Settings, record: dict[str, Any]) -> None:
    """Add a line to the log, with the time."""
    path = log_path(settings)
    if path.exists() and path.stat().st_size >= LARGEST_LOG:
        path.replace(path.with_name(f"{path.name}.1"))
    _append(path, record, durably=False)


def write_dead_letter(settings: Settings, rule_name: str, record: dict[str, Any]) -> None:
    """Add a dead letter, with the time. It is on the disk when this returns."""
    path = dead_letters_path(settings, rule_name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_new = not path.exists()
    _append(path, record, durably=True)
    if is_new:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _append(path: Path, record: dict[str, Any], *, durably: bool) -> None:
    line = json.dumps({"Time": utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")} | record, ensure_ascii=False)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        # A power cut may have left half a line: the next one must not be lost in it.
        broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if broken else b"") + line.encode(errors="backslashreplace") + b"\n"
        while data:
            data = data[file.write(data) or 0 :]
        if durably:
            os.fsync(descriptor)

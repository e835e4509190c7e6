"""A command of ours that goes on by itself: after the one that started it has ended, and after logout."""

from __future__ import annotations

import subprocess
import sys

from ebscrypt.control import process, systemd
from ebscrypt.control.site import Site
from ebscrypt.errors import StateError


def start(site: Site, words: list[str], *, description: str, purpose: str) -> None:
    """Start ``ebscrypt`` with ``words`` in a process of its own, without waiting for it.

    ``description`` is what systemd shows, ``purpose`` what cannot be done without it, for the message. Raises
    `StateError` when no process can be started.
    """
    command = [sys.executable, "-m", "ebscrypt.cli.main", *words]
    if systemd.is_used(site.settings) and systemd.start_transient(description, *command):
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
            f"nothing can be started that {purpose}: {error}", hint="the next command tries again"
        ) from error

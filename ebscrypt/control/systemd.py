"""The volume's unit, ``ebscrypt@vol-….service``, where systemd runs and the unit is installed.

systemd then starts the daemon, restarts it after a crash and stops it in the right order at shutdown. The unit calls
``ebscrypt attachment …`` around the daemon, so that `systemctl start` alone does all that `attach` does.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from ebscrypt import config
from ebscrypt.config import Settings

_RUNNING: Final = Path("/run/systemd/system")
_UNIT_ENVIRONMENT: Final = Path("/etc/ebscrypt/environment")
"""The unit's EnvironmentFile: the only variables that a daemon of systemd's sees."""


def unit(volume_id: str) -> str:
    return f"ebscrypt@{volume_id}.service"


def is_used(settings: Settings) -> bool:
    """Whether daemons are systemd's here: it runs, we are root, the unit is known, and it would read these settings.

    A unit sees none of this command's variables: with a state directory that was moved for it the daemon is our own.
    """
    if os.geteuid() != 0 or not _RUNNING.is_dir():
        return False
    return settings == config.load(_unit_environment()) and is_installed()


def _unit_environment() -> dict[str, str]:
    """``KEY=value`` lines, as systemd reads them (systemd.exec(5)); quotes around a value are not part of it."""
    try:
        lines = _UNIT_ENVIRONMENT.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = [line.strip().partition("=") for line in lines if "=" in line and not line.lstrip().startswith(("#", ";"))]
    return {name: value.strip("\"'") for name, _, value in pairs}


@functools.cache
def is_installed() -> bool:
    try:
        return _systemctl("cat", "ebscrypt@.service").returncode == 0
    except FileNotFoundError:
        return False


def start(volume_id: str) -> bool:
    """Start the unit and wait until it has started or failed; whether it has started."""
    _systemctl("reset-failed", unit(volume_id))
    return _systemctl("start", unit(volume_id)).returncode == 0


def stop(volume_id: str) -> None:
    """See to it that the unit is down and that nothing will start it again. No error where it is down already."""
    _systemctl("stop", unit(volume_id))


def watch_unit(volume_id: str) -> str:
    return f"ebscrypt-watch@{volume_id}.service"


def start_watch(volume_id: str) -> bool:
    """Have the watch over a volume's KMS key started as soon as its unit is up, without waiting; whether it will be."""
    return _systemctl("start", "--no-block", watch_unit(volume_id)).returncode == 0


def stop_watch(volume_id: str) -> None:
    """End the watch. It may be that its own process asks for this."""
    _systemctl("stop", "--no-block", watch_unit(volume_id))


def start_detach(volume_id: str) -> bool:
    """Have a volume detached whose KMS key cannot be used, outside of the units that end with it."""
    command = [sys.executable, "-m", "ebscrypt.cli.main", "attachment", "detach", volume_id]
    return _run_transiently(f"Detachment of {volume_id}, whose KMS key cannot be used", *command)


def start_deliverer() -> bool:
    """Have systemd start a deliverer of events, without waiting for it; whether it took the job.

    As a transient unit of its own each time: starting one unit again while its last process is about to end would do
    nothing, and the event would wait for the next command. Two at a time do no harm, since one of them ends at once.
    """
    return _run_transiently("Delivery of events", sys.executable, "-m", "ebscrypt.events.deliver")


def start_transient(description: str, *command: str) -> bool:
    """Have systemd run a command of ours that outlives this one, without waiting for it; whether it took the job."""
    return _run_transiently(description, *command)


def _run_transiently(description: str, *command: str) -> bool:
    properties = ("EnvironmentFile=-/etc/ebscrypt/environment", "UMask=0077", "KillMode=process")
    options = [f"--property={value}" for value in properties]
    ran = subprocess.run(
        ["systemd-run", "--quiet", "--no-block", "--collect", f"--description={description}", *options, *command],
        capture_output=True,
        check=False,
    )
    return ran.returncode == 0


def is_active(volume_id: str) -> bool:
    """Whether the unit runs, or is being started, stopped or restarted."""
    return _systemctl("is-active", "--quiet", unit(volume_id)).returncode == 0 or (
        _systemctl("show", "--value", "--property=ActiveState", unit(volume_id)).stdout.strip()
        in ("activating", "deactivating", "reloading")
    )


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False, errors="replace")

"""`ebscrypt` as a user runs it: a process a command, on a state directory of its own, with real daemons."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ebscrypt

SOURCE = Path(ebscrypt.__file__).parents[1]
TIMEOUT = 120.0


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Place:
    """One state directory. ``environ`` is what its commands see; `close` detaches and forgets everything."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ev-", dir="/tmp"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EBSCRYPT_", "AWS_"))}
        self.environ = kept | {
            "EBSCRYPT_STATE_DIR": str(self.directory / "s"),
            "EBSCRYPT_CONFIG": os.devnull,
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @property
    def volumes_dir(self) -> Path:
        return self.directory / "s" / "volumes"

    @property
    def runtime(self) -> Path:
        return self.directory / "s" / "run"

    def start(
        self, *words: str, prefix: tuple[str, ...] = (), environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A command under way."""
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "ebscrypt.cli.main", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ | dict(environ or {}),
        )

    def run(self, *words: str, prefix: tuple[str, ...] = (), environ: Mapping[str, str] | None = None) -> Ran:
        """A command and how it ended."""
        with self.start(*words, prefix=prefix, environ=environ) as process:
            out, err = process.communicate(timeout=TIMEOUT)
        assert "Traceback" not in err, err
        return Ran(process.returncode, out, err)

    def do(self, *words: str, **environ: str) -> str:
        """What a command that must succeed printed."""
        ran = self.run(*words, environ=environ)
        assert ran.status == 0, ran.err
        return ran.out.strip()

    def refused(self, *words: str, **environ: str) -> str:
        """What a command that must be refused said."""
        ran = self.run(*words, environ=environ)
        assert ran.status == 1, (ran.status, ran.out, ran.err)
        assert ran.out == ""
        assert ran.err.startswith(("ebscrypt: error: ", "note: "))
        return ran.err

    def show(self, volume_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.do("show", volume_id, "--output", "json"))
        return shown

    def attachment(self, volume_id: str) -> dict[str, Any]:
        attachment: dict[str, Any] = self.show(volume_id)["Attachments"][0]
        return attachment

    def kill_daemon(self, volume_id: str) -> int:
        """By kill -9, and wait until the process is gone; its number."""
        pid = int(self.attachment(volume_id)["Pid"])
        pidfd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_running(pid))
        finally:
            os.close(pidfd)
        return pid

    def daemons(self) -> list[int]:
        """Processes that serve a volume of this place."""
        wanted = f"EBSCRYPT_PATHS_STATE={self.directory / 's'}\0".encode()
        return [pid for pid in running("ebscrypt.daemon") if wanted in environ_of(pid)]

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            for volume in self.run("ls", "--output", "json").json["Volumes"]:
                self.run("detach", "--force", volume["VolumeId"])
        for pid in self.daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory)


def running(module: str) -> list[int]:
    """Processes whose command line names a module."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if module.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def environ_of(pid: int) -> bytes:
    """A process's environment at its start; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    """Whether a process is there and not just a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Wait for something that no event tells of."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def loop_devices_over(directory: Path) -> list[str]:
    """Loop devices whose file lies below a directory."""
    ran = subprocess.run(["losetup", "--json", "--list"], capture_output=True, text=True, check=True)
    devices = json.loads(ran.stdout or '{"loopdevices": []}')["loopdevices"]
    return [device["name"] for device in devices if str(device["back-file"]).startswith(str(directory))]


def mounts_below(directory: Path) -> list[str]:
    """Mount points below a directory."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ")[4] for line in lines if line.split(" ")[4].startswith(str(directory))]

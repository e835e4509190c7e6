"""Killing every command at every point of its way: the sweep, and what must hold afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebscrypt import config
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.site import Site
from tests.behaviour.volume.place import Place

MIB = 1 << 20
KILLED = -9


class Killer:
    """The process that runs commands and kills them, at work on one place."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.environ = {name: value for name, value in place.environ.items() if name.startswith("EBSCRYPT_")}
        self.settings = config.load(self.environ)
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.killer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=place.environ | {"PYTHONPATH": root},
        )

    def run(self, *words: str, kill_at: int = 0, only: str = "") -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {"words": words, "environ": self.environ, "kill_at": kill_at, "only": only}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def do(self, *words: str, status: int = 0) -> list[str]:
        """Run a command that must end like that; the points on its way."""
        ran = self.run(*words)
        assert ran["status"] == status, words
        points: list[str] = ran["points"]
        return points

    def sweep(self, prepare: Callable[[], list[str]], verify: Callable[[str], None], *, status: int = 0) -> int:
        """For each point of the command that ``prepare`` gives: prepare, kill it there, verify. The number of points.

        ``prepare`` makes a fresh start each time. ``verify`` gets the point's name and raises what is wrong. ``status``
        is how the command ends that nobody kills.
        """
        points = self.do(*prepare(), status=status)
        verify("the end")
        for number, name in enumerate(points, 1):
            words = prepare()
            ran = self.run(*words, kill_at=number)
            if ran["status"] == status and len(ran["points"]) < number:
                break  # a later run has fewer points: the first made a directory that is there now
            assert ran["status"] == KILLED, (number, name, ran)
            try:
                verify(name)
            except Exception as error:
                error.add_note(f"killed after point {number} of {len(points)}, {name}, of {words}")
                raise
        return len(points)

    def close(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


def newest(site: Site) -> str:
    return site.catalog.volumes()[-1].volume_id


def expect_sound(site: Site, volume_id: str) -> None:
    findings = check_volume(site, volume_id)
    assert {finding.result for finding in findings} == {Result.OK}, findings

"""What is not throughput: starting commands, making and attaching volumes, many of them at once, snapshots."""

import json
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.loads import memory_kib
from bench.servers import PASSPHRASE, Served, run


@dataclass(frozen=True)
class Timing:
    """One figure of one round: seconds by the clock, and CPU seconds of the command with those it waited for."""

    name: str
    wall: float
    cpu: float


def timed(name: str, action: Callable[[], object]) -> Timing:
    """Do it, and say what it took."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    action()
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(name, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def start_up(directory: Path) -> list[Timing]:
    """Python's own start, and the two commands that people wait for most often. The second has what is there."""
    main = [sys.executable, "-m", "ebscrypt.cli.main"]
    empty = timed("python -c pass", lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
    told = timed("ebscrypt --help", lambda: subprocess.run([*main, "--help"], check=True, stdout=subprocess.DEVNULL))
    return [empty, told, timed("ebscrypt ls, 1,000 volumes", lambda: run(directory, "ls"))]


def many_rows(directory: Path, count: int) -> None:
    """Let the catalog have ``count`` volumes more, that nothing is behind."""
    run(directory, "ls")
    names = "volume_id, state, size, backing, claim, backing_kind, backing_owned, encrypted, sector_size, volume_type"
    values = "printf('vol-%017x', n), 'available', 1 << 30, '/nowhere', n, 'file', 1, 1, 4096, 'gp3'"
    statement = (
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "  # noqa: S608 - constants
        f"INSERT INTO volumes ({names}, create_time) "
        f"SELECT {values}, '2024-01-02 03:04:05.000000' FROM numbers"
    )
    with closing(sqlite3.connect(directory / "state" / "catalog.db")) as catalog, catalog:
        catalog.execute(statement, (count,))


def life(directory: Path) -> list[Timing]:
    """Create, attach until the device answers, detach."""
    made: list[str] = []
    create = timed("create", lambda: made.append(run(directory, "create", "--size", "64M").strip()))
    attach = timed("attach", lambda: run(directory, "attach", "--export", "socket", made[0]))
    return [create, attach, timed("detach", lambda: run(directory, "detach", made[0]))]


def crowd(directory: Path, count: int) -> tuple[list[Timing], int, int]:
    """``count`` volumes attached at once: the time of each attachment, memory of all daemons in KiB, threads of all."""
    volumes, pids, timings = [], [], []
    try:
        for _ in range(count):
            volume = run(directory, "create", "--size", "16M").strip()
            volumes.append(volume)
            attach = ("attach", "--export", "socket", volume)
            timings.append(timed("attach in a crowd", lambda words=attach: run(directory, *words)))  # type: ignore[misc]
            pids.append(json.loads((directory / "run" / volume / "attachment.json").read_text())["pid"])
        threads = sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)
        return timings, memory_kib(Served("", tuple(pids)), "VmRSS"), threads
    finally:
        for volume in volumes:
            run(directory, "detach", volume)


def snapshots(directory: Path, size: int) -> list[Timing]:
    """A file with ``size`` bytes of noise: a first copy of it and a second one after nothing changed.

    ebscrypt copies the volume's ciphertext; restic and borg encrypt the same file as they do by default.
    """
    folder = directory / f"snapshots-{time.monotonic_ns()}"
    folder.mkdir()
    file = folder / "noise"
    subprocess.run(["dd", "if=/dev/urandom", f"of={file}", "bs=1M", f"count={size >> 20}", "status=none"], check=True)
    volume = run(folder, "create", "--size", f"{size}B").strip()
    uri = run(folder, "attach", "--export", "socket", volume).strip()
    subprocess.run(["nbdcopy", str(file), uri], check=True)
    run(folder, "detach", volume)
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "RESTIC_PASSWORD": PASSPHRASE,
        "BORG_PASSPHRASE": PASSPHRASE,
    }
    restic = ["restic", "-q", "-r", str(folder / "restic")]
    borg = str(folder / "borg")

    def peer(*words: str) -> None:
        subprocess.run(words, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    peer(*restic, "init")
    peer("borg", "init", "-e", "repokey-blake2", borg)
    found = []
    for turn in ("first", "unchanged"):
        found += [
            timed(f"ebscrypt snapshot, {turn}", lambda: run(folder, "snapshot", "create", "--wait", volume)),
            timed(f"restic, {turn}", lambda: peer(*restic, "backup", str(file))),
            timed(f"borg, {turn}", lambda name=turn: peer("borg", "create", f"{borg}::{name}", str(file))),  # type: ignore[misc]
        ]
    return found

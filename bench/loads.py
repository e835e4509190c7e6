"""The loads, and one measurement of one load on one server: fio's nbd engine, and the server's own CPU seconds."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.servers import Served

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What fio does: ``mode`` is its rw, ``block`` bytes, ``depth`` requests in flight, on ``jobs`` connections."""

    name: str
    mode: str
    block: int
    depth: int
    jobs: int = 1

    @property
    def by_rate(self) -> bool:
        """Whether requests per second tell more than bytes per second."""
        return self.block <= 4096


ALL = (
    Load("1 MiB read QD4", "read", 1 << 20, 4),
    Load("1 MiB write QD4", "write", 1 << 20, 4),
    Load("4 KiB random read QD32", "randread", 4096, 32),
    Load("4 KiB random write QD32", "randwrite", 4096, 32),
    Load("4 KiB random 70/30 QD32", "randrw", 4096, 32),
    Load("4 KiB random read QD1", "randread", 4096, 1),
    Load("4 KiB random write QD1", "randwrite", 4096, 1),
    Load("1 MiB read QD4, 2 connections", "read", 1 << 20, 4, jobs=2),
    Load("4 KiB random read QD32, 2 connections", "randread", 4096, 32, jobs=2),
    Load("512 B random write QD32", "randwrite", 512, 32),
)
ON_FILES = ALL[:7]
"""A file has no connections, and O_DIRECT on it no requests below its block size."""


@dataclass(frozen=True)
class Result:
    """One measurement. ``rate`` is bytes or requests a second, ``p50`` and ``p99`` microseconds, ``cpu`` s/GiB."""

    rate: float
    p50: float
    p99: float
    cpu: float


def fill(served: Served, size: int) -> None:
    """Write the whole volume once with data that no server can call a hole, and let fio verify it."""
    _fio(
        served,
        Load("fill", "write", 1 << 20, 4),
        ["--size", str(size), "--verify=crc32c", "--do_verify=1", "--verify_state_save=0"],
    )


def measure(served: Served, load: Load, size: int, seconds: float) -> Result:
    """Run ``load`` for ``seconds``."""
    before = cpu_seconds(served)
    span = size // load.jobs // (1 << 20) * (1 << 20)
    timed = ["--time_based", f"--runtime={round(seconds * 1000)}ms", f"--size={span}", f"--offset_increment={span}"]
    report = _fio(served, load, [*timed, f"--numjobs={load.jobs}", "--group_reporting"])
    spent = cpu_seconds(served) - before
    sides = [report["jobs"][0][side] for side in ("read", "write")]
    moved = sum(side["io_bytes"] for side in sides)
    busiest = max(sides, key=lambda side: int(side["total_ios"]))
    percentile = busiest["clat_ns"]["percentile"]
    rate = sum(side["iops"] if load.by_rate else side["bw_bytes"] for side in sides)
    return Result(rate, percentile["50.000000"] / 1e3, percentile["99.000000"] / 1e3, spent / (moved / (1 << 30)))


def cpu_seconds(served: Served) -> float:
    """User and system time of a server's processes so far (fields 14 and 15 of /proc/PID/stat)."""
    ticks = 0
    for pid in served.pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def memory_kib(served: Served, which: str) -> int:
    """What a server's processes keep in memory now (``VmRSS``), or have kept at most (``VmHWM``), in KiB."""
    statuses = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in served.pids]
    return sum(int(line.split()[1]) for status in statuses for line in status if line.startswith(f"{which}:"))


def _fio(served: Served, load: Load, options: list[str]) -> dict:  # type: ignore[type-arg]
    command = ["fio", "--name=load", "--output-format=json", "--thread"]
    if served.target.startswith("nbd+unix:"):
        command += ["--ioengine=nbd", f"--uri={served.target}"]
    else:
        command += ["--ioengine=libaio", "--direct=1", f"--filename={served.target}", "--allow_file_create=0"]
    command += [f"--rw={load.mode}", f"--bs={load.block}", f"--iodepth={load.depth}", "--rwmixread=70", "--norandommap"]
    if "--do_verify=1" in options:
        command.remove("--norandommap")
    ran = subprocess.run([*command, *options], check=True, text=True, stdout=subprocess.PIPE)
    report: dict = json.loads(ran.stdout[ran.stdout.index("{") :])  # type: ignore[type-arg]
    if any(job["error"] for job in report["jobs"]):
        raise SystemExit(f"bench: fio reports an error for {load.name} on {served.target}")
    return report

"""Run every load on every server in turns, and print what came of it."""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench import files, loads, report, servers, times

MIB = 1 << 20
QUICK = 4
"""Loads of each place that `--quick` runs."""


def main() -> None:
    """Measure as the arguments say."""
    options = arguments()
    # However it is ended: servers, mounts and files go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    size = options.size * MIB
    found = report.Report(about=about(options))
    for place, kinds, chosen in (
        ("NBD, on tmpfs", servers.NBD, loads.ALL),
        ("FUSE and loop, on tmpfs", files.ALL, loads.ON_FILES),
        ("NBD, on a disk", servers.DIRECT, loads.ON_FILES),
    ):
        parent = options.disk if kinds is servers.DIRECT else options.directory
        directory = Path(tempfile.mkdtemp(prefix="ebscrypt-bench.", dir=parent))
        try:
            measure(
                found,
                place,
                kinds=kinds,
                chosen=chosen[: QUICK if options.quick else None],
                directory=directory,
                size=size,
                options=options,
            )
        finally:
            shutil.rmtree(directory)
    directory = Path(tempfile.mkdtemp(prefix="ebscrypt-bench.", dir=options.directory))
    try:
        measure_times(found, directory, size, options)
    finally:
        shutil.rmtree(directory)
    print(report.markdown(found))
    if options.json:
        Path(options.json).write_text(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    if options.report:
        Path(options.report).write_text(report.markdown(found))


def arguments() -> argparse.Namespace:
    """Defaults that take half an hour; ``--quick`` a minute or two."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it runs, not to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=512, help="of the volume, in MiB")
    parser.add_argument("--crowd", type=int, default=100, help="volumes attached at once")
    parser.add_argument("--directory", default="/dev/shm", help="where files lie; a tmpfs leaves the disk out")  # noqa: S108 - meant
    parser.add_argument("--disk", default="/var/tmp", help="where the files of the O_DIRECT loads lie")  # noqa: S108 - meant
    parser.add_argument("--json", help="write every measurement to this file")
    parser.add_argument("--report", help="write the Markdown report to this file (docs/performance.md)")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.size, options.crowd = 1, 0.3, 64, 3
    return options


def about(options: argparse.Namespace) -> dict[str, str]:
    """Machine, commit and conditions."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False, text=True, stdout=subprocess.PIPE)
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit.stdout.strip() or "not known",
        "machine": f"{os.cpu_count()} × {cpu}, Linux {platform.release()}",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
        "rounds": f"{options.rounds} of {options.seconds:g} s each, servers in turns, on {options.size} MiB",
    }


def measure(
    found: report.Report,
    place: str,
    *,
    kinds: tuple[type[servers.Server], ...],
    chosen: tuple[loads.Load, ...],
    directory: Path,
    size: int,
    options: argparse.Namespace,
) -> None:
    """All servers of one place up at the same time, idle but for the one whose turn it is."""
    with ExitStack() as stack:
        running: dict[str, servers.Served] = {}
        for kind in kinds:
            server = kind(directory, size)
            server.prepare()
            served = running[kind.name] = stack.enter_context(server.serving())
            found.idle[kind.name] = loads.memory_kib(served, "VmRSS")
            talk(f"{kind.name}: writing and verifying {size // MIB} MiB")
            loads.fill(served, size)
        for number in range(options.rounds):
            for load in chosen:
                talk(f"{place}, round {number + 1} of {options.rounds}: {load.name}")
                for name, served in running.items():
                    result = loads.measure(served, load, size, options.seconds)
                    found.rates.setdefault(place, {}).setdefault(load.name, {}).setdefault(name, []).append(result)
        for name, served in running.items():
            found.peak[name] = loads.memory_kib(served, "VmHWM")


def measure_times(found: report.Report, directory: Path, size: int, options: argparse.Namespace) -> None:
    """What is counted once per command rather than by throughput."""
    times.many_rows(directory / "thousand", 1000)
    for number in range(options.rounds):
        talk(f"commands, round {number + 1} of {options.rounds}")
        for timing in times.start_up(directory / "thousand") + times.life(directory / "life"):
            found.times.setdefault(timing.name, []).append(timing)
        for timing in times.snapshots(directory, size):
            found.times.setdefault(timing.name, []).append(timing)
    talk(f"{options.crowd} volumes attached at once")
    attached, memory, threads = times.crowd(directory / "crowd", options.crowd)
    found.times[attached[0].name] = attached
    found.crowd = {"volumes": options.crowd, "memory KiB": memory, "threads": threads}


def talk(words: str) -> None:
    """Progress is for people: on standard error, and only where somebody looks."""
    if sys.stderr.isatty():
        print(f"bench: {words}", file=sys.stderr)


if __name__ == "__main__":
    main()

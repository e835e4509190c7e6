"""Run every load on every server in turns, and print what came of it."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench import loads, report, servers

MIB = 1 << 20


def main() -> None:
    """Measure as the arguments say."""
    options = arguments()
    size = options.size * MIB
    directory = Path(tempfile.mkdtemp(prefix="ebscrypt-bench.", dir=options.directory))
    try:
        measured = run(directory, size, options)
    finally:
        shutil.rmtree(directory)
    for load in loads.ALL:
        print("\n".join(report.table(measured, load, list(servers.ALL))))
    if options.json:
        rows = [
            {"server": server.name, "load": load.name, "rounds": [asdict(result) for result in results]}
            for (server, load), results in measured.items()
        ]
        Path(options.json).write_text(json.dumps(rows, indent=1))


def arguments() -> argparse.Namespace:
    """Defaults that take some minutes; ``--quick`` about one."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it runs, not to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=512, help="of the volume, in MiB")
    parser.add_argument("--directory", default="/dev/shm", help="where the files lie; a tmpfs leaves the disk out")  # noqa: S108 - meant
    parser.add_argument("--json", help="write every measurement to this file")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.7
    return options


def run(directory: Path, size: int, options: argparse.Namespace) -> report.Measured:
    """All servers up at the same time, idle but for the one whose turn it is."""
    measured: report.Measured = {}
    with ExitStack() as stack:
        running: dict[type[servers.Server], servers.Served] = {}
        for kind in servers.ALL:
            server = kind(directory, size)
            server.prepare()
            begun = time.monotonic()
            running[kind] = stack.enter_context(server.serving())
            talk(
                f"{kind.name}: started in {time.monotonic() - begun:.2f} s, {loads.resident_kib(running[kind].pid)} KiB"
            )
            loads.fill(running[kind], size)
        for number in range(options.rounds):
            for load in loads.ALL:
                talk(f"round {number + 1} of {options.rounds}: {load.name}")
                for kind, served in running.items():
                    result = loads.measure(served, load, size, options.seconds)
                    measured.setdefault((kind, load), []).append(result)
        for kind, served in running.items():
            talk(f"{kind.name}: {loads.resident_kib(served.pid)} KiB resident at the end")
    start_up()
    return measured


def start_up() -> None:
    """How long the command line takes to say something, beside Python's own start."""
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "ebscrypt --help": ["ebscrypt", "--help"]}
    base = 0.0
    for name, command in commands.items():
        times = []
        for _ in range(9):
            begun = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times.append(time.monotonic() - begun)
        base = base or median(times)
        print(f"{name:<18}{median(times) * 1e3:>8.0f} ms{median(times) / base:>8.1f}×")
    print()


def talk(words: str) -> None:
    """Progress is for people: on standard error, and only where somebody looks."""
    if sys.stderr.isatty():
        print(f"bench: {words}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""What the tests do to volumes in a guest, as shell commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.kernel.machine import Machine

SIZE: Final = 256 << 20
_MANY: Final = """
import shlex, sys
from ebscrypt.cli.main import main
sys.exit(any([main(shlex.split(line)) for line in sys.argv[1:]]))
"""


def create(machine: Machine, count: int = 1, *options: str) -> list[str]:
    """New volumes of `SIZE` bytes; their ids. One process makes all: under emulation its start takes seconds."""
    command = shlex.quote(shlex.join(["create", "--size", str(SIZE), *options]))
    return machine.run(f"python3 -c {shlex.quote(_MANY)} {' '.join([command] * count)}").split()


def show(machine: Machine, volume: str) -> dict[str, Any]:
    """What `ebscrypt show` says of a volume."""
    shown: dict[str, Any] = json.loads(machine.run(f"ebscrypt show {volume} --output json"))
    return shown


def clear(machine: Machine, volume: str) -> None:
    """Detach a volume that a test may have left attached."""
    machine.attempt(f"test ! -e /run/ebscrypt/{volume} || ebscrypt detach --force {volume}")


def processes(machine: Machine, volume: str) -> list[int]:
    """The ids of all processes that have the volume on their command line."""
    # The brackets keep the pattern from matching the shell that runs pgrep.
    return [int(pid) for pid in machine.attempt(f"pgrep -f '[v]{volume[1:]}'")[1].split()]


def write_secret(machine: Machine, path: str) -> str:
    """A file with a megabyte of random bytes, durable; its checksum."""
    machine.run(f"head -c 1M /dev/urandom >{path} && sync {path}")
    return checksum(machine, path)


def checksum(machine: Machine, path: str) -> str:
    return machine.run(f"sha256sum {path}").split()[0]


class Written:
    """How many blocks a load has written, known at its end."""

    blocks = 0


@contextmanager
def under_load(machine: Machine, target: str) -> Iterator[Written]:
    """A program in the guest writes numbered blocks of 64 KiB to a file during the block, each synced before the next.

    The block begins when it has written one and ends when, after all that was done in it, it has written another.
    Raises `CommandFailed` when one write or sync failed; `verify` reads back what was written.
    """
    written = Written()
    writer = machine.start(
        f"touch /run/load; number=0; while [ -e /run/load ]; do "
        f"yes $number | head -c 65536 | dd of={target} bs=64k seek=$number conv=notrunc,fsync status=none || exit 1; "
        f"number=$((number + 1)); done; echo $number"
    )
    machine.eventually(f"test -s {target}")
    try:
        yield written
        machine.run(f"stat -c %s {target} >/run/before")
        machine.eventually(f"test $(stat -c %s {target}) -gt $(cat /run/before)")
    finally:
        machine.run("rm -f /run/load")
    written.blocks = int(machine.wait(writer))


def verify(target: str, blocks: int) -> str:
    """A command that fails unless a file holds exactly the ``blocks`` that a load wrote."""
    return (
        f"number=0; while [ $number -lt {blocks} ]; do yes $number | head -c 65536; number=$((number + 1)); done "
        f"| cmp - {target}"
    )

"""What becomes of /dev/nbdN when its connections are lost without a killed daemon, and when there are several."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.kernel import volumes
from tests.kernel.machine import Machine

TESTS = 3
"""Volumes that the tests of this file need."""


@pytest.fixture(scope="module")
def machine(plain_machine: Machine) -> Machine:
    return plain_machine


@pytest.fixture(scope="module")
def unused_volumes(machine: Machine) -> list[str]:
    return volumes.create(machine, TESTS)


@pytest.fixture
def volume(machine: Machine, unused_volumes: list[str]) -> Iterator[str]:
    """A volume of its own for each test, detached afterwards whatever happened."""
    volume = unused_volumes.pop()
    yield volume
    machine.attempt("umount /mnt")
    volumes.clear(machine, volume)


def errors(log: list[str]) -> list[str]:
    return [line for line in log if "error" in line.lower() or "aborted" in line.lower()]


def test_a_daemon_that_hung_is_replaced_without_an_error(machine: Machine, volume: str) -> None:
    """When a request took longer than the I/O timeout the kernel hangs up; the daemon ends as by a crash.

    The next `attach` takes up the same device: neither the writer nor the file system has seen an error.
    """
    device = machine.run(f"EBSCRYPT_ATTACH_IO_TIMEOUT=5 ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    (daemon,) = volumes.processes(machine, volume)
    with machine.kernel_log() as log, volumes.under_load(machine, "/mnt/load") as written:
        machine.run(f"kill -STOP {daemon}; sleep 12; kill -CONT {daemon}")
        machine.eventually(f"test ! -e /proc/{daemon} || grep -q ' Z ' /proc/{daemon}/stat", timeout=60)
        taken_up = machine.run(f"EBSCRYPT_ATTACH_IO_TIMEOUT=60 ebscrypt attach {volume}")
    machine.run("echo 1 >/proc/sys/vm/drop_caches")
    machine.run(volumes.verify("/mnt/load", written.blocks))
    machine.run(f"umount /mnt && e2fsck -fn {device}")

    assert taken_up == device
    assert errors([line for line in log if "timed out" not in line]) == []


def test_several_connections_are_all_taken_up(machine: Machine, volume: str) -> None:
    """With four connections a killed daemon's successor brings four new ones, and no request is lost."""
    four = "EBSCRYPT_ATTACH_CONNECTIONS=4"
    device = machine.run(f"{four} ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    (daemon,) = volumes.processes(machine, volume)
    before = connections(machine, volume)
    with machine.kernel_log() as log, volumes.under_load(machine, "/mnt/load") as written:
        machine.run(f"kill -KILL {daemon}")
        machine.run(f"{four} ebscrypt attach {volume}")
    after = connections(machine, volume)
    machine.run(volumes.verify("/mnt/load", written.blocks))
    machine.run(f"umount /mnt && e2fsck -fn {device}")

    assert before == after == 4
    assert errors(log) == []


def test_without_a_successor_requests_fail_in_the_end(machine: Machine, volume: str) -> None:
    """When no daemon comes within the dead-connection timeout, readers get an error: nobody waits for ever.

    The volume can be detached then, and attached again.
    """
    device = machine.run(f"EBSCRYPT_ATTACH_DEAD_CONNECTION_TIMEOUT=5 ebscrypt attach {volume}")
    (daemon,) = volumes.processes(machine, volume)
    machine.run(f"kill -KILL {daemon}")
    began = time.monotonic()
    status, told = machine.attempt(f"dd if={device} of=/dev/null bs=4k count=1 skip=100 iflag=direct")
    lasted = time.monotonic() - began
    machine.run(f"ebscrypt detach {volume} && ebscrypt attach {volume}")
    read = machine.run(f"dd if={device} bs=4k count=1 skip=100 iflag=direct status=none | tr -d '\\0' | wc -c")

    assert status == 1
    assert "Input/output error" in told
    assert lasted < 60
    assert read == "0"


def connections(machine: Machine, volume: str) -> int:
    """How many connections the daemon serves, by its own count."""
    program = (
        "import pathlib; from ebscrypt.daemon.client import DaemonClient; "
        f"print(DaemonClient(pathlib.Path('/run/ebscrypt/{volume}/control.sock')).call('status')['connections'])"
    )
    return int(machine.run(f'python3 -c "{program}"'))

"""The kernel lane: one machine without systemd and one with it, each booted once and shared by its tests.

A test says its claim and does its steps in the guest; volumes are the test's own, so tests can run in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.guest_root import GuestRoot, guest_root
from tests.kernel.machine import Machine
from tests.kernel.program_disk import write_program_disk

_LIMIT = 900
"""Seconds for one test: the first also makes the guest and boots it."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.kernel)
            item.add_marker(pytest.mark.timeout(_LIMIT))
            # With -n 2 --dist loadgroup the two machines run side by side, and each is booted once.
            item.add_marker(pytest.mark.xdist_group(_machine_of(item)))


def _machine_of(item: pytest.Item) -> str:
    names = getattr(item, "fixturenames", ())
    return next((name for name in names if name.endswith("_machine")), "none")


@pytest.fixture(scope="session")
def guest() -> GuestRoot:
    return guest_root()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk with the package as it is in this tree."""
    disk = tmp_path_factory.mktemp("program") / "disk"
    write_program_disk(disk)
    return disk


@pytest.fixture(scope="session")
def plain_machine(guest: GuestRoot, program: Path) -> Iterator[Machine]:
    """A guest with nbd and udev, and without systemd: `attach` starts the daemon itself."""
    with Machine(guest, program, init="plain") as machine:
        _install_udev_rule(machine)
        yield machine


@pytest.fixture(scope="session")
def systemd_machine(guest: GuestRoot, program: Path) -> Iterator[Machine]:
    """A guest under systemd with our units, as scripts/install leaves it."""
    with Machine(guest, program, init="systemd") as machine:
        machine.run("/usr/local/share/ebscrypt/scripts/install --python /usr/bin/python3")
        yield machine


def _install_udev_rule(machine: Machine) -> None:
    machine.run("cp /usr/local/share/ebscrypt/systemd/60-ebscrypt.rules /etc/udev/rules.d && udevadm control --reload")

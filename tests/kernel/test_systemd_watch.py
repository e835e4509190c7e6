"""ebscrypt-watch@.service under a real systemd: it comes and goes with the volume, and outlives its own death."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel import volumes
from tests.kernel.machine import Machine


@pytest.fixture(scope="module")
def machine(systemd_machine: Machine) -> Machine:
    return systemd_machine


@pytest.fixture
def key(machine: Machine) -> Iterator[str]:
    """A KMS key of the test's own, and a short interval while it runs."""
    machine.run("mkdir -p /etc/ebscrypt && printf '[attach]\\nkey_check_interval = 2\\n' >/etc/ebscrypt/config.toml")
    yield machine.run("ebscrypt kms create-key")
    machine.run("rm /etc/ebscrypt/config.toml")


def make(machine: Machine, key: str, mode: str) -> str:
    (volume,) = volumes.create(machine, 1, "--kms-key-id", key, "--on-key-unusable", mode)
    return volume


@pytest.fixture
def volume(machine: Machine, key: str, mode: str) -> Iterator[str]:
    """A volume of this mode, detached afterwards whatever happened."""
    volume = make(machine, key, mode)
    yield volume
    machine.attempt(f"ebscrypt kms enable-key {key}; umount /mnt; systemctl stop ebscrypt@{volume}")
    volumes.clear(machine, volume)


def state_of(machine: Machine, unit: str) -> str:
    return machine.run(f"systemctl show --value --property=ActiveState {unit}")


@pytest.mark.parametrize("mode", ["suspend"])
def test_the_watch_suspends_and_resumes(machine: Machine, volume: str, key: str) -> None:
    """Killed while the volume is suspended it comes back and resumes it; it ends with the volume's unit."""
    watch = f"ebscrypt-watch@{volume}.service"
    machine.run(f"systemctl start ebscrypt@{volume}.service")
    machine.eventually(f"systemctl is-active --quiet {watch}")
    machine.run(f"ebscrypt kms disable-key {key}")
    machine.eventually(f"grep -q suspended /run/ebscrypt/{volume}/watch.json", timeout=180)
    stored = machine.run(f"systemctl show --value --property=NFileDescriptorStore ebscrypt@{volume}.service")
    machine.run(f"systemctl kill --signal=KILL {watch}")
    machine.run(f"ebscrypt kms enable-key {key}")
    machine.eventually(f"grep -q '\"access\":null' /run/ebscrypt/{volume}/watch.json", timeout=180)
    again = machine.run(f"systemctl show --value --property=NFileDescriptorStore ebscrypt@{volume}.service")
    machine.run(f"ebscrypt detach {volume}")
    machine.eventually(f"! systemctl is-active --quiet {watch}")

    assert stored == "0"
    assert again == "1"
    assert state_of(machine, watch) == "inactive"
    assert volumes.processes(machine, volume) == []


@pytest.mark.parametrize("mode", ["detach"])
def test_the_watch_detaches_and_ends(machine: Machine, volume: str, key: str) -> None:
    """The detachment is finished although both units end with it, and what was written is on the volume."""
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt && cp /etc/passwd /mnt")
    machine.run(f"ebscrypt kms disable-key {key}")
    machine.eventually(f"test ! -e /run/ebscrypt/{volume}", timeout=180)
    machine.eventually(f"! systemctl is-active --quiet ebscrypt@{volume}.service")
    state = volumes.show(machine, volume)["State"]
    machine.run(f"ebscrypt kms enable-key {key}")
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mount {device} /mnt && cmp /etc/passwd /mnt/passwd && umount /mnt")

    assert state == "available"


@pytest.mark.parametrize("mode", ["ignore"])
def test_a_volume_that_is_not_watched_has_no_watch(machine: Machine, volume: str) -> None:
    """Its unit starts nothing."""
    machine.run(f"ebscrypt attach {volume}")

    assert state_of(machine, f"ebscrypt-watch@{volume}.service") == "inactive"

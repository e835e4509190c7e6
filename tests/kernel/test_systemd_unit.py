"""ebscrypt@.service under a real systemd: start, crash, mount order, stop, reboot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.kernel import volumes
from tests.kernel.machine import Machine

TESTS = 10
"""Volumes that the tests of this file need."""


@pytest.fixture(scope="module")
def machine(systemd_machine: Machine) -> Machine:
    return systemd_machine


@pytest.fixture(scope="module")
def key(machine: Machine) -> str:
    """A KMS key of our own: AWS's managed key cannot be disabled."""
    return machine.run("ebscrypt kms create-key")


@pytest.fixture(scope="module")
def unused_volumes(machine: Machine, key: str) -> list[str]:
    return volumes.create(machine, TESTS, "--kms-key-id", key)


@pytest.fixture
def volume(machine: Machine, unused_volumes: list[str]) -> Iterator[str]:
    """A volume of its own for each test, detached afterwards whatever happened."""
    volume = unused_volumes.pop()
    yield volume
    machine.attempt(f"umount /mnt /srv/{volume}; sed -i /{volume}/d /etc/fstab; systemctl daemon-reload")
    machine.attempt(f"rm -f /etc/ebscrypt/config.toml; systemctl stop {unit(volume)}")
    volumes.clear(machine, volume)


@pytest.fixture
def disable_key(machine: Machine, key: str) -> Iterator[Callable[[], None]]:
    """Makes KMS refuse the volumes' key, until the end of the test."""
    switched = []

    def disable() -> None:
        machine.run(f"ebscrypt kms disable-key {key}")
        switched.append(True)

    yield disable
    if switched:
        machine.run(f"ebscrypt kms enable-key {key}")


def unit(volume: str) -> str:
    return f"ebscrypt@{volume}.service"


def link(volume: str) -> str:
    return f"/dev/disk/by-id/ebscrypt-{volume}"


def unit_property(machine: Machine, volume: str, name: str) -> str:
    return machine.run(f"systemctl show --value --property={name} {unit(volume)}")


def add_to_fstab(machine: Machine, volume: str) -> None:
    """The line that systemd/README.md shows."""
    machine.run(
        f"mkdir -p /srv/{volume} && "
        f"echo '{link(volume)} /srv/{volume} ext4 _netdev,nofail,x-systemd.requires={unit(volume)} 0 2' "
        f">>/etc/fstab && "
        f"systemctl daemon-reload"
    )


def make_file_system(machine: Machine, volume: str) -> None:
    machine.run(f"ebscrypt attach {volume} && mkfs.ext4 -q {link(volume)} && ebscrypt detach {volume}")


def is_nothing_left(machine: Machine, volume: str) -> bool:
    """Whether no process, link or runtime file of the volume is there, and it is available."""
    machine.run("udevadm settle")
    return (
        volumes.processes(machine, volume) == []
        and machine.attempt(f"ls -d {link(volume)} /run/ebscrypt/{volume}")[0] == 2
        and volumes.show(machine, volume)["State"] == "available"
    )


def test_installed_files_are_sound(machine: Machine) -> None:
    """Neither systemd nor udev has anything to say against the installed unit and rule."""
    told = machine.attempt("systemd-analyze verify --man=no ebscrypt@vol-0123456789abcdef0.service")
    read = machine.run("udevadm test /sys/block/vda 2>&1 | grep ebscrypt")

    assert told == (0, "")
    assert read == "Reading rules file: /etc/udev/rules.d/60-ebscrypt.rules"


def test_start_attaches_and_stop_detaches(machine: Machine, volume: str) -> None:
    """`systemctl start` returns when the device answers, under its name; `systemctl stop` leaves nothing."""
    machine.run(f"systemctl start {unit(volume)}")
    size = machine.run(f"blockdev --getsize64 {link(volume)}")
    state = volumes.show(machine, volume)["State"]
    machine.run(f"mkfs.ext4 -q {link(volume)}")
    machine.run(f"systemctl stop {unit(volume)}")

    assert size == str(volumes.SIZE)
    assert state == "in-use"
    assert unit_property(machine, volume, "Result") == "success"
    assert is_nothing_left(machine, volume)


def test_attach_and_detach_work_through_the_unit(machine: Machine, volume: str) -> None:
    """`ebscrypt attach` starts the volume's unit, and `ebscrypt detach` stops it."""
    machine.run(f"ebscrypt attach {volume}")
    attached = unit_property(machine, volume, "ActiveState")
    machine.run(f"ebscrypt detach {volume}")

    assert attached == "active"
    assert unit_property(machine, volume, "ActiveState") == "inactive"
    assert is_nothing_left(machine, volume)


def test_killed_daemon_comes_back_without_kms(machine: Machine, volume: str, disable_key: Callable[[], None]) -> None:
    """After `kill -9` under synced writes systemd starts the daemon again without KMS, and nobody sees an error.

    The KMS key is disabled by then: the data key comes from systemd's descriptor store.
    """
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    disable_key()
    first = unit_property(machine, volume, "MainPID")
    with machine.kernel_log() as log, volumes.under_load(machine, "/mnt/load") as written:
        machine.run(f"systemctl kill --signal=KILL {unit(volume)}")
        machine.eventually(f"systemctl is-active {unit(volume)} && systemctl show {unit(volume)} | grep -x NRestarts=1")
        second = unit_property(machine, volume, "MainPID")
    machine.run("echo 1 >/proc/sys/vm/drop_caches")
    machine.run(volumes.verify("/mnt/load", written.blocks))
    machine.run(f"umount /mnt && e2fsck -fn {device}")

    assert second not in {first, "0"}
    assert [line for line in log if "error" in line.lower() or "aborted" in line.lower()] == []


def test_stopped_service_leaves_no_key_behind(machine: Machine, volume: str, disable_key: Callable[[], None]) -> None:
    """After a stop the descriptor store is empty: with the KMS key disabled the volume cannot be started again.

    The journal says why, and systemd does not try over and over.
    """
    machine.run(f"systemctl start {unit(volume)} && systemctl stop {unit(volume)}")
    disable_key()
    status, _ = machine.attempt(f"systemctl start {unit(volume)}")
    journal = machine.run(f"journalctl --unit {unit(volume)} --output=cat")

    assert status != 0
    assert "disabled" in journal
    assert unit_property(machine, volume, "NRestarts") == "0"
    assert is_nothing_left(machine, volume)


def test_attach_tells_what_the_unit_could_not_do(
    machine: Machine, volume: str, disable_key: Callable[[], None]
) -> None:
    """When the daemon under systemd fails, `ebscrypt attach` tells the daemon's own error, not that a unit failed."""
    disable_key()
    status, told = machine.attempt(f"ebscrypt attach {volume}")

    assert status == 1
    assert "disabled" in told
    assert is_nothing_left(machine, volume)


def test_daemon_has_given_up_its_privileges(machine: Machine, volume: str) -> None:
    """While it serves, the daemon is another user without capabilities, cannot gain any, and is confined by seccomp."""
    machine.run(f"systemctl start {unit(volume)}")
    pid = unit_property(machine, volume, "MainPID")
    status = dict(line.split(":\t", 1) for line in machine.run(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    user = machine.run("id -u ebscrypt")

    assert status["Uid"].split() == [user] * 4
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == status["CapAmb"] == "0" * 16
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert "VmSwap" not in status or status["VmSwap"].split()[0] == "0"


def test_fuse_export_under_the_unit(machine: Machine, volume: str) -> None:
    """With attach.export = fuse the unit makes a loop device that the whole machine can use, named by udev.

    Stopping leaves neither the loop device nor the FUSE mount.
    """
    machine.run("mkdir -p /etc/ebscrypt && printf '[attach]\\nexport = \"fuse\"\\n' >/etc/ebscrypt/config.toml")
    machine.run(f"systemctl start {unit(volume)} && udevadm settle")
    device = machine.run(f"readlink -f {link(volume)}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    written = volumes.write_secret(machine, "/mnt/secret")
    machine.run(f"umount /mnt && systemctl restart {unit(volume)} && udevadm settle && mount {link(volume)} /mnt")
    read = volumes.checksum(machine, "/mnt/secret")
    machine.run(f"umount /mnt && systemctl stop {unit(volume)}")

    assert device.startswith("/dev/loop")
    assert read == written
    assert machine.run("losetup --all") == ""
    assert machine.attempt("grep fuse.ebscrypt /proc/mounts")[0] == 1
    assert is_nothing_left(machine, volume)


def test_mount_brings_the_volume_and_stop_unmounts_first(machine: Machine, volume: str) -> None:
    """With the fstab line, `mount` attaches the volume by itself; stopping the service unmounts before it detaches."""
    make_file_system(machine, volume)
    add_to_fstab(machine, volume)
    machine.run(f"systemctl start $(systemd-escape --path --suffix=mount /srv/{volume})")
    machine.run(f"findmnt --source {link(volume)} --target /srv/{volume} && cp /etc/passwd /srv/{volume}")
    machine.run(f"systemctl stop {unit(volume)}")

    assert machine.attempt(f"findmnt /srv/{volume}")[0] == 1
    assert unit_property(machine, volume, "Result") == "success"
    assert is_nothing_left(machine, volume)


class Rebooted(NamedTuple):
    """Two volumes that were mounted when the machine was rebooted, and what had been written to each."""

    in_fstab: str
    by_hand: str
    written: str


@pytest.fixture(scope="module")
def rebooted(machine: Machine, unused_volumes: list[str]) -> Iterator[Rebooted]:
    in_fstab, by_hand = unused_volumes.pop(), unused_volumes.pop()
    make_file_system(machine, in_fstab)
    add_to_fstab(machine, in_fstab)
    machine.run(f"systemctl start $(systemd-escape --path --suffix=mount /srv/{in_fstab})")
    machine.run(f"ebscrypt attach {by_hand} && mkfs.ext4 -q {link(by_hand)} && mkdir /srv/{by_hand}")
    machine.run(f"mount {link(by_hand)} /srv/{by_hand}")
    written = volumes.write_secret(machine, "/root/secret")
    # Not synced: it is the unmounting at shutdown that must bring it to the disk.
    machine.run(f"cp /root/secret /srv/{in_fstab} && cp /root/secret /srv/{by_hand}")
    machine.reboot("systemctl reboot")
    machine.eventually("test $(systemctl is-system-running) != starting")
    yield Rebooted(in_fstab, by_hand, written)
    machine.attempt(f"umount /srv/{by_hand}; sed -i /{in_fstab}/d /etc/fstab; systemctl daemon-reload")
    for volume in (in_fstab, by_hand):
        machine.attempt(f"umount /srv/{volume}; systemctl stop {unit(volume)}")
        volumes.clear(machine, volume)


def test_volume_in_fstab_comes_back_at_boot(machine: Machine, rebooted: Rebooted) -> None:
    """A volume with a line in fstab is attached and mounted again when the machine has booted, with its data."""
    assert machine.run(f"findmnt --noheadings --output TARGET {link(rebooted.in_fstab)}") == f"/srv/{rebooted.in_fstab}"
    assert volumes.checksum(machine, f"/srv/{rebooted.in_fstab}/secret") == rebooted.written
    assert "recover" not in machine.run("dmesg | grep 'EXT4-fs (nbd'")


def test_volume_mounted_by_hand_is_unmounted_cleanly(machine: Machine, rebooted: Rebooted) -> None:
    """A volume that was mounted by hand, unknown to fstab, is served until it is unmounted: nothing written is lost."""
    state = volumes.show(machine, rebooted.by_hand)["State"]
    machine.run(f"ebscrypt attach {rebooted.by_hand}")
    checked = machine.run(f"e2fsck -fn {link(rebooted.by_hand)} && dumpe2fs -h {link(rebooted.by_hand)}")
    machine.run(f"mount {link(rebooted.by_hand)} /srv/{rebooted.by_hand}")

    assert state == "available"
    assert "needs_recovery" not in checked
    assert volumes.checksum(machine, f"/srv/{rebooted.by_hand}/secret") == rebooted.written

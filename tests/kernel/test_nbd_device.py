"""A real /dev/nbdN, set up by our own netlink messages, in a kernel without systemd around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel import volumes
from tests.kernel.machine import Machine

TESTS = 7
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


def test_attach_makes_a_block_device_of_the_volumes_size(machine: Machine, volume: str) -> None:
    """`attach` prints /dev/nbdN; it has the volume's size, and udev names it by the volume's id."""
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run("udevadm settle")

    assert device.startswith("/dev/nbd")
    assert machine.run(f"blockdev --getsize64 {device}") == str(volumes.SIZE)
    assert machine.run(f"readlink -f /dev/disk/by-id/ebscrypt-{volume}") == device


def test_detach_leaves_nothing(machine: Machine, volume: str) -> None:
    """After `detach` there is no process, device, link, runtime file or loop device, and the volume is available."""
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt && cp /etc/passwd /mnt && umount /mnt")
    machine.run(f"ebscrypt detach {volume} && udevadm settle")

    assert volumes.processes(machine, volume) == []
    assert machine.run(f"cat /sys/block/{device.removeprefix('/dev/')}/size") == "0"
    assert machine.attempt(f"ls -d /dev/disk/by-id/ebscrypt-{volume} /run/ebscrypt/{volume}")[0] == 2
    assert machine.run("losetup --all") == ""
    assert volumes.show(machine, volume)["State"] == "available"


def test_detach_is_refused_while_mounted(machine: Machine, volume: str) -> None:
    """A mounted volume is not detached, and the refusal says where it is mounted."""
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mkdir -p /mnt/{volume} && mount {device} /mnt/{volume}")
    status, told = machine.attempt(f"ebscrypt detach {volume}")
    machine.run(f"touch /mnt/{volume}/still-writable && umount /mnt/{volume}")

    assert status == 1
    assert f"/mnt/{volume}" in told


def test_a_file_system_survives_detach_and_attach(machine: Machine, volume: str) -> None:
    """What was written to ext4 on the volume is there, checked, after it was detached and attached again."""
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    written = volumes.write_secret(machine, "/mnt/secret")
    machine.run(f"umount /mnt && ebscrypt detach {volume}")
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"e2fsck -fn {device} && mount -o ro {device} /mnt")
    read = volumes.checksum(machine, "/mnt/secret")
    machine.run("umount /mnt")

    assert read == written


def test_killed_daemon_is_replaced_without_an_error(machine: Machine, volume: str) -> None:
    """After `kill -9` under synced writes the next `attach` takes up the same device, and nobody above saw an error.

    Neither the writer nor the kernel's log nor the file system knows of one, and all that was written is there.
    """
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    with machine.kernel_log() as log, volumes.under_load(machine, "/mnt/load") as written:
        (daemon,) = volumes.processes(machine, volume)
        machine.run(f"kill -KILL {daemon}")
        taken_up = machine.run(f"ebscrypt attach {volume}")
    machine.run("echo 1 >/proc/sys/vm/drop_caches")
    machine.run(volumes.verify("/mnt/load", written.blocks))
    machine.run(f"umount /mnt && e2fsck -fn {device}")

    assert taken_up == device
    assert [line for line in log if "error" in line.lower() or "aborted" in line.lower()] == []


def test_resize_while_attached_reaches_the_file_system(machine: Machine, volume: str) -> None:
    """`resize` of an attached volume makes the device larger at once, and a mounted ext4 can grow into it."""
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    written = volumes.write_secret(machine, "/mnt/secret")
    machine.run(f"ebscrypt resize {volume} --size 384M")
    size = machine.run(f"blockdev --getsize64 {device}")
    machine.run(f"resize2fs {device}")
    blocks = int(machine.run("stat -f -c %b /mnt")) * int(machine.run("stat -f -c %S /mnt"))
    read = volumes.checksum(machine, "/mnt/secret")
    machine.run(f"umount /mnt && e2fsck -fn {device}")

    assert size == str(384 << 20)
    assert blocks > 300 << 20
    assert read == written


def test_discarded_blocks_leave_the_backing(machine: Machine, volume: str) -> None:
    """Trimming after a file is removed gives its space back to the file system below, through the core."""
    device = machine.run(f"ebscrypt attach {volume}")
    backing = volumes.show(machine, volume)["Backing"]
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    machine.run("head -c 100M /dev/urandom >/mnt/large && sync -f /mnt")
    full = int(machine.run(f"stat -c %b {backing}"))
    machine.run("rm /mnt/large && sync -f /mnt && fstrim /mnt && umount /mnt")
    trimmed = int(machine.run(f"stat -c %b {backing}"))

    assert full - trimmed > (90 << 20) // 512

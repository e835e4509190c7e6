"""A real /dev/nbdN while its volume is suspended: the kernel waits longer than any of its timers, and sees no error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel import volumes
from tests.kernel.machine import Machine

_LONG = 75
"""Seconds of suspension: over the I/O timeout that is set here, and over two rounds of nbd.ko's own 30 s timer."""
_SETTINGS = "EBSCRYPT_ATTACH_IO_TIMEOUT=10 EBSCRYPT_ATTACH_CONNECTIONS=4 EBSCRYPT_ATTACH_KEY_CHECK_INTERVAL=2"


@pytest.fixture(scope="module")
def machine(plain_machine: Machine) -> Machine:
    return plain_machine


@pytest.fixture
def key(machine: Machine) -> str:
    """A KMS key of the test's own: the other volumes of the file keep theirs."""
    return machine.run("ebscrypt kms create-key")


@pytest.fixture
def volume(machine: Machine, key: str) -> Iterator[str]:
    """A volume that is suspended when its key cannot be used, detached afterwards whatever happened."""
    (volume,) = volumes.create(machine, 1, "--kms-key-id", key, "--on-key-unusable", "suspend")
    yield volume
    machine.attempt(f"ebscrypt kms enable-key {key}")
    volumes.clear(machine, volume)
    machine.attempt("umount /mnt")


def access_becomes(machine: Machine, volume: str, wanted: str) -> None:
    """Wait until the watch has written down that the volume's access is this; ``null`` where nothing is limited."""
    machine.eventually(f"grep -q '\"access\":{wanted}' /run/ebscrypt/{volume}/watch.json", timeout=180)


def test_writers_wait_for_as_long_as_it_takes(machine: Machine, volume: str, key: str) -> None:
    """Neither the file system nor its writer has seen an error when the key is back, nor was the device reconnected."""
    device = machine.run(f"{_SETTINGS} ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    before = volumes.show(machine, volume)["Attachments"][0]["Pid"]
    with machine.kernel_log() as log, volumes.under_load(machine, "/mnt/load") as written:
        machine.run(f"ebscrypt kms disable-key {key}")
        access_becomes(machine, volume, '"suspended"')
        size = machine.run("stat -c %s /mnt/load")
        machine.run(f"sleep {_LONG}")
        waited = machine.run("stat -c %s /mnt/load")
        machine.run(f"ebscrypt kms enable-key {key}")
        access_becomes(machine, volume, "null")
    machine.run("echo 1 >/proc/sys/vm/drop_caches")
    machine.run(volumes.verify("/mnt/load", written.blocks))
    after = volumes.show(machine, volume)["Attachments"][0]["Pid"]
    machine.run(f"umount /mnt && e2fsck -fn {device}")

    # At most the one block that was under way when the requests began to wait was added to the file's size.
    assert int(waited) - int(size) <= 65536
    assert after == before
    assert [line for line in log if "error" in line.lower() or "timed out" in line.lower()] == []
    assert any("Possible stuck request" in line for line in log)


def test_force_detaches_a_suspended_volume_that_is_mounted(machine: Machine, volume: str, key: str) -> None:
    """Nothing hangs, not even what waited; what was synced before is there when the key is back."""
    device = machine.run(f"{_SETTINGS} ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    written = volumes.write_secret(machine, "/mnt/secret")
    machine.run(f"ebscrypt kms disable-key {key}")
    access_becomes(machine, volume, '"suspended"')
    waiting = machine.start("dd if=/dev/zero of=/mnt/lost bs=1M count=4 conv=fsync; true")
    refused, told = machine.attempt(f"ebscrypt detach {volume}")
    machine.run(f"ebscrypt detach --force {volume}")
    machine.wait(waiting)
    state = volumes.show(machine, volume)["State"]
    machine.run(f"ebscrypt kms enable-key {key}")
    device = machine.run(f"ebscrypt attach {volume}")
    machine.attempt(f"e2fsck -fy {device}")
    machine.run(f"mount {device} /mnt")
    found = volumes.checksum(machine, "/mnt/secret")
    machine.run("umount /mnt")

    assert refused == 1
    assert "is suspended" in told
    assert state == "available"
    assert found == written

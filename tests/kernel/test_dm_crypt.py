"""Stock dm-crypt and ebscrypt on the same volume: each reads what the other wrote, given the data key."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from tests.kernel import volumes
from tests.kernel.machine import Machine


@pytest.fixture(scope="module")
def machine(plain_machine: Machine) -> Machine:
    plain_machine.run("modprobe loop")  # cryptsetup makes a loop device over a file, and does not load it
    return plain_machine


@pytest.fixture(scope="module", params=[512, 4096])
def volume(machine: Machine, request: pytest.FixtureRequest) -> str:
    """A volume that was attached once, so that its header is sealed, with ext4 and a file on it."""
    (volume,) = volumes.create(machine, 1, "--sector-size", str(request.param))
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"mkfs.ext4 -q {device} && mount {device} /mnt")
    volumes.write_secret(machine, "/mnt/secret")
    machine.run("cd /mnt && sha256sum secret >sums && cd / && umount /mnt")
    machine.run(f"ebscrypt detach {volume}")
    return volume


@pytest.fixture(autouse=True)
def _closed(machine: Machine, volume: str) -> Iterator[None]:
    """Leaves the volume detached and closed for the next test."""
    yield
    machine.attempt("umount /mnt; cryptsetup close plaintext; rm -f /dev/shm/key")
    volumes.clear(machine, volume)


def open_with_dm_crypt(machine: Machine, volume: str) -> None:
    """`cryptsetup open` as a user would who has lost ebscrypt and still has the data key."""
    backing = volumes.show(machine, volume)["Backing"]
    machine.run(f"/usr/local/libexec/unwrap-key {backing} /dev/shm/key")
    machine.run(f"cryptsetup open --type luks2 --volume-key-file /dev/shm/key --key-size 512 {backing} plaintext")


def test_dm_crypt_reads_what_ebscrypt_wrote(machine: Machine, volume: str) -> None:
    """Dm-crypt opens the volume with its data key, as a device of its size, with the same clean file system on it."""
    open_with_dm_crypt(machine, volume)
    size = machine.run("blockdev --getsize64 /dev/mapper/plaintext")
    machine.run("e2fsck -fn /dev/mapper/plaintext && mount -o ro /dev/mapper/plaintext /mnt")
    machine.run("cd /mnt && sha256sum --check --strict sums")

    assert size == str(volumes.SIZE)


def test_ebscrypt_reads_what_dm_crypt_wrote(machine: Machine, volume: str) -> None:
    """A file written through dm-crypt is there, whole, when ebscrypt attaches the volume again."""
    open_with_dm_crypt(machine, volume)
    machine.run("mount /dev/mapper/plaintext /mnt")
    written = volumes.write_secret(machine, "/mnt/from-dm-crypt")
    machine.run("umount /mnt && cryptsetup close plaintext")
    device = machine.run(f"ebscrypt attach {volume}")
    machine.run(f"e2fsck -fn {device} && mount -o ro {device} /mnt && cd /mnt && sha256sum --check --strict sums")

    assert volumes.checksum(machine, "/mnt/from-dm-crypt") == written


def test_dm_crypt_refuses_another_key(machine: Machine, volume: str) -> None:
    """The digest that ebscrypt sealed into the header makes cryptsetup refuse any other key of the same length."""
    backing = volumes.show(machine, volume)["Backing"]
    status, told = machine.attempt(
        f"head -c 64 /dev/urandom >/dev/shm/key && "
        f"cryptsetup open --type luks2 --volume-key-file /dev/shm/key --key-size 512 {backing} plaintext"
    )

    assert status != 0
    assert "does not match" in told


def test_a_recovery_passphrase_opens_the_volume(machine: Machine, volume: str) -> None:
    """What `recovery add` printed, typed into stock cryptsetup, is all it takes: no KMS and no data key."""
    backing = volumes.show(machine, volume)["Backing"]
    machine.run(f"ebscrypt recovery add {volume} --generate >/dev/shm/key")
    machine.run(f"cryptsetup open --readonly {backing} plaintext </dev/shm/key")

    machine.run("e2fsck -fn /dev/mapper/plaintext && mount -o ro /dev/mapper/plaintext /mnt")
    machine.run("cd /mnt && sha256sum --check --strict sums")


@pytest.mark.parametrize("requirement", ["ebscrypt-filling", "ebscrypt-reencrypt"])
def test_dm_crypt_refuses_half_a_volume(machine: Machine, volume: str, requirement: str) -> None:
    """Blocks still to come, or a part under another data key: with the right key in hand cryptsetup opens neither."""
    backing = volumes.show(machine, volume)["Backing"]
    machine.run(f"/usr/local/libexec/unwrap-key {backing} /dev/shm/key && head -c 16M {backing} >/dev/shm/header")
    program = (
        "import msgspec, os, sys; from ebscrypt import luks2\n"
        "fd = os.open(sys.argv[1], os.O_RDWR); header = luks2.read_header(fd).header\n"
        "config = header.metadata['config'] | {'requirements': {'mandatory': [sys.argv[2]]}}\n"
        "changed = msgspec.structs.replace(header, metadata=header.metadata | {'config': config})\n"
        "luks2.write_header(fd, changed, reencrypting=sys.argv[2] == 'ebscrypt-reencrypt')"
    )
    try:
        machine.run(f"python3 -c {shlex.quote(program)} {backing} {requirement}")
        status, told = machine.attempt(
            f"cryptsetup open --type luks2 --volume-key-file /dev/shm/key --key-size 512 {backing} plaintext"
        )
    finally:
        machine.run(f"dd if=/dev/shm/header of={backing} bs=1M conv=notrunc,fsync status=none && rm /dev/shm/header")

    assert status != 0
    assert "equirements" in told
    assert machine.attempt("test -e /dev/mapper/plaintext")[0] != 0

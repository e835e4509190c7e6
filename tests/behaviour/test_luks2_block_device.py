"""Headers on block devices, and the lock that cryptsetup and we share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.errors import BackingInUse
from ebscrypt.luks2 import DATA_OFFSET, Header, lock
from ebscrypt.model import MIB
from tests.behaviour.luks2_clients import RIGHT, blocked_on_flock, check_key, opened, run, until


def test_cryptsetup_waits_for_our_update_of_a_file(volume_backing: Path) -> None:
    """While we hold the header's lock, cryptsetup does not read; once we let go, it does."""
    with opened(volume_backing) as fd, luks2.header_lock(fd):
        process = subprocess.Popen(["cryptsetup", "luksDump", str(volume_backing)], stdout=subprocess.DEVNULL)
        try:
            until(lambda: blocked_on_flock(process.pid))
            assert process.poll() is None
        except BaseException:
            process.kill()
            raise
    assert process.wait(30) == 0


@pytest.fixture(params=[512, 4096])
def loop_device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A block device of 24 MiB with logical blocks of 512 or 4096 bytes."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xee" * (DATA_OFFSET + 8 * MIB))
    device = run("losetup", "--find", "--show", "--sector-size", str(request.param), path).strip()
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


@pytest.mark.parametrize("flags", [0, os.O_DIRECT])
def test_a_block_device_carries_a_header_like_a_file(
    loop_device: Path, volume_header: Header, key_file: Path, flags: int
) -> None:
    """Format, update, damage, repair on a device, through the page cache and past it; cryptsetup agrees."""
    fd = os.open(loop_device, os.O_RDWR | os.O_CLOEXEC | flags)
    try:
        luks2.format_header(fd, volume_header)
        salt = luks2.new_digest_salt()
        digest = hashlib.pbkdf2_hmac("sha256", key_file.read_bytes(), salt, 1000, 32)
        header = luks2.read_header(fd).header.with_digest(luks2.Digest(salt=salt, digest=digest))
        header = luks2.write_header(fd, header)
        with loop_device.open("r+b", buffering=0) as other:
            os.pwrite(other.fileno(), bytes(4096), 0)
            os.fsync(other.fileno())
        assert luks2.repair_header(fd).repair_offset == 0
        assert luks2.read_header(fd) == luks2.Reading(header=header)
    finally:
        os.close(fd)

    check_key(loop_device, key_file, RIGHT)
    with loop_device.open("rb") as device:
        device.seek(DATA_OFFSET - 1)
        assert device.read(2) == b"\0\xee"


def test_the_lock_of_a_block_device_is_cryptsetups(
    loop_device: Path, volume_header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cryptsetup waits for our lock on a device, we are told when it holds its own, and no lock file is left."""
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    number = loop_device.stat().st_rdev
    lock_file = Path(f"/run/cryptsetup/L_{os.major(number)}:{os.minor(number)}")
    with opened(loop_device) as fd:
        luks2.format_header(fd, volume_header)
        with luks2.header_lock(fd):
            process = subprocess.Popen(["cryptsetup", "luksDump", str(loop_device)], stdout=subprocess.DEVNULL)
            try:
                until(lambda: blocked_on_flock(process.pid))
            except BaseException:
                process.kill()
                raise
        assert process.wait(30) == 0
        until(lambda: not lock_file.exists())

        with lock_file.open("w") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_SH)
            with pytest.raises(BackingInUse), luks2.header_lock(fd):
                pytest.fail("took a lock that another holds")
            lock_file.unlink()
    assert not lock_file.exists()

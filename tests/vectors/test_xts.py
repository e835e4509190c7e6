"""The cipher of a volume against published vectors, and every stored sector against `cryptography`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ebscrypt.core import Device, SecretMemory

IEEE = Path(__file__).parent / "ieee1619.txt"
NIST = "ciphers/AES/XTS/tweak-dataunitseqno/XTSGenAES256.rsp"
UNIT = 512


def encrypt(key: bytes, unit: int, data: bytes) -> bytes:
    """The oracle: one sector, whose tweak is the number of its first 512-byte unit."""
    encryptor = Cipher(algorithms.AES(key), modes.XTS(unit.to_bytes(16, "little"))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


@contextmanager
def volume(key: bytes, size: int, sector_size: int) -> Iterator[tuple[Device, int]]:
    """A volume on a sparse memory file of any size, and the file's descriptor."""
    fd = os.memfd_create("backing", os.MFD_CLOEXEC)
    memory = SecretMemory()
    try:
        os.truncate(fd, size)
        memory.fill(key)
        device = Device(fd, size=size, sector_size=sector_size, key=memory)
        yield device, fd
        device.close()
    finally:
        memory.wipe()
        os.close(fd)


def ieee_vectors() -> list[dict[str, str]]:
    """The vectors of IEEE 1619, each as its fields."""
    blocks = [block for block in IEEE.read_text().split("\n\n") if not block.startswith("#")]
    return [dict(line.split(" = ") for line in block.splitlines()) for block in blocks if block.strip()]


def nist_vectors() -> list[tuple[str, dict[str, str]]]:
    """NIST's vectors whose data unit is whole AES blocks, each with its section and its fields.

    A sector has no ciphertext stealing, so units of 140 and 250 bits cannot occur. XTS turns block after block, each by
    its place alone: the vector is the beginning of a sector.
    """
    found: list[tuple[str, dict[str, str]]] = []
    section = ""
    with cryptography_vectors.open_vector_file(NIST, "r") as file:
        text = file.read()
    for block in text.split("\n\n"):
        if block.strip().startswith("["):
            section = block.strip().strip("[]")
        fields = dict(line.split(" = ") for line in block.splitlines() if " = " in line)
        if fields and int(fields["DataUnitLen"]) % 128 == 0:
            found.append((section, fields))
    return found


@pytest.mark.parametrize("vector", [v for v in ieee_vectors() if "unit" in v], ids=lambda vector: vector["vector"])
def test_ieee_vector(vector: dict[str, str]) -> None:
    """A sector of a volume is stored as the standard says, is read back, and the oracle of these tests agrees."""
    key, unit = bytes.fromhex(vector["key"]), int(vector["unit"], 16)
    plaintext, ciphertext = bytes.fromhex(vector["plaintext"]), bytes.fromhex(vector["ciphertext"])
    assert encrypt(key, unit, plaintext) == ciphertext
    with volume(key, (unit + 1) * UNIT, UNIT) as (device, fd):
        device.pwrite(plaintext, unit * UNIT)
        assert os.pread(fd, UNIT, unit * UNIT) == ciphertext
        assert device.pread(UNIT, unit * UNIT) == plaintext


def test_ieee_vector_with_equal_halves_is_refused() -> None:
    """A key whose halves are equal, as that of vector 1, opens no volume."""
    refused = [vector for vector in ieee_vectors() if "refused" in vector]
    assert [vector["vector"] for vector in refused] == ["1"]
    with pytest.raises(ValueError, match="halves differ"), volume(bytes.fromhex(refused[0]["key"]), UNIT, UNIT):
        pass


def test_nist_vectors() -> None:
    """Each of NIST's vectors is how a sector begins, stored and read."""
    sections = []
    for section, fields in nist_vectors():
        key, unit = bytes.fromhex(fields["Key"]), int(fields["DataUnitSeqNumber"])
        plaintext, ciphertext = bytes.fromhex(fields["PT"]), bytes.fromhex(fields["CT"])
        with volume(key, 256 * UNIT, UNIT) as (device, fd):
            if section == "ENCRYPT":
                device.pwrite(plaintext, unit * UNIT)
                assert os.pread(fd, len(ciphertext), unit * UNIT) == ciphertext
            else:
                os.pwrite(fd, ciphertext, unit * UNIT)
                assert device.pread(len(plaintext), unit * UNIT) == plaintext
        sections.append(section)
    assert sections.count("ENCRYPT") == sections.count("DECRYPT") == 300


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_every_stored_sector_is_what_cryptography_makes(tmp_path: Path, sector_size: int) -> None:
    """The whole backing, sector by sector, is the oracle's ciphertext; what was never written is zeros.

    The tweak counts 512-byte units from the data offset, whatever the sector size (dm-crypt's plain64).
    """
    size, data_offset = 1 << 20, 65536
    key = os.urandom(64)
    path = tmp_path / "backing"
    before = os.urandom(data_offset)
    path.write_bytes(before)
    os.truncate(path, data_offset + size)
    memory = SecretMemory()
    memory.fill(key)
    chance = random.Random(sector_size)  # noqa: S311 - places, not secrets
    model = bytearray(size)
    written: set[int] = set()
    with path.open("r+b") as file:
        device = Device(file.fileno(), size=size, data_offset=data_offset, sector_size=sector_size, key=memory)
        for _ in range(40):
            length = chance.choice((1, 511, 512, 4096, 10_000))
            offset = chance.randrange(size - length)
            data = chance.randbytes(length)
            device.pwrite(data, offset)
            model[offset : offset + length] = data
            written.update(range(offset // sector_size, (offset + length - 1) // sector_size + 1))
        device.close()
    stored = path.read_bytes()
    assert stored[:data_offset] == before
    assert 20 < len(written) < size // sector_size
    for sector in range(size // sector_size):
        start = sector * sector_size
        plain = bytes(model[start : start + sector_size])
        expected = encrypt(key, start // UNIT, plain) if sector in written else bytes(sector_size)
        assert stored[data_offset + start : data_offset + start + sector_size] == expected, f"sector {sector}"


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_volume_written_by_cryptography_is_read(sector_size: int) -> None:
    """Sectors that the oracle made are read as their plaintext, at any offset and length; stored zeros are zeros."""
    key, size = os.urandom(64), 32 * 4096
    plain = bytearray(os.urandom(size))
    plain[8192:12288] = bytes(4096)
    with volume(key, size, sector_size) as (device, fd):
        for start in range(0, size, sector_size):
            if not 8192 <= start < 12288:
                sector = bytes(plain[start : start + sector_size])
                os.pwrite(fd, encrypt(key, start // UNIT, sector), start)
        assert device.pread(size, 0) == plain
        assert device.pread(9000, 4001) == plain[4001:13001]
        assert device.pread(1, size - 1) == plain[-1:]

"""`Device` against the simplest model of a disk, a bytearray, under random requests (Hypothesis)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ebscrypt.core import Device, SecretMemory

SECTOR = 4096
DATA_OFFSET = 16 * SECTOR
SMALLEST, LARGEST = 16, 80
"""Sectors of the volume at first, and when grown as far as it goes."""
LONGEST = 5 * SECTOR

SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class DeviceMachine(RuleBasedStateMachine):
    """Requests to a device and to the model; the subclasses say what kind of device."""

    encrypted: ClassVar[bool]
    sector_size: ClassVar[int] = SECTOR
    flags: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="ebscrypt-model-")
        self.path = Path(self.folder.name) / "backing"
        self.path.touch()
        os.truncate(self.path, DATA_OFFSET + LARGEST * SECTOR)
        self.key = SecretMemory()
        self.key.fill(os.urandom(64))
        self.model = bytearray(SMALLEST * SECTOR)
        self.device = self._open()

    def _open(self) -> Device:
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | self.flags)
        try:
            return Device(
                fd,
                size=len(self.model),
                data_offset=DATA_OFFSET,
                sector_size=self.sector_size,
                key=self.key if self.encrypted else None,
            )
        finally:
            os.close(fd)

    def teardown(self) -> None:
        self.device.close()
        self.key.wipe()
        self.folder.cleanup()

    def _range(self, offset: int, length: int) -> tuple[int, int]:
        """Fold any two numbers into a range of the volume."""
        start = offset % len(self.model)
        return start, min(length, len(self.model) - start)

    @initialize(seed=st.binary(min_size=1, max_size=64))
    def some_content(self, seed: bytes) -> None:
        """Begin with data in the middle, between holes."""
        data = (seed * (4 * SECTOR))[: 4 * SECTOR + 100]
        self.device.pwrite(data, 2 * SECTOR + 50)
        self.model[2 * SECTOR + 50 : 2 * SECTOR + 50 + len(data)] = data

    @rule(offset=st.integers(0), data=st.binary(min_size=1, max_size=300), repeat=st.integers(1, 70), fua=st.booleans())
    def pwrite(self, offset: int, data: bytes, repeat: int, *, fua: bool) -> None:
        start, length = self._range(offset, len(data) * repeat)
        self.device.pwrite((data * repeat)[:length], start, fua=fua)
        self.model[start : start + length] = (data * repeat)[:length]

    @rule(sector=st.integers(0), count=st.integers(1, 4), byte=st.integers(0, 255))
    def pwrite_whole_sectors(self, sector: int, count: int, byte: int) -> None:
        start, length = self._range(sector * SECTOR, count * SECTOR)
        self.device.pwrite(bytes([byte]) * length, start)
        self.model[start : start + length] = bytes([byte]) * length

    @rule(offset=st.integers(0), length=st.integers(0, LONGEST))
    def pread(self, offset: int, length: int) -> None:
        start, length = self._range(offset, length)
        assert self.device.pread(length, start) == self.model[start : start + length]

    @rule(offset=st.integers(0), length=st.integers(0, LONGEST), no_hole=st.booleans(), fua=st.booleans())
    def write_zeroes(self, offset: int, length: int, *, no_hole: bool, fua: bool) -> None:
        start, length = self._range(offset, length)
        self.device.write_zeroes(start, length, no_hole=no_hole, fua=fua)
        self.model[start : start + length] = bytes(length)

    @rule(offset=st.integers(0), length=st.integers(0, LONGEST))
    def discard(self, offset: int, length: int) -> None:
        """Whole sectors read as zeros afterwards; of a sector's part each byte is as it was, or zero."""
        start, length = self._range(offset, length)
        end = start + length
        self.device.discard(start, length)
        whole = -(-start // SECTOR) * SECTOR, end // SECTOR * SECTOR
        if whole[0] < whole[1]:
            self.model[whole[0] : whole[1]] = bytes(whole[1] - whole[0])
        found = self.device.pread(length, start)
        assert all(new in {old, 0} for new, old in zip(found, self.model[start:end], strict=True))
        self.model[start:end] = found

    @rule(offset=st.integers(0), length=st.integers(1, LARGEST * SECTOR))
    def extents(self, offset: int, length: int) -> None:
        """Extents follow one another over the whole range in turns, and a hole has only zeros in it."""
        start, length = self._range(offset, length)
        position, before = start, None
        for extent in self.device.extents(start, length):
            assert extent.offset == position
            assert extent.length > 0
            assert extent.hole is not before
            position, before = position + extent.length, extent.hole
            if extent.hole:
                assert not any(self.model[extent.offset : position])
        assert position == start + length

    @precondition(lambda self: len(self.model) < LARGEST * SECTOR)
    @rule(sectors=st.integers(1, 20))
    def grow(self, sectors: int) -> None:
        size = min(len(self.model) + sectors * SECTOR, LARGEST * SECTOR)
        self.device.grow(size)
        self.model += bytes(size - len(self.model))

    @rule()
    def flush(self) -> None:
        self.device.flush()

    @rule()
    def reopen(self) -> None:
        """What was written is there for the next device on the same backing."""
        self.device.close()
        self.device = self._open()
        assert self.device.pread(len(self.model), 0) == self.model

    @invariant()
    def size_and_header_are_right(self) -> None:
        """The volume ends where it should, and nothing before its data offset was touched."""
        assert self.device.size == len(self.model)
        assert self.path.read_bytes()[:DATA_OFFSET] == bytes(DATA_OFFSET)


class EncryptedMachine(DeviceMachine):
    """The usual volume: sectors of 4096 bytes through the page cache."""

    encrypted = True


class EncryptedSmallSectorMachine(DeviceMachine):
    """Sectors of 512 bytes."""

    encrypted = True
    sector_size = 512


class PlainMachine(DeviceMachine):
    """Without a cipher."""

    encrypted = False


class PlainDirectMachine(DeviceMachine):
    """Without a cipher, past the page cache."""

    encrypted = False
    flags = os.O_DIRECT


class EncryptedDirectMachine(DeviceMachine):
    """Encrypted, past the page cache."""

    encrypted = True
    flags = os.O_DIRECT


@pytest.mark.parametrize(
    "machine",
    [EncryptedMachine, EncryptedSmallSectorMachine, PlainMachine, PlainDirectMachine, EncryptedDirectMachine],
)
def test_device_behaves_as_the_model(machine: type[DeviceMachine]) -> None:
    """Whatever is asked in whatever order, every kind of device answers as the model does."""
    run_state_machine_as_test(machine, settings=SETTINGS)

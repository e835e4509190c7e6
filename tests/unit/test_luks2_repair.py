import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.errors import HeaderDamaged, HeaderUnsupported
from ebscrypt.luks2 import COPY_SIZE, Header


@pytest.fixture
def fd(volume_backing: Path) -> Iterator[int]:
    """The backing of a new volume, open for reading and writing."""
    with volume_backing.open("r+b", buffering=0) as file:
        yield file.fileno()


def relabelled(header: Header, label: str) -> Header:
    return msgspec.structs.replace(header, label=label)


def overwrite(fd: int, offset: int, length: int = 512) -> None:
    """Noise in one copy, without its magic and without anything that looks like a file system."""
    os.pwrite(fd, b"\xa5" * length, offset)


def copies(fd: int) -> tuple[bytes, bytes]:
    return os.pread(fd, COPY_SIZE, 0), os.pread(fd, COPY_SIZE, COPY_SIZE)


@pytest.mark.parametrize("bad", [0, COPY_SIZE])
def test_repair_writes_the_bad_copy_and_only_that(fd: int, bad: int) -> None:
    """The other copy stays byte for byte; the reading that comes back says what was mended."""
    header = luks2.read_header(fd).header
    good = copies(fd)[0 if bad else 1]
    overwrite(fd, bad)

    mended = luks2.repair_header(fd)

    assert mended.header == header
    assert mended.repair_offset == bad
    assert luks2.read_header(fd) == luks2.Reading(header=header)
    assert copies(fd)[0 if bad else 1] == good


@pytest.mark.parametrize("stale", [0, COPY_SIZE])
def test_repair_finishes_an_interrupted_update(fd: int, stale: int) -> None:
    """The later state wins, whichever copy has it."""
    old = copies(fd)
    new = luks2.write_header(fd, relabelled(luks2.read_header(fd).header, "new"))
    os.pwrite(fd, old[1 if stale else 0], stale)
    assert "interrupted" in str(luks2.read_header(fd).repair)

    luks2.repair_header(fd)

    assert luks2.read_header(fd) == luks2.Reading(header=new)


def test_repair_of_a_sound_header_writes_nothing(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to mend, nothing written."""
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("wrote"))

    assert luks2.repair_header(fd).repair is None


def test_repair_of_another_volume_is_refused(fd: int) -> None:
    """A wrong path in a repair command changes nothing."""
    overwrite(fd, 0)
    before = copies(fd)

    with pytest.raises(HeaderUnsupported, match="not of vol-99999999999999999"):
        luks2.repair_header(fd, volume_id="vol-99999999999999999")
    assert copies(fd) == before


def test_two_bad_copies_cannot_be_repaired(fd: int) -> None:
    """Refused, and nothing changed, so that a backup can still be put back."""
    overwrite(fd, 0)
    overwrite(fd, COPY_SIZE)
    before = copies(fd)

    for refused in (luks2.read_header, luks2.repair_header):
        with pytest.raises(HeaderDamaged, match="corrupted or tampered with"):
            refused(fd)
    assert copies(fd) == before
    assert not luks2.is_luks(fd)


def test_what_a_writer_is_in_the_middle_of_is_not_taken_for_damage(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first copy that is bad at the first look and whole at the second was being written: read again, not judged."""
    real, looks = os.preadv, iter(range(100))

    def preadv(fd: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        count = real(fd, buffers, offset, *flags)
        if offset == 0 and next(looks) == 0:
            buffers[0][448:480] = bytes(32)
        return count

    monkeypatch.setattr(os, "preadv", preadv)

    assert luks2.read_header(fd).repair is None


def test_a_header_that_is_bad_differently_at_each_look_is_still_judged(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A medium that gives other bytes each time does not keep the reader for ever."""
    real, looks = os.preadv, iter(range(1000))

    def preadv(fd: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        count = real(fd, buffers, offset, *flags)
        buffers[0][8:16] = struct.pack(">Q", next(looks))
        return count

    monkeypatch.setattr(os, "preadv", preadv)

    with pytest.raises(HeaderDamaged, match="claims a size"):
        luks2.read_header(fd)

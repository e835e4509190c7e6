import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.errors import BackingError, HeaderDamaged, HeaderUnsupported, StateError
from ebscrypt.luks2 import COPY_SIZE, DATA_OFFSET, Header
from ebscrypt.model import MIB


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


def test_a_new_volume_reads_back(fd: int, volume_header: Header) -> None:
    """What format_header wrote is state 1 of the header it was given, in both copies."""
    assert luks2.read_header(fd) == luks2.Reading(header=msgspec.structs.replace(volume_header, seqid=1))
    assert luks2.is_luks(fd)


def test_formatting_clears_everything_before_the_data_and_nothing_else(tmp_path: Path, volume_header: Header) -> None:
    """Signatures of an earlier life are gone up to the data; the data area is left to its owner."""
    path = tmp_path / "used.img"
    path.write_bytes(b"\xee" * (DATA_OFFSET + 8 * MIB))

    with path.open("r+b", buffering=0) as file:
        luks2.format_header(file.fileno(), volume_header)

    raw = path.read_bytes()
    assert raw[2 * COPY_SIZE : DATA_OFFSET] == bytes(DATA_OFFSET - 2 * COPY_SIZE)
    assert raw[DATA_OFFSET:] == b"\xee" * (8 * MIB)


def test_a_sparse_file_stays_sparse(volume_backing: Path) -> None:
    """A new volume takes the space of its header's two copies, not of the 16 MiB before its data."""
    assert volume_backing.stat().st_blocks * 512 <= 2 * COPY_SIZE + 8192


def test_a_backing_that_is_too_short_is_not_formatted(tmp_path: Path, volume_header: Header) -> None:
    """One byte short of the volume's end: refused, and not a byte written."""
    path = tmp_path / "short.img"
    path.write_bytes(b"precious")
    os.truncate(path, DATA_OFFSET + 8 * MIB - 1)

    with path.open("r+b", buffering=0) as file, pytest.raises(BackingError, match=r"25165823 bytes.*25165824"):
        luks2.format_header(file.fileno(), volume_header)
    assert path.read_bytes().rstrip(b"\0") == b"precious"


def test_an_update_counts_and_keeps_the_keyslots_area(fd: int) -> None:
    """Each write is the next state in both copies; the bytes between header and data are not touched."""
    keyslots = os.urandom(1 << 16)
    os.pwrite(fd, keyslots, 2 * COPY_SIZE)
    header = luks2.read_header(fd).header

    written = luks2.write_header(fd, relabelled(header, "mine"))

    assert written == msgspec.structs.replace(header, label="mine", seqid=2)
    assert luks2.read_header(fd) == luks2.Reading(header=written)
    assert os.pread(fd, len(keyslots), 2 * COPY_SIZE) == keyslots


def test_the_copies_have_different_salts_each_time(fd: int) -> None:
    """No two copies ever written are the same bytes, so none can stand in for another."""
    first, second = copies(fd)
    luks2.write_header(fd, luks2.read_header(fd).header)
    salts = {copy[104:168] for copy in (first, second, *copies(fd))}

    assert len(salts) == 4


def test_an_update_from_an_old_reading_is_refused(fd: int) -> None:
    """Somebody else wrote in between: his change is not lost, and the message says what to do."""
    mine = luks2.read_header(fd).header
    theirs = luks2.write_header(fd, relabelled(mine, "theirs"))

    with pytest.raises(StateError, match=r"has state 2 of .*, not state 1") as caught:
        luks2.write_header(fd, relabelled(mine, "mine"))
    assert caught.value.hint == "run the command again"
    assert luks2.read_header(fd).header == theirs


def test_a_header_of_another_volume_is_not_written_over_this_one(fd: int, kms_token: luks2.KmsToken) -> None:
    """Same state, another UUID: refused."""
    other = msgspec.structs.replace(luks2.create_header(kms_token, size=8 * MIB), seqid=1)

    with pytest.raises(StateError, match="changed since it was read"):
        luks2.write_header(fd, other)


def test_a_header_that_could_not_be_served_is_not_written(fd: int) -> None:
    """A mistake of the program ends before the lock is taken."""
    header = luks2.read_header(fd).header
    before = copies(fd)

    with pytest.raises(HeaderUnsupported):
        luks2.write_header(fd, msgspec.structs.replace(header, metadata=header.metadata | {"tokens": {}}))
    assert copies(fd) == before


def test_a_backing_that_was_cut_off_is_refused(volume_backing: Path) -> None:
    """A header whose volume does not fit its backing any more is not read as if it did."""
    os.truncate(volume_backing, DATA_OFFSET + 4 * MIB)

    with volume_backing.open("rb", buffering=0) as file, pytest.raises(BackingError, match="it was cut off"):
        luks2.read_header(file.fileno())


def test_everything_works_past_the_page_cache(volume_backing: Path) -> None:
    """A descriptor opened with O_DIRECT reads, writes and repairs; a file end at an odd place is no hindrance."""
    os.truncate(volume_backing, DATA_OFFSET + 8 * MIB + 100)
    fd = os.open(volume_backing, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        header = luks2.write_header(fd, relabelled(luks2.read_header(fd).header, "direct"))
        buffered = os.open(volume_backing, os.O_RDWR | os.O_CLOEXEC)
        try:
            overwrite(buffered, 0)
        finally:
            os.close(buffered)
        assert luks2.repair_header(fd).repair is not None
        assert luks2.read_header(fd) == luks2.Reading(header=header)
    finally:
        os.close(fd)


@pytest.mark.parametrize("length", [0, 100, 4096, 4196, COPY_SIZE + 4000])
def test_a_short_file_read_past_the_page_cache_is_damage_not_an_error(tmp_path: Path, length: int) -> None:
    """O_DIRECT refuses unaligned reads: the end of a file must not lead to one."""
    path = tmp_path / "short.img"
    path.write_bytes(b"\1" * length)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with pytest.raises(HeaderDamaged):
            luks2.read_header(fd)
    finally:
        os.close(fd)


def test_a_reader_needs_no_right_to_write(volume_backing: Path) -> None:
    """Reading works on a read-only descriptor, and while another holds the file's lock."""
    with volume_backing.open("r+b", buffering=0) as owner, volume_backing.open("rb", buffering=0) as file:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert luks2.read_header(file.fileno()).repair is None


def test_an_update_lets_the_lock_go(volume_backing: Path) -> None:
    """A daemon that updates and repairs through a descriptor that it keeps does not lock cryptsetup out for life."""
    with volume_backing.open("r+b", buffering=0) as owner, volume_backing.open("rb") as other:
        luks2.write_header(owner.fileno(), luks2.read_header(owner.fileno()).header)
        luks2.repair_header(owner.fileno())

        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_writes_that_take_part_of_the_bytes_are_carried_on(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pwrite that writes less than it was given is not the end of the write."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:1000], offset))

    written = luks2.write_header(fd, relabelled(luks2.read_header(fd).header, "in pieces"))

    monkeypatch.undo()
    assert luks2.read_header(fd) == luks2.Reading(header=written)


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_failed_write_or_sync_is_told_and_leaves_a_whole_header(
    fd: int, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    """ENOSPC or EIO at any step: OSError, no further step, and the header is the old or the new one."""
    old = luks2.read_header(fd).header
    real: Callable[..., Any] = getattr(os, call)
    calls: list[str] = []

    def failing(*args: Any) -> Any:
        calls.append(call)
        if len(calls) == nth:
            raise OSError(errno.EIO, "Input/output error")
        return real(*args)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="Input/output error"):
        luks2.write_header(fd, relabelled(old, "new"))
    monkeypatch.undo()

    assert len(calls) == nth
    assert luks2.read_header(fd).header in (old, msgspec.structs.replace(old, label="new", seqid=2))


@pytest.mark.parametrize("bad", [None, 0, COPY_SIZE])
def test_the_copy_that_is_worth_less_is_written_first(
    fd: int, monkeypatch: pytest.MonkeyPatch, bad: int | None
) -> None:
    """While one copy is being written, the other one is whole: also when one was bad to begin with."""
    header = luks2.read_header(fd).header
    if bad is not None:
        overwrite(fd, bad)
    steps: list[int | str] = []
    real_write, real_sync = os.pwrite, os.fsync

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        steps.append(offset)
        return real_write(fd, data, offset)

    def fsync(fd: int) -> None:
        steps.append("fsync")
        real_sync(fd)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fsync", fsync)
    luks2.write_header(fd, header)

    first = 0 if bad == 0 else COPY_SIZE
    assert steps == [first, "fsync", COPY_SIZE - first, "fsync"]

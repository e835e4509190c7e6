"""The log of an upload: its form, and what crashes and damage do to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ebscrypt.control.upload_log import RECORD_SIZE, Record, UploadLog
from ebscrypt.errors import StateError

SNAPSHOT = "snap-0123456789abcdef0"
FIRST, SECOND = Record(7, b"n" * 32, b"d" * 32), Record(2, None, b"z" * 32)


@pytest.fixture
def log(tmp_path: Path) -> UploadLog:
    made = UploadLog(tmp_path / "log", SNAPSHOT)
    made.create()
    return made


def read(log: UploadLog) -> list[Record]:
    with log.read() as uploaded:
        return list(uploaded)


def test_the_form_is_the_documented_one(log: UploadLog, tmp_path: Path) -> None:
    """Version 1 to the byte, as docs/formats/upload-log.md draws it: what an older ebscrypt wrote is read for ever."""
    log.append([FIRST, SECOND])
    log.seal()
    records = (
        b"\1\0\0\0\7\0\0\0" + b"n" * 32 + b"d" * 32,
        b"\2\0\0\0\2\0\0\0" + bytes(32) + b"z" * 32,
        b"\3\0\0\0\0\0\0\0" + bytes(64),
    )
    checked = b"".join(packed + hashlib.sha256(SNAPSHOT.encode() + packed).digest()[:8] for packed in records)
    assert (tmp_path / "log").read_bytes() == b"EBSUPLD\n\1\0\0\0" + SNAPSHOT.encode() + bytes(46) + checked
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_the_last_record_of_a_block_counts_in_order_of_the_blocks(log: UploadLog) -> None:
    """However often and in whichever order they came."""
    log.append([FIRST])
    log.append([SECOND, FIRST._replace(name=b"m" * 32)])
    assert read(log) == [SECOND, FIRST._replace(name=b"m" * 32)]
    with log.read() as uploaded:
        assert uploaded.count == 2
        assert uploaded.linear_checksum() == hashlib.sha256(b"z" * 32 + b"d" * 32).digest()
    assert log.records() == 3


def test_creating_again_keeps_what_is_there(log: UploadLog) -> None:
    """A start that is repeated loses nothing."""
    log.append([FIRST])
    log.create()
    assert read(log) == [FIRST]


def test_nothing_comes_after_the_seal(log: UploadLog) -> None:
    """Neither a block nor another seal."""
    log.append([FIRST])
    assert not log.is_sealed()
    log.seal()
    assert log.is_sealed()
    with pytest.raises(StateError, match="complete"):
        log.append([SECOND])
    with pytest.raises(StateError, match="complete"):
        log.seal()
    assert read(log) == [FIRST]


@pytest.mark.parametrize("torn", [1, 40, RECORD_SIZE - 1, RECORD_SIZE, RECORD_SIZE + 1, 2 * RECORD_SIZE])
def test_what_a_power_cut_left_is_passed_over_and_written_over(log: UploadLog, tmp_path: Path, torn: int) -> None:
    """A part of a record, or zeros where records should be: they were never acknowledged."""
    log.append([FIRST])
    path = tmp_path / "log"
    path.write_bytes(path.read_bytes() + bytes(torn))
    assert not log.is_sealed()
    assert read(log) == [FIRST]
    log.append([SECOND])
    assert read(log) == [SECOND, FIRST]
    assert path.stat().st_size == 3 * RECORD_SIZE


@pytest.mark.parametrize("at", [0, 9, 15, RECORD_SIZE, RECORD_SIZE + 5, RECORD_SIZE + 20, 2 * RECORD_SIZE - 1])
def test_damage_before_sound_records_is_an_error(log: UploadLog, tmp_path: Path, at: int) -> None:
    """What was acknowledged is not passed over in silence."""
    log.append([FIRST, SECOND])
    path = tmp_path / "log"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateError, match="corrupted or tampered with"):
        log.read()


def test_a_record_of_another_upload_is_none(log: UploadLog, tmp_path: Path) -> None:
    """A record is bound to its snapshot."""
    other = UploadLog(tmp_path / "other", "snap-0123456789abcdef1")
    other.create()
    other.append([FIRST])
    log.append([SECOND])
    (tmp_path / "log").write_bytes((tmp_path / "log").read_bytes() + (tmp_path / "other").read_bytes()[RECORD_SIZE:])
    assert read(log) == [SECOND]

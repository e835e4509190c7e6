"""Header updates cut off at every step, and torn at every sector: the old state or the new one, never neither.

The calls that an update makes are recorded. A disk that loses power has everything that was synced, and of what was
written since then any subset of sectors; each such disk is made and read.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.errors import HeaderDamaged
from ebscrypt.luks2 import COPY_SIZE, DATA_OFFSET, Header
from ebscrypt.model import MIB

SECTOR = 512
AREA = 2 * COPY_SIZE
Sync = None
Call = tuple[int, bytes] | None
"""One recorded call: a write of bytes at an offset, or a sync."""


def recorded(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[Call]:
    """The writes and syncs that ``action`` makes, in order."""
    calls: list[Call] = []
    real_write, real_sync = os.pwrite, os.fsync

    def pwrite(fd: int, data: bytes | memoryview, offset: int) -> int:
        calls.append((offset, bytes(data)))
        return real_write(fd, data, offset)

    def fsync(fd: int) -> None:
        calls.append(Sync)
        real_sync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(os, "fsync", fsync)
        action()
    return calls


def applied(area: bytes, calls: list[Call]) -> bytes:
    """``area`` after all of ``calls``."""
    raw = bytearray(area)
    for call in calls:
        if call is not Sync:
            raw[call[0] : call[0] + len(call[1])] = call[1]
    return bytes(raw)


def torn_sets(sectors: int, seed: int) -> Iterator[set[int]]:
    """Which sectors of an unsynced write reached the disk: runs from either end, all but one, only one, at random."""
    everything, step = range(sectors), max(1, sectors // 64)
    for count in range(0, sectors + 1, step):
        yield set(everything[:count])
        yield set(everything[count:])
    for one in everything[::step]:
        yield {one}
        yield set(everything) - {one}
    source = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for _ in range(150):
        yield {sector for sector in everything if source.random() < 0.5}


def crashes(area: bytes, calls: list[Call]) -> Iterator[tuple[int, bytes]]:
    """Every disk that a power loss during ``calls`` can leave, with the number of syncs that had ended."""
    for end in range(len(calls) + 1):
        last_sync = max((at + 1 for at in range(end) if calls[at] is Sync), default=0)
        base, syncs = applied(area, calls[:last_sync]), calls[:end].count(Sync)
        pending = [
            (offset + at, data[at : at + SECTOR])
            for offset, data in filter(None, calls[last_sync:end])
            for at in range(0, len(data), SECTOR)
        ]
        for chosen in torn_sets(len(pending), seed=end):
            yield syncs, applied(base, [pending[index] for index in sorted(chosen)])


def parsed(area: bytes) -> luks2.Reading:
    return luks2.parse(lambda at, length: area[at : at + length])


def damaged(area: bytes, offset: int) -> bytes:
    return area[:offset] + b"\xa5" * SECTOR + area[offset + SECTOR :]


STARTS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "both sound": lambda _, now: now,
    "first copy bad": lambda _, now: damaged(now, 0),
    "second copy bad": lambda _, now: damaged(now, COPY_SIZE),
    "first copy older": lambda before, now: before[:COPY_SIZE] + now[COPY_SIZE:],
    "second copy older": lambda before, now: now[:COPY_SIZE] + before[COPY_SIZE:],
}
"""What an update may find, made of the area before the last update and after it."""


class Disk:
    """A backing whose header was updated once, to begin from any of `STARTS`."""

    def __init__(self, path: Path, start: str) -> None:
        self.path = path
        with self.opened() as fd:
            before = os.pread(fd, AREA, 0)
            header = luks2.read_header(fd).header
            luks2.write_header(fd, msgspec.structs.replace(header, label="before"))
            self.area = STARTS[start](before, os.pread(fd, AREA, 0))
        self.restore(self.area)
        self.header = parsed(self.area).header

    def opened(self) -> _Descriptor:
        return _Descriptor(self.path)

    def restore(self, area: bytes) -> None:
        with self.opened() as fd:
            os.pwrite(fd, area, 0)


class _Descriptor:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


@pytest.fixture(params=STARTS)
def disk(request: pytest.FixtureRequest, volume_backing: Path) -> Disk:
    return Disk(volume_backing, request.param)


def changed(header: Header) -> Header:
    return header.with_token(msgspec.structs.replace(header.token(), wrapped_key=b"wrapped anew", region="eu-west-1"))


def test_an_update_cut_off_anywhere_leaves_the_old_or_the_new_header(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step and tear, whatever state it began from; and from the first sync on it is the new one."""
    with disk.opened() as fd:
        calls = recorded(monkeypatch, lambda: luks2.write_header(fd, changed(disk.header)))
    new = msgspec.structs.replace(changed(disk.header), seqid=disk.header.seqid + 1)

    states = set()
    for syncs, area in crashes(disk.area, calls):
        found = parsed(area).header
        assert found == new or (syncs == 0 and found == disk.header)
        states.add(found.seqid)

    assert states == {disk.header.seqid, new.seqid}
    assert parsed(applied(disk.area, calls)) == luks2.Reading(header=new)
    assert [call is Sync for call in calls] == [False, True, False, True]


def test_a_repair_cut_off_anywhere_leaves_the_header(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mending never costs the state that there was, and a repair after a cut-off repair ends it."""
    with disk.opened() as fd:
        calls = recorded(monkeypatch, lambda: luks2.repair_header(fd))

    for number, (_, area) in enumerate(crashes(disk.area, calls)):
        assert parsed(area).header == disk.header
        if number % 50 == 0:
            disk.restore(area)
            with disk.opened() as fd:
                luks2.repair_header(fd)
                assert luks2.read_header(fd) == luks2.Reading(header=disk.header)


def test_a_new_volume_cut_off_anywhere_is_whole_or_none(
    volume_backing: Path, volume_header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formatting over an older volume leaves the new header or a backing without one: never the old one in part."""
    with _Descriptor(volume_backing) as fd:
        old = os.pread(fd, AREA, 0)
        other = luks2.create_header(volume_header.token(), size=8 * MIB)
        calls = recorded(monkeypatch, lambda: luks2.format_header(fd, other))
    new = msgspec.structs.replace(other, seqid=1)

    for _, area in crashes(old, calls):
        try:
            found = parsed(area).header
        except HeaderDamaged:
            continue
        assert found in (new, msgspec.structs.replace(volume_header, seqid=1))
    assert parsed(applied(old, calls)) == luks2.Reading(header=new)


def test_cryptsetup_sees_the_same_header_after_every_crash(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sample of the crashed disks: cryptsetup reads and mends each, and ends with the header that we read."""
    with disk.opened() as fd:
        calls = recorded(monkeypatch, lambda: luks2.write_header(fd, changed(disk.header)))

    sample = [area for _, area in crashes(disk.area, calls)][::37]
    for area in sample:
        expected = parsed(area).header
        disk.restore(area)
        dump = subprocess.run(
            ["cryptsetup", "luksDump", "--dump-json-metadata", disk.path], capture_output=True, check=True, timeout=60
        )
        assert json.loads(dump.stdout) == expected.metadata
        with disk.opened() as fd:
            assert luks2.read_header(fd) == luks2.Reading(header=expected)
    assert len(sample) > 20


@pytest.mark.parametrize("seed", range(4))
def test_no_chain_of_crashes_loses_what_was_acknowledged(
    volume_backing: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Updates, repairs and crashes in any order: the header is the last acknowledged one, or the one under way."""
    source = random.Random(seed)  # noqa: S311 - reproducible, not secret
    disk = Disk(volume_backing, "both sound")
    acknowledged = disk.header
    for step in range(60):
        with disk.opened() as fd:
            area, header = os.pread(fd, AREA, 0), luks2.read_header(fd).header
            assert header.seqid >= acknowledged.seqid
            label = f"step {step}"
            calls = recorded(
                monkeypatch,
                lambda: luks2.write_header(fd, msgspec.structs.replace(header, label=label)),  # noqa: B023
            )
            if source.random() < 0.3:
                acknowledged = luks2.read_header(fd).header
                continue
        disks = list(crashes(area, calls))
        disk.restore(source.choice(disks)[1])
        with disk.opened() as fd:
            found = luks2.read_header(fd).header
            assert found == header or (found.label, found.seqid) == (label, header.seqid + 1)
            if source.random() < 0.5:
                luks2.repair_header(fd)
                assert luks2.read_header(fd) == luks2.Reading(header=found)


UPDATER = """
import os, sys, msgspec
from ebscrypt import luks2

fd = os.open(sys.argv[1], os.O_RDWR)
header = luks2.read_header(fd).header
while True:
    header = luks2.write_header(fd, msgspec.structs.replace(header, label=f"state {header.seqid + 1}"))
    os.write(1, f"{header.seqid}\\n".encode())
"""


def test_a_killed_updater_loses_nothing_that_it_acknowledged(volume_backing: Path) -> None:
    """A process that updates in a loop, killed again and again: the last state it told is there, or the next one."""
    source = random.Random(0)  # noqa: S311 - reproducible, not secret
    told = [0]
    for _ in range(12):
        with subprocess.Popen([sys.executable, "-c", UPDATER, volume_backing], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                told = [int(process.stdout.readline()) for _ in range(source.randint(1, 30))]
            finally:
                process.send_signal(signal.SIGKILL)
            told += [int(line) for line in process.stdout]
        with _Descriptor(volume_backing) as fd:
            header = luks2.read_header(fd).header
            assert header.seqid - told[-1] in (0, 1)
            assert header.label == f"state {header.seqid}"
            assert os.lseek(fd, 0, os.SEEK_END) == DATA_OFFSET + 8 * MIB
    dump = subprocess.run(["cryptsetup", "luksDump", volume_backing], capture_output=True, check=True, timeout=60)
    assert re.search(rf"state ({told[-1]}|{told[-1] + 1})\b", dump.stdout.decode())

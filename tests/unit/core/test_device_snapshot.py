"""Snapshots of a `Device` and its change file, against models: what a view shows, and what counts as changed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ebscrypt.core import Device, SecretMemory, SnapshotView

BLOCK = 512 * 1024
SIZE = 5 * BLOCK + 8192
"""The last block is short."""
DATA_OFFSET = 1 << 20
VECTOR = Path(__file__).parents[2] / "vectors" / "changes" / "v1"


def error_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared by the caller
        call()
    return caught.value.errno


class Volume:
    """A backing, its change file, and devices over both, one after another."""

    def __init__(self, folder: Path, *, size: int = SIZE, encrypted: bool = True) -> None:
        self.backing, self.changes, self.size = folder / "backing", folder / "changes", size
        for path, length in ((self.backing, DATA_OFFSET + size), (self.changes, 0)):
            path.touch()
            os.truncate(path, length)
        self.key = SecretMemory()
        self.key.fill(os.urandom(64))
        self.encrypted = encrypted
        self.device = self.open()

    def open(self) -> Device:
        fds = [os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in (self.backing, self.changes)]
        try:
            self.device = Device(
                fds[0],
                size=self.size,
                data_offset=DATA_OFFSET,
                key=self.key if self.encrypted else None,
                change_file=fds[1],
            )
        finally:
            for fd in fds:
                os.close(fd)
        return self.device

    def stored(self) -> bytes:
        """What is stored now, without the header."""
        return self.backing.read_bytes()[DATA_OFFSET:]

    def snapshot(self, since: str = "", spool: Path | None = None) -> SnapshotView:
        fd = os.memfd_create("spool") if spool is None else os.open(spool, os.O_RDWR | os.O_CREAT)
        try:
            return self.device.begin_snapshot(fd, since=since)
        finally:
            os.close(fd)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """An encrypted volume of five blocks and a bit."""
    volume = Volume(tmp_path)
    yield volume
    volume.device.close()


def wanted(view: SnapshotView) -> list[int]:
    """The blocks that are still to be stored."""
    found: list[int] = []
    index = view.next_block()
    while index is not None:
        found.append(index)
        index = view.next_block(index + 1)
    return found


def finish(view: SnapshotView, name: str) -> None:
    for index in wanted(view):
        view.done(index)
    view.commit(name)


class SnapshotMachine(RuleBasedStateMachine):
    """Requests, snapshots and ends of a device; the model is a copy of what was stored when a snapshot began."""

    encrypted: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="ebscrypt-snapshot-")
        self.volume = Volume(Path(self.folder.name), encrypted=self.encrypted)
        self.names = 0
        self.base = ""
        self.at_base = b""
        self.touched: set[int] = set()
        self.view: SnapshotView | None = None
        self.instant = b""
        self.since: set[int] = set()

    def teardown(self) -> None:
        self.volume.device.close()
        self.folder.cleanup()

    def _touch(self, offset: int, length: int) -> None:
        blocks = set(range(offset // BLOCK, -(-(offset + length) // BLOCK)))
        self.touched |= blocks
        self.since |= blocks

    @rule(offset=st.integers(0, SIZE - 1), data=st.binary(min_size=1, max_size=200), repeat=st.integers(1, 6000))
    def pwrite(self, offset: int, data: bytes, repeat: int) -> None:
        data = (data * repeat)[: SIZE - offset]
        self.volume.device.pwrite(data, offset)
        self._touch(offset, len(data))

    @rule(offset=st.integers(0, SIZE - 1), length=st.integers(1, 2 * BLOCK), zero=st.booleans())
    def forget(self, offset: int, length: int, *, zero: bool) -> None:
        length = min(length, SIZE - offset)
        if zero:
            self.volume.device.write_zeroes(offset, length)
            self._touch(offset, length)
            return
        self.volume.device.discard(offset, length)
        # Of a sector that is discarded in part nothing is forgotten.
        unit = 4096 if self.encrypted else 1
        start, end = -(-offset // unit) * unit, (offset + length) // unit * unit
        if start < end:
            self._touch(start, end - start)

    @precondition(lambda self: self.view is None)
    @rule(incremental=st.booleans())
    def begin(self, *, incremental: bool) -> None:
        """The new view wants what may differ from its base, all of it that does, or everything."""
        self.instant = self.volume.stored()
        self.view = self.volume.snapshot(self.base if incremental else "")
        self.since = set()
        if incremental and self.base:
            assert self.view.base == self.base
            found = set(wanted(self.view))
            assert found <= self.touched
            for index in set(range(self.view.blocks)) - found:
                place = slice(index * BLOCK, (index + 1) * BLOCK)
                assert self.at_base[place] == self.instant[place]
        else:
            assert self.view.base == ""
            assert wanted(self.view) == list(range(6))

    @precondition(lambda self: self.view is not None)
    @rule(index=st.integers(0, 5))
    def read(self, index: int) -> None:
        """A block has the bytes of the instant, and their digest; what is skipped as a hole is zeros."""
        assert self.view is not None
        expected = self.instant[index * BLOCK : (index + 1) * BLOCK]
        if index not in wanted(self.view):
            assert error_of(lambda: self.view and self.view.read_block(index)) == errno.EINVAL
            return
        digest = hashlib.sha256(expected).digest() if any(expected) else None
        assert self.view.read_block(index) == expected
        assert self.view.hash_blocks([index]) == [digest]
        buffer = bytearray(b"x" * BLOCK)
        assert self.view.read_block_into(buffer, index) == digest
        assert buffer == expected + b"x" * (BLOCK - len(expected))
        following = self.view.next_data(index)
        for skipped in range(index, 6 if following is None else following):
            if skipped in wanted(self.view):
                assert not any(self.instant[skipped * BLOCK : (skipped + 1) * BLOCK])

    @precondition(lambda self: self.view is not None and self.view.remaining)
    @rule(index=st.integers(0, 5))
    def done(self, index: int) -> None:
        assert self.view is not None
        if index in wanted(self.view):
            self.view.done(index)
            assert index not in wanted(self.view)

    @precondition(lambda self: self.view is not None)
    @rule()
    def commit(self) -> None:
        """Afterwards exactly what was touched since the instant counts as changed."""
        assert self.view is not None
        self.names += 1
        self.base, self.at_base = f"snap-{self.names}", self.instant
        finish(self.view, self.base)
        self.view, self.touched = None, set(self.since)
        self._compare()

    @precondition(lambda self: self.view is not None)
    @rule()
    def abort(self) -> None:
        assert self.view is not None
        self.view.abort()
        assert error_of(lambda: self.view and self.view.next_data()) == errno.ESHUTDOWN
        self.view = None
        self._compare()

    @rule()
    def reopen(self) -> None:
        """Closing ends a view; what counts as changed is the same for the next device."""
        self.volume.device.close()
        self.volume.open()
        if self.view is not None:
            assert error_of(self.view.next_data) == errno.ESHUTDOWN
            assert error_of(lambda: self.view and self.view.read_block(0)) in {errno.ESHUTDOWN, errno.EINVAL}
        self.view = None
        self._compare()

    def _compare(self) -> None:
        tracking = self.volume.device.tracking
        assert tracking is not None
        assert (tracking.base, tracking.blocks) == (self.base, 6)
        assert tracking.changed == (len(self.touched) if self.base else 6)


class PlainSnapshotMachine(SnapshotMachine):
    """Without a cipher, where data may be all zeros and yet no hole."""

    encrypted = False


@pytest.mark.parametrize("machine", [SnapshotMachine, PlainSnapshotMachine], ids=["encrypted", "plain"])
def test_views_behave_as_the_model(machine: type[SnapshotMachine]) -> None:
    """Whatever is written, discarded, begun and ended in whatever order, a view is the volume at its instant."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_a_dead_process_loses_nothing(tmp_path: Path) -> None:
    """After SIGKILL in the middle of a snapshot what changed before and since counts as changed, and nothing else."""
    volume = Volume(tmp_path)
    finish(volume.snapshot(), "one")
    volume.device.pwrite(b"x", 0)
    volume.device.close()
    child = os.fork()
    if child == 0:
        os._exit(_die(tmp_path))
    os.waitpid(child, 0)
    tracking = volume.open().tracking
    assert tracking is not None
    assert (tracking.base, tracking.changed) == ("one", 3)
    assert wanted(volume.snapshot("one")) == [0, 2, 4]


def _die(folder: Path) -> int:
    fds = [os.open(folder / name, os.O_RDWR) for name in ("backing", "changes")]
    device = Device(fds[0], size=SIZE, data_offset=DATA_OFFSET, change_file=fds[1])
    device.pwrite(b"before", 2 * BLOCK)
    view = device.begin_snapshot(os.memfd_create("spool"), since="one")
    device.pwrite(b"since", 4 * BLOCK)
    os.kill(os.getpid(), 9)
    view.abort()
    return 0


def test_a_full_spool_ends_the_snapshot_and_no_write(volume: Volume, tmp_path: Path) -> None:
    """Where the old content finds no room the write succeeds, and every use of the view says ENOSPC from then on.

    The base is what it was, and the next snapshot can begin at once.
    """
    finish(volume.snapshot(), "one")
    volume.device.pwrite(os.urandom(SIZE), 0)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        view = volume.snapshot("one", small / "spool")
        for index in range(6):
            volume.device.pwrite(b"y" * 4096, index * BLOCK)
            assert volume.device.pread(4096, index * BLOCK) == b"y" * 4096
        assert error_of(view.next_data) == errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            view.read_block(0)
        with pytest.raises(OSError, match="No space left"):
            view.hash_blocks([5])
        view.abort()
        # It has the spool open.
        del view
    finally:
        subprocess.run(["umount", small], check=True)
    tracking = volume.device.tracking
    assert tracking is not None
    assert (tracking.base, tracking.changed) == ("one", 6)
    assert volume.snapshot("one").remaining == 6


def test_misuse_is_refused(volume: Volume) -> None:
    """A second snapshot, a commit too early or without a name, a block that is done or not there: each its errno."""
    view = volume.snapshot()
    assert error_of(volume.snapshot) == errno.EBUSY
    assert error_of(lambda: view.commit("early")) == errno.EINVAL
    for index in (6, 1 << 60):
        assert error_of(lambda index=index: view.read_block(index)) == errno.EINVAL  # type: ignore[misc]
        assert error_of(lambda index=index: view.done(index)) == errno.EINVAL  # type: ignore[misc]
    with pytest.raises(ValueError, match="block 0 has 524288 bytes, the buffer only 512"):
        view.read_block_into(bytearray(512), 0)
    assert len(view.read_block(5)) == SIZE - 5 * BLOCK
    for index in range(6):
        view.done(index)
    assert error_of(lambda: view.done(0)) == errno.EINVAL
    for name in ("", "x" * 129):
        assert error_of(lambda name=name: view.commit(name)) == errno.EINVAL  # type: ignore[misc]
    view.commit("x" * 128)
    assert error_of(lambda: view.commit("again")) == errno.ESHUTDOWN
    fd = os.open(volume.backing, os.O_RDWR)
    plain = Device(fd, size=SIZE)
    assert plain.tracking is None
    assert error_of(lambda: plain.begin_snapshot(fd)) == errno.EOPNOTSUPP
    plain.close()
    with pytest.raises(ValueError, match="read-only"):
        Device(fd, size=SIZE, read_only=True, change_file=fd)
    assert error_of(lambda: Device(fd, size=SIZE, change_file=-1)) == errno.EBADF
    os.close(fd)


def test_a_snapshot_of_a_suspended_volume(volume: Volume) -> None:
    """A volume whose key is wiped can be snapshotted, and goes on waiting; no key is needed to read the view."""
    volume.device.pwrite(b"data", 0)
    volume.device.suspend(wipe=True)
    stored = volume.stored()
    view = volume.snapshot()
    waiting = threading.Thread(target=volume.device.pwrite, args=(b"late", 0))
    waiting.start()
    assert view.read_block(0) == stored[:BLOCK]
    finish(view, "one")
    assert waiting.is_alive()
    volume.device.resume(volume.key)
    waiting.join()
    assert wanted(volume.snapshot("one")) == [0]


def test_eight_tebibytes_cost_what_is_in_them(tmp_path: Path) -> None:
    """Of an almost empty volume of 8 TiB only the blocks with data are met, and the files beside it stay small."""
    volume = Volume(tmp_path, size=8 << 40)
    places = [0, 1 << 40, (8 << 40) - BLOCK]
    for place in places:
        volume.device.pwrite(b"data", place)
    view = volume.snapshot(spool=tmp_path / "spool")
    found: list[int] = []
    index = view.next_data()
    while index is not None:
        found.append(index)
        index = view.next_data(index + 1)
    assert found == [place // BLOCK for place in places]
    volume.device.discard(0, 8 << 40)
    assert view.read_block(0)[:4096].strip(b"\0")
    assert view.copies == 3
    assert (tmp_path / "spool").stat().st_blocks * 512 <= 3 * BLOCK
    assert (tmp_path / "changes").stat().st_blocks * 512 < 8 << 20
    volume.device.close()


def test_the_golden_change_file(tmp_path: Path) -> None:
    """A change file of version 1 is understood for ever: its base, and the blocks that changed since."""
    volume = Volume(tmp_path)
    volume.device.close()
    shutil.copy(VECTOR, volume.changes)
    tracking = volume.open().tracking
    assert tracking is not None
    assert (tracking.base, tracking.changed) == ("snap-0123456789abcdef0", 2)
    assert wanted(volume.snapshot("snap-0123456789abcdef0")) == [1, 3]
    volume.device.close()


@pytest.mark.parametrize("at", [0, 16, 24, 70, 500], ids=["magic", "version", "area", "base", "digest"])
def test_a_damaged_change_file_is_not_believed(tmp_path: Path, at: int) -> None:
    """With any part of its header damaged everything counts as changed, and it is begun anew."""
    volume = Volume(tmp_path)
    volume.device.close()
    content = bytearray(VECTOR.read_bytes())
    content[at] ^= 1
    volume.changes.write_bytes(content)
    tracking = volume.open().tracking
    assert tracking is not None
    assert (tracking.base, tracking.changed) == ("", 6)
    finish(volume.snapshot(), "one")
    assert wanted(volume.snapshot("one")) == []
    volume.device.close()


def test_the_rest_at_once(volume: Volume) -> None:
    """What is left is done with one call: nothing of it is to be stored any more, and the snapshot can be committed."""
    volume.device.pwrite(b"x" * BLOCK, 0)
    view = volume.snapshot()
    view.done(0)
    view.done_rest()

    assert (view.remaining, view.next_block()) == (0, None)
    view.done_rest()
    view.commit("first")
    assert volume.device.tracking is not None
    assert volume.device.tracking.base == "first"

"""What an acknowledged flush and an acknowledged FUA write mean, on a backing that notes and delays its fsyncs."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.nbd_client import CMD_FLUSH, CMD_WRITE, FLAG_FUA, FLAG_PAYLOAD_LEN, RawClient
from tests.nbd_volume import DATA_OFFSET, MIB, SECTOR, ServedVolume, served

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 4 * MIB
ROOT = Path(__file__).parents[2]


class Recorder:
    """The process of the recording file system, and what it has told so far."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "backing"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.recording_backing", folder, str(DATA_OFFSET + SIZE)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def tell(self, command: str) -> list[str]:
        """Give a command, and wait until it has been obeyed; the events before that."""
        self.send(command)
        return self.wait_for("obeyed")

    def wait_for(self, event: str) -> list[str]:
        """Read events until this one comes; those before it."""
        assert self.process.stdout is not None
        before: list[str] = []
        for line in self.process.stdout:
            if line.strip() == event:
                return before
            before.append(line.strip())
        raise AssertionError(f"{event} did not come, only {before}")

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            subprocess.run(["umount", "--lazy", self.file.parent], check=True)
        assert self.process.returncode == 0


@contextmanager
def recorded(folder: Path) -> Iterator[tuple[Recorder, ServedVolume]]:
    """A plain volume on the recording file system, nothing of whose making is still to be told."""
    folder.mkdir()
    recorder = Recorder(folder)
    try:
        recorder.wait_for("ready")
        with served(SIZE, encrypted=False, backing=recorder.file) as volume:
            try:
                yield recorder, volume
            finally:
                # A test that failed while an fsync was held must not keep the device from closing.
                recorder.send("release")
    finally:
        recorder.end()


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[tuple[Recorder, ServedVolume]]:
    """A recorder and the volume over it."""
    with recorded(tmp_path / "mount") as pair:
        yield pair


def silent(client: RawClient) -> bool:
    """Whether nothing comes from the server for as long as a reply would take many times over."""
    return select.select([client.sock], [], [], 0.1) == ([], [], [])


def test_flush_covers_the_writes_of_other_connections(recording: tuple[Recorder, ServedVolume]) -> None:
    """Writes acknowledged on one connection are on the backing before the fsync that a flush on another waits for."""
    recorder, volume = recording
    with RawClient(volume.connect()).negotiate() as writer, RawClient(volume.connect()).negotiate() as flusher:
        for sector in range(3):
            assert writer.write(sector * SECTOR, b"x" * SECTOR) == 0
        before = recorder.tell("hold")
        cookie = flusher.send(CMD_FLUSH)
        before += recorder.wait_for("fsync begins")
        assert before == [f"write {DATA_OFFSET + sector * SECTOR} {SECTOR}" for sector in range(3)]
        assert silent(flusher), "the flush was acknowledged before its fsync had ended"
        recorder.tell("release")
        assert flusher.reply(cookie)[0].error == 0


def test_fua_write_is_durable_before_its_reply(recording: tuple[Recorder, ServedVolume]) -> None:
    """A write with FUA is acknowledged once the backing has it for good; the same without is not kept waiting."""
    recorder, volume = recording
    with RawClient(volume.connect()).negotiate() as client:
        recorder.tell("hold")
        assert client.write(0, b"a" * SECTOR) == 0
        cookie = client.send(CMD_WRITE, 0, SECTOR, flags=FLAG_FUA | FLAG_PAYLOAD_LEN, payload=b"b" * SECTOR)
        assert recorder.wait_for("fsync begins") == [f"write {DATA_OFFSET} {SECTOR}"] * 2
        assert silent(client), "the write was acknowledged before its fsync had ended"
        recorder.tell("release")
        assert client.reply(cookie)[0].error == 0


def test_replies_do_not_wait_for_a_flush_behind_them(recording: tuple[Recorder, ServedVolume]) -> None:
    """Of requests sent together, those before a flush are answered although the flush takes its time."""
    recorder, volume = recording
    with RawClient(volume.connect()).negotiate(None) as client:
        recorder.tell("hold")
        write = client.header(CMD_WRITE, 0, 512, cookie=1) + b"x" * 512
        client.sock.sendall(write + client.header(CMD_FLUSH, 0, 0, cookie=2))
        assert client.chunk(1, 0).error == 0
        recorder.wait_for("fsync begins")
        assert silent(client)
        recorder.tell("release")
        assert client.chunk(2, 0).error == 0


def test_a_failed_fsync_is_told(tmp_path: Path) -> None:
    """EIO of the backing's fsync is EIO of the flush that asked for it, and again when the volume closes."""

    def write_and_flush() -> None:
        with (
            recorded(tmp_path / "mount") as (recorder, volume),
            RawClient(volume.connect()).negotiate() as client,
        ):
            assert client.write(0, b"x") == 0
            recorder.tell("fail")
            assert client.error(CMD_FLUSH) == errno.EIO

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_and_flush()

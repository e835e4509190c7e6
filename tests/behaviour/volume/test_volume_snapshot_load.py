"""Twenty snapshots in a row of a volume that is written to all the while, each compared byte for byte with a model.

Two writers do one request after the other, and write down each before it is sent. So the state of a writer's part of
the volume at any instant is that after its first n requests, for one n: none is missing that was answered before the
snapshot was asked for, and none is in that was not yet sent when the call returned. Beside them fio writes as much as
it can. What a snapshot stored is turned to plaintext with the volume's key, outside of everything that is tested.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.control import headers, storing
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.core import Device, SecretMemory
from ebscrypt.model import Snapshot, SnapshotState, Volume
from tests.behaviour.volume.place import Place, wait_until
from tests.nbd_client import CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, RawClient
from tests.unit.control.storing_inline import manifest_of, snapshot_bytes

MIB = 1 << 20
SECTOR = 4096
PART = 4 * MIB
SNAPSHOTS = 20


class Writer(threading.Thread):
    """One request after the other to its own part of the volume, which begins at ``base``."""

    def __init__(self, path: Path, volume_id: str, base: int) -> None:
        super().__init__()
        self.base = base
        self.requests: list[tuple[int, int, bytes]] = []
        self.answered = 0
        self.stopping = False
        self.model = bytearray(PART)
        self._applied = 0
        self._chance = random.Random(base)  # noqa: S311 - the same in every run
        self._client = socket.socket(socket.AF_UNIX)
        self._client.settimeout(60)
        self._client.connect(str(path))
        self._name = volume_id

    def run(self) -> None:
        with RawClient(self._client).negotiate(None, name=self._name) as client:
            while not self.stopping:
                command, offset, content = request = self._next()
                self.requests.append(request)
                payload = content if command == CMD_WRITE else b""
                cookie = client.send(command, self.base + offset, len(content), payload=payload)
                assert client.reply(cookie)[-1].error == 0
                self.answered += 1

    def _next(self) -> tuple[int, int, bytes]:
        length = SECTOR * self._chance.choice((1, 1, 2, 16))
        offset = SECTOR * self._chance.randrange((PART - length) // SECTOR + 1)
        if self._chance.random() < 0.1:
            return self._chance.choice((CMD_TRIM, CMD_WRITE_ZEROES)), offset, bytes(length)
        return CMD_WRITE, offset, b"%16d" % len(self.requests) * (length // 16)

    def make_progress(self) -> None:
        """Return when another request has been answered."""
        before = self.answered
        wait_until(lambda: self.answered > before)

    def expect(self, content: bytes, first: int, last: int) -> int:
        """Check that ``content`` is the part after n requests, with first ≤ n ≤ last; n."""
        while self._applied < first:
            self._apply()
        while self.model != content:
            assert self._applied < last, f"no state between {first} and {last} requests is that of the snapshot"
            self._apply()
        return self._applied

    def _apply(self) -> None:
        _, offset, content = self.requests[self._applied]
        self.model[offset : offset + len(content)] = content
        self._applied += 1


@contextmanager
def fio(uri: str, folder: Path) -> Iterator[None]:
    """Random writes behind the writers' parts for the time of the block."""
    command = ["fio", "--ioengine=nbd", f"--uri={uri}", f"--aux-path={folder}", "--name=load", "--rw=randwrite"]
    options = ["--bsrange=4k-128k", "--iodepth=8", "--offset=8m", "--size=40m", "--time_based", "--runtime=300"]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        try:
            yield
            assert load.poll() is None, "fio ended before the snapshots did"
        finally:
            load.kill()


def plaintext(site: Site, snapshot: Snapshot, key: SecretMemory) -> bytes:
    """What a volume of this snapshot would show."""
    fd = os.memfd_create("restored")
    try:
        os.pwrite(fd, snapshot_bytes(site, snapshot), 0)
        device = Device(fd, size=snapshot.volume_size, sector_size=snapshot.sector_size, key=key)
    finally:
        os.close(fd)
    shown = device.pread(2 * PART, 0)
    device.close()
    return shown


def data_key(site: Site, volume: Volume) -> SecretMemory:
    token = headers.read(volume).header.token()
    key = SecretMemory()
    key.fill(site.kms.decrypt(token.wrapped_key, token.encryption_context).plaintext)
    return key


def test_twenty_snapshots_under_load(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each one both parts are as they were at an instant within its call, and each builds on the one before."""
    monkeypatch.setattr(storing, "start_storing", lambda *_: None)
    volume_id = place.do("create", "--size", "64M")
    uri = place.do("attach", volume_id, "--export", "socket")
    path = Path(uri.partition("socket=")[2])
    settings = config.load({name: value for name, value in place.environ.items() if name.startswith("EBSCRYPT_")})
    writers = [Writer(path, volume_id, base) for base in (0, PART)]
    asked: list[tuple[Snapshot, list[int], list[int]]] = []
    with Site(settings) as site, fio(uri, tmp_path):
        for writer in writers:
            writer.start()
        try:
            for _ in range(SNAPSHOTS):
                for writer in writers:
                    writer.make_progress()
                first = [writer.answered for writer in writers]
                snapshot = create_snapshot(site, volume_id)
                last = [len(writer.requests) for writer in writers]
                storing.settle_snapshot(site, snapshot.snapshot_id)
                asked.append((snapshot, first, last))
        finally:
            for writer in writers:
                writer.stopping = True
                writer.join(60)

        key = data_key(site, site.catalog.volume(volume_id))
        parents = []
        for snapshot, first, last in asked:
            done = site.catalog.snapshots.get(snapshot.snapshot_id)
            assert done.state is SnapshotState.COMPLETED, done.state_message
            shown = plaintext(site, done, key)
            for writer, low, high in zip(writers, first, last, strict=True):
                writer.expect(shown[writer.base : writer.base + PART], low, high)
            parents.append(manifest_of(site, done).header.parent)
        key.wipe()
    assert parents == [None, *(snapshot.snapshot_id for snapshot, _, _ in asked[:-1])]

"""Whether root can find the data key, or anything made from it, in the memory of a daemon that serves."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebscrypt.model import MIB, ExportKind
from tests import keyscan
from tests.behaviour.daemon.bench import Bench, Daemon, wait_until

EXPORTS = pytest.mark.parametrize("export", [ExportKind.SOCKET, ExportKind.FUSE])


@contextmanager
def load(daemon: Daemon) -> Iterator[None]:
    """Reads and writes at random, by fio, while the block runs."""
    if daemon.spec.export is ExportKind.FUSE:
        target = [f"--filename={daemon.device}", "--ioengine=libaio", "--direct=1"]
    else:
        target = ["--ioengine=nbd", f"--uri={daemon.device}"]
    fio = subprocess.Popen(
        ["fio", "--name=load", *target, "--rw=randrw", "--bsrange=4k-256k", "--size=32M", "--iodepth=8",
         "--time_based", "--runtime=120"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=daemon.runtime.path,  # fio leaves a file of its state
    )  # fmt: skip
    try:
        wait_until(lambda: operations(daemon) > 500)
        yield
        assert fio.poll() is None, "the load ended early"
    finally:
        fio.terminate()
        fio.communicate()


def operations(daemon: Daemon) -> int:
    counters = daemon.call("statistics")
    return int(counters["read"]["operations"] + counters["write"]["operations"])


@EXPORTS
def test_memory_under_load(bench: Bench, export: ExportKind) -> None:
    """However often one looks at the working daemon, no readable byte is the key, a half or a round key."""
    spec = bench.volume(32 * MIB, export=export)
    daemon = bench.start(spec)
    key = bench.data_key(spec)
    assert daemon.attachment.key_memory == "memfd_secret"
    with load(daemon):
        for _ in range(3):
            before = operations(daemon)
            scan = keyscan.scan_process(daemon.process.pid, key)
            assert scan.hits == []
            assert scan.scanned > 20 * MIB
            assert {where.split()[0] for where in scan.unreadable} == {"/secretmem"}
            assert operations(daemon) > before
    daemon.detach()


@EXPORTS
def test_core_file(bench: Bench, tmp_path: Path, export: ExportKind) -> None:
    """A core file that root forces from the idle daemon has the key neither in memory nor in any register."""
    spec = bench.volume(32 * MIB, export=export)
    daemon = bench.start(spec)
    key = bench.data_key(spec)
    with load(daemon):
        pass
    wait_until(lambda: operations(daemon) == operations(daemon))
    segments, notes = keyscan.scan_core(keyscan.write_core(daemon.process.pid, tmp_path), key)
    assert segments.hits == []
    assert notes.hits == []
    assert segments.scanned > 20 * MIB
    assert daemon.call("status")["state"] == "serving"
    daemon.detach()


def test_key_kept_for_systemd_is_out_of_reach_too(bench: Bench) -> None:
    """With the raw key kept for the descriptor store, it is still in memory that root cannot read."""
    spec = bench.volume(32 * MIB)
    with bench.systemd() as systemd:
        daemon = bench.start(spec, under=systemd)
        assert len(systemd.store) == 1
        scan = keyscan.scan_process(daemon.process.pid, bench.data_key(spec))
        assert scan.hits == []
        daemon.detach()


def test_unwrap_process_leaves_nothing(bench: Bench) -> None:
    """Once served, no process with a part of the key in its memory is left: not even a zombie of the unwrap process."""
    daemon = bench.start(bench.volume(8 * MIB))
    assert Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text() == ""
    daemon.detach()

"""A backing that hangs or dies: here the block device of another volume, whose daemon is stopped or killed."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from ebscrypt.daemon.exports import teardown
from ebscrypt.errors import DaemonError
from ebscrypt.model import MIB, CacheMode, ExportKind
from tests.behaviour.daemon.bench import Bench, Daemon, wait_until

EXPORTS = pytest.mark.parametrize("export", [ExportKind.SOCKET, ExportKind.FUSE])


def stacked(bench: Bench, export: ExportKind) -> tuple[Daemon, Daemon]:
    """A daemon, and under it the one that serves its backing."""
    lower = bench.start(bench.volume(96 * MIB, export=ExportKind.FUSE))
    upper = bench.start(bench.volume(32 * MIB, backing=lower.device, export=export, cache=CacheMode.NONE))
    return upper, lower


def client(daemon: Daemon, *, write: bool) -> subprocess.Popen[bytes]:
    """One request of 64 KiB, and where it writes a flush."""
    if daemon.spec.export is ExportKind.FUSE:
        how = ["if=/dev/zero", f"of={daemon.device}", "conv=fsync", "oflag=direct"]
        how = how if write else [f"if={daemon.device}", "of=/dev/null", "iflag=direct"]
        command = ["dd", "bs=64k", "count=1", *how]
    else:
        requests = ["write -P 9 1M 64k", "flush"] if write else ["read 1M 64k"]
        command = ["qemu-io", "-f", "raw", daemon.device, *(part for line in requests for part in ("-c", line))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@EXPORTS
def test_a_hanging_backing_does_not_silence_the_daemon(bench: Bench, export: ExportKind) -> None:
    """While requests wait for the backing the control socket answers at once; when it comes back, they succeed."""
    upper, lower = stacked(bench, export)
    lower.process.send_signal(signal.SIGSTOP)
    try:
        reader, writer = client(upper, write=False), client(upper, write=True)
        wait_until(lambda: is_waiting(reader) and is_waiting(writer))
        for _ in range(5):
            began = time.monotonic()
            assert upper.call("status", timeout=5)["state"] == "serving"
            assert upper.call("statistics", timeout=5)
            assert time.monotonic() - began < 3
        assert reader.poll() is None
        assert writer.poll() is None
    finally:
        lower.process.send_signal(signal.SIGCONT)
    assert reader.wait(30) == 0, reader.communicate()
    assert writer.wait(30) == 0, writer.communicate()
    reader.communicate()
    writer.communicate()
    upper.detach()
    lower.detach()


def is_waiting(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has slept for a while: its request is under way, and is not answered."""
    before = switches(process.pid)
    time.sleep(0.1)
    return switches(process.pid) == before


def switches(pid: int) -> str:
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123 - one line of /proc
        return next(line for line in status if line.startswith("voluntary_ctxt_switches"))


@EXPORTS
def test_a_dead_backing_is_told(bench: Bench, export: ExportKind) -> None:
    """Clients get I/O errors, `flush` and the end say that something may be lost, and the exit status is not 0."""
    upper, lower = stacked(bench, export)
    lower.kill()
    for write in (False, True):
        failed = client(upper, write=write)
        output, _ = failed.communicate(timeout=60)
        assert b"nput/output error" in output, output
    assert sum(counters["errors"] for counters in upper.call("statistics").values()) >= 2
    with pytest.raises(DaemonError, match="nput/output error"):
        upper.call("flush")
    teardown(upper.attachment)
    with pytest.raises(DaemonError, match="writes since the flush before it may be lost"):
        upper.call("shutdown")
    assert upper.process.wait(30) == 1
    teardown(lower.attachment)


def test_terminate_with_a_hanging_backing_needs_sigkill(bench: Bench) -> None:
    """SIGTERM is answered by waiting for what is under way; nothing acknowledged is given up for a faster end."""
    upper, lower = stacked(bench, ExportKind.SOCKET)
    lower.process.send_signal(signal.SIGSTOP)
    try:
        writer = client(upper, write=True)
        wait_until(lambda: is_waiting(writer))
        upper.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            upper.process.wait(1)
        assert upper.call("status")["state"] == "stopping"
    finally:
        lower.process.send_signal(signal.SIGCONT)
    assert upper.process.wait(60) == 0
    writer.communicate()
    lower.detach()

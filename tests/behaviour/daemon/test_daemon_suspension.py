"""A suspended daemon has no key anywhere, not even with systemd, and takes nothing but its own back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ebscrypt.core import SecretMemory
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.errors import DaemonError, InvalidParameter, KeyMismatch, StateError, VolumeInUse
from ebscrypt.model import MIB, Access
from tests import keyscan
from tests.behaviour.daemon.bench import Bench, Daemon, run, wait_until


def resume(daemon: Daemon, key: bytes) -> Access:
    """Hand the daemon a key as the watch does: by the descriptor of secret memory."""
    memory = SecretMemory()
    memory.fill(key)
    with DaemonClient(daemon.runtime.control_socket) as client:
        return Access(client.call("resume", timeout=60, descriptor=memory.fileno())["access"])


@contextmanager
def waiting(daemon: Daemon) -> Iterator[subprocess.Popen[str]]:
    """A client with a write that waits; it has arrived when the block begins."""
    client = subprocess.Popen(
        ["qemu-io", "-f", "raw", daemon.device, "-c", "write -P 0x55 0 64k", "-c", "read -P 0x55 0 64k"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: daemon.call("status")["connections"] == 1)
        yield client
    finally:
        if client.poll() is None:
            client.kill()
        client.communicate(timeout=30)


def test_a_suspended_daemon_has_no_key(bench: Bench) -> None:
    """Neither in its own memory nor with systemd, whose descriptor leads to zeros; with its key it goes on."""
    spec = bench.volume(8 * MIB)
    with bench.systemd() as systemd:
        daemon = bench.start(spec, under=systemd)
        key = bench.data_key(spec)
        (stored,) = systemd.store.values()
        held = os.dup(stored)
        assert systemd.content(held) == key
        run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 0x77 0 1M")

        assert daemon.call("suspend") == {"access": "suspended", "flushed": True}
        wait_until(lambda: systemd.store == {})
        assert systemd.content(held) == bytes(64)
        os.close(held)
        assert keyscan.scan_process(daemon.process.pid, key).hits == []
        assert daemon.call("status")["access"] == "suspended"
        assert daemon.call("flush") == {}
        assert daemon.call("suspend")["access"] == "suspended"
        with waiting(daemon) as client:
            assert resume(daemon, key) is Access.READ_WRITE
            assert "failed" not in client.communicate(timeout=60)[0]
            assert client.returncode == 0
        assert systemd.content(next(iter(systemd.store.values()))) == key
        daemon.kill()
        daemon = bench.start(spec, under=systemd, EBSCRYPT_KMS="http://127.0.0.1:9")
        run("qemu-io", "-f", "raw", daemon.device, "-c", "read -P 0x77 64k 64k")
        daemon.detach()


def test_another_volumes_key_is_refused(bench: Bench) -> None:
    """It stays suspended, and takes its own key afterwards; equal halves are no key."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    key = bench.data_key(spec)
    daemon.call("suspend")
    for wrong in (bytes([key[0] ^ 1]) + key[1:], key[:63] + bytes([key[63] ^ 1]), bytes(64)):
        with pytest.raises(KeyMismatch):
            resume(daemon, wrong)
        assert daemon.call("status")["access"] == "suspended"
    assert resume(daemon, key) is Access.READ_WRITE
    run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 0x77 0 64k", "-c", "read -P 0x77 0 64k")
    daemon.detach()


def test_senseless_requests_change_nothing(bench: Bench) -> None:
    """No descriptor, one of no secret memory, an access that there is not, a size while suspended: all refused."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    with pytest.raises(InvalidParameter, match="descriptor"):
        daemon.call("resume")
    # "Invalid argument", and not that a descriptor is closed which was closed before.
    with open(os.devnull, "rb") as null, pytest.raises(DaemonError, match="Invalid argument"):  # noqa: PTH123 - a descriptor
        daemon.call("resume", descriptor=null.fileno())
    for wrong in ("suspended", "write-only"):
        with pytest.raises(InvalidParameter, match="access"):
            daemon.call("set_access", access=wrong)
    daemon.call("suspend")
    with pytest.raises(StateError, match="is suspended"):
        daemon.call("grow", size=16 * MIB)
    with pytest.raises(DaemonError):
        daemon.call("set_access", access="read-write")
    assert daemon.call("status")["access"] == "suspended"
    daemon.detach()


def test_a_key_that_is_not_needed_is_wiped(bench: Bench) -> None:
    """To resume what is not suspended does nothing, and the memory that was handed over holds zeros."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    memory = SecretMemory()
    memory.fill(bench.data_key(spec))
    with DaemonClient(daemon.runtime.control_socket) as client:
        assert client.call("resume", descriptor=memory.fileno()) == {"access": "read-write"}
    zeros = SecretMemory()
    zeros.fill(bytes(64))
    assert memory.digest(bytes(32), 1000, "sha256", 32) == zeros.digest(bytes(32), 1000, "sha256", 32)
    daemon.detach()


def test_read_only_before_is_read_only_after(bench: Bench) -> None:
    """A suspension gives back the access that there was."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    assert daemon.call("set_access", access="read-only") == {"access": "read-only"}
    daemon.call("suspend")
    assert resume(daemon, bench.data_key(spec)) is Access.READ_ONLY
    assert daemon.call("set_access", access="read-write") == {"access": "read-write"}
    daemon.detach()


def test_who_waits_keeps_it_from_being_shut_down_without_force(bench: Bench) -> None:
    """A client that waits is a client; aborted it gets an error at once, and the daemon ends well."""
    daemon = bench.start(bench.volume(8 * MIB))
    daemon.call("suspend")
    with waiting(daemon) as client:
        with pytest.raises(VolumeInUse):
            daemon.call("shutdown")
        daemon.call("abort")
        assert client.wait(30) != 0
    daemon.call("shutdown", force=True)
    assert daemon.process.wait(30) == 0


def test_sigterm_ends_a_suspended_daemon(bench: Bench) -> None:
    """As at shutdown: requests that wait fail, so that what hangs on them can end, and the exit status is 0."""
    daemon = bench.start(bench.volume(8 * MIB))
    daemon.call("suspend")
    with waiting(daemon) as client:
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
        assert client.wait(30) != 0

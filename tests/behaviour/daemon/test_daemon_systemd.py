"""The daemon under something that speaks systemd's protocol: readiness, and the key kept over a crash."""

from __future__ import annotations

import os

import pytest

from ebscrypt.model import MIB
from tests.behaviour.daemon.bench import Bench, run, silent_kms, wait_until


def test_ready_is_said_when_it_is_true(bench: Bench) -> None:
    """READY comes once the device answers, with the main process and a status for people; STOPPING at the end."""
    with bench.systemd() as systemd:
        daemon = bench.start(bench.volume(8 * MIB), under=systemd)
        wait_until(lambda: "READY=1" in systemd.said)
        assert f"MAINPID={daemon.process.pid}" in systemd.said
        assert any(line.startswith("STATUS=serving vol-") for line in systemd.said)
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
        wait_until(lambda: "STOPPING=1" in systemd.said)


def test_killed_daemon_finds_its_key_again(bench: Bench) -> None:
    """After kill -9 the next daemon takes the key from the store: it serves the same data, and KMS is not asked."""
    spec = bench.volume(8 * MIB)
    with bench.systemd() as systemd:
        daemon = bench.start(spec, under=systemd)
        run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 0x77 0 1M", "-c", "flush")
        daemon.kill()
        assert len(systemd.store) == 1
        with silent_kms() as url:
            daemon = bench.start(spec, under=systemd, EBSCRYPT_KMS=url)
            run("qemu-io", "-f", "raw", daemon.device, "-c", "read -P 0x77 0 1M")
            assert daemon.attachment.key_memory == "memfd_secret"
            daemon.detach()


@pytest.mark.parametrize("how", ["shutdown", "SIGTERM"])
def test_orderly_end_destroys_the_stored_key(bench: Bench, how: str) -> None:
    """When the daemon ends as told, the store is told to forget the key, and what it may still hold is zeros."""
    spec = bench.volume(8 * MIB)
    with bench.systemd() as systemd:
        daemon = bench.start(spec, under=systemd)
        (held,) = systemd.store.values()
        held = os.dup(held)
        assert systemd.content(held) == bench.data_key(spec)
        if how == "shutdown":
            daemon.detach()
        else:
            daemon.process.terminate()
            assert daemon.process.wait(30) == 0
        wait_until(lambda: systemd.store == {})
        assert systemd.content(held) == bytes(64)
        os.close(held)


def test_key_of_another_volume_is_not_taken(bench: Bench) -> None:
    """A stored key is checked like any other: one that does not match is wiped, and KMS is asked."""
    one, other = bench.volume(8 * MIB), bench.volume(8 * MIB)
    bench.start(other).detach()
    with bench.systemd() as systemd:
        daemon = bench.start(one, under=systemd)
        daemon.kill()
        daemon = bench.start(other, under=systemd)
        assert any("not this volume's" in note for note in daemon.attachment.notes)
        assert systemd.content(next(iter(systemd.store.values()))) == bench.data_key(other)
        daemon.detach()


def test_a_stored_descriptor_that_is_no_key_is_not_taken(bench: Bench) -> None:
    """Whatever else lies in the store under the key's name: the volume is served with the key that KMS gives."""
    spec = bench.volume(8 * MIB)
    with bench.systemd() as systemd:
        bench.start(spec, under=systemd).kill()
        (name,) = systemd.store
        os.close(systemd.store[name])
        systemd.store[name] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        daemon = bench.start(spec, under=systemd)
        assert any("not a data key" in note for note in daemon.attachment.notes)
        assert systemd.content(systemd.store[name]) == bench.data_key(spec)
        daemon.detach()

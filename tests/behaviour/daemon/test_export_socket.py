"""The socket export: NBD on a Unix socket, used by clients that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from subprocess import PIPE

import pytest

from ebscrypt.daemon.exports import flush, grow, is_gone
from ebscrypt.errors import StateError, VolumeInUse
from ebscrypt.model import MIB
from tests.behaviour.daemon.bench import Bench, run

CLIENT = "import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); print('connected', flush=True); sys.stdin.read()"
"""A client that connects and stays, for Debian's own Python, which has libnbd."""


def test_nbdinfo_sees_the_volume(bench: Bench) -> None:
    """The URI that is printed is all a client needs; size, name and what the export can do are right."""
    spec = bench.volume(64 * MIB)
    daemon = bench.start(spec)
    assert daemon.device == f"nbd+unix:///{spec.volume_id}?socket={daemon.runtime.nbd_socket}"
    export = json.loads(run("nbdinfo", "--json", daemon.device))["exports"][0]
    assert export["export-name"] == spec.volume_id
    assert export["export-size"] == 64 * MIB
    assert export["is_read_only"] is False
    assert all(export[f"can_{what}"] for what in ("flush", "fua", "trim", "zero", "multi_conn"))


def test_what_is_written_is_there_after_the_next_start(bench: Bench, tmp_path: Path) -> None:
    """Bytes written by qemu-io are read back by nbdcopy from another daemon, and only ciphertext is on the backing."""
    spec = bench.volume(64 * MIB)
    daemon = bench.start(spec)
    run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 0xa5 1M 3M", "-c", "flush")
    daemon.detach()
    assert b"\xa5" * 64 not in Path(spec.backing).read_bytes()

    daemon = bench.start(spec)
    run("nbdcopy", daemon.device, tmp_path / "copy")
    copy = (tmp_path / "copy").read_bytes()
    assert copy == bytes(MIB) + b"\xa5" * 3 * MIB + bytes(60 * MIB)
    daemon.detach()


def test_plain_volume_is_its_backing(bench: Bench) -> None:
    """A volume that is not encrypted shows the backing's bytes as they are, and no key memory."""
    spec = bench.volume(8 * MIB, encrypted=False)
    daemon = bench.start(spec)
    assert daemon.attachment.key_memory is None
    run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 0x3c 4k 4k", "-c", "flush")
    daemon.detach()
    assert Path(spec.backing).read_bytes()[4096:8192] == b"\x3c" * 4096


def test_read_only_is_read_only(bench: Bench) -> None:
    """A read-only attachment says so to its clients, serves reads and refuses writes, growth and nothing else."""
    spec = bench.volume(8 * MIB, read_only=True)
    daemon = bench.start(spec)
    assert json.loads(run("nbdinfo", "--json", daemon.device))["exports"][0]["is_read_only"] is True
    run("qemu-io", "-r", "-f", "raw", daemon.device, "-c", "read -P 0 0 1M")
    with pytest.raises(StateError, match="read-only"):
        daemon.call("grow", size=16 * MIB)
    daemon.call("flush")
    before = Path(spec.backing).stat().st_mtime_ns
    daemon.detach()
    assert Path(spec.backing).stat().st_mtime_ns == before


def test_clients_are_counted_and_protected(bench: Bench) -> None:
    """While a client is connected the daemon refuses to end, and says so; forced, it ends and cuts the client off."""
    daemon = bench.start(bench.volume(8 * MIB))
    client = subprocess.Popen(["/usr/bin/python3", "-c", CLIENT, daemon.device], stdin=PIPE, stdout=PIPE, text=True)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        assert daemon.call("status")["connections"] == 1
        with pytest.raises(VolumeInUse, match="has 1 client"):
            daemon.call("shutdown")
        assert daemon.call("status")["state"] == "serving"
        daemon.call("shutdown", force=True)
        assert daemon.process.wait(30) == 0
    finally:
        client.kill()
        client.communicate()


def test_flush_and_statistics(bench: Bench) -> None:
    """Operations are counted with their bytes and latencies; `flush` from outside reaches the device."""
    daemon = bench.start(bench.volume(8 * MIB))
    run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 1 0 1M", "-c", "read -P 1 0 1M")
    before = daemon.call("statistics")
    assert before["write"]["bytes"] >= MIB
    assert before["read"]["bytes"] >= MIB
    assert sum(before["write"]["latency"]) == before["write"]["operations"] > 0
    flush(daemon.attachment)
    assert daemon.call("statistics")["flush"]["operations"] == before["flush"]["operations"] + 1


def test_growth_is_seen_by_the_next_client(bench: Bench) -> None:
    """A grown volume has its new size for whoever connects, and in its header for the next daemon."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    assert daemon.call("grow", size=32 * MIB) == {"size": 32 * MIB}
    grow(daemon.attachment, 32 * MIB)
    assert int(run("nbdinfo", "--size", daemon.device)) == 32 * MIB
    assert daemon.call("status")["attachment"]["size"] == 32 * MIB
    run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 7 31M 1M", "-c", "flush")
    daemon.detach()
    assert bench.read_header(spec).segment().size == 32 * MIB
    assert Path(spec.backing).stat().st_size == 48 * MIB


def test_socket_is_private_and_gone_after_detach(bench: Bench) -> None:
    """Only the owner may connect; nothing of the export is left after the end."""
    daemon = bench.start(bench.volume(8 * MIB))
    assert daemon.runtime.nbd_socket.stat().st_mode & 0o777 == 0o600
    assert daemon.runtime.control_socket.stat().st_mode & 0o777 == 0o600
    assert not is_gone(daemon.attachment)
    daemon.detach()
    assert not daemon.runtime.nbd_socket.exists()


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_fio_verifies_every_block(bench: Bench, sector_size: int) -> None:
    """Random writes of mixed and unaligned sizes read back with their checksums, for both sector sizes."""
    spec = bench.volume(32 * MIB, sector_size=sector_size)
    daemon = bench.start(spec)
    run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={daemon.device}", "--rw=randwrite", "--bsrange=512-256k",
        "--bs_unaligned=0", "--blockalign=512", "--size=32M", "--iodepth=8", "--verify=crc32c", "--do_verify=1",
        "--verify_fatal=1", "--verify_state_save=0",
    )  # fmt: skip
    daemon.detach()


def test_odd_runtime_directories_make_right_uris(bench: Bench) -> None:
    """A directory with blanks and percent signs in its name is percent-encoded, and clients find the socket."""
    spec = bench.volume(8 * MIB)
    odd = bench.directory / "r 50% ü"
    odd.mkdir(exist_ok=True)
    moved = bench.moved_to(odd)
    daemon = moved.start(spec)
    try:
        assert "r%2050%25%20%C3%BC" in daemon.device
        assert int(run("nbdinfo", "--size", daemon.device)) == 8 * MIB
        daemon.detach()
    finally:
        moved.clear()


def test_key_is_asked_for_by_name_only(bench: Bench) -> None:
    """A client that asks for another export name is refused: a volume's URI never reaches another volume."""
    daemon = bench.start(bench.volume(8 * MIB))
    wrong = daemon.device.replace(daemon.spec.volume_id, "vol-00000000000000000")
    refused = subprocess.run(["nbdinfo", wrong], capture_output=True, check=False, env=os.environ)
    assert refused.returncode != 0

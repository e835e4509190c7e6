"""What the daemon denies itself: read from the kernel while it serves, never from its own word."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ebscrypt.daemon import privileges
from ebscrypt.model import MIB, ExportKind
from tests.behaviour.daemon.bench import Bench, Daemon, run

EXPORTS = pytest.mark.parametrize("export", [ExportKind.SOCKET, ExportKind.FUSE])
MEMORY_CEILING = 40
"""MiB. Measured with Python 3.11 on x86-64: 30 for the socket export, 33 for FUSE; most of it is Python and trio."""


def status(daemon: Daemon, thread: str = "self") -> dict[str, str]:
    """/proc/PID/status of the process or one of its threads."""
    where = Path(f"/proc/{daemon.process.pid}")
    path = where / "status" if thread == "self" else where / "task" / thread / "status"
    return dict(line.split(":\t", 1) for line in path.read_text().splitlines())


def limits(daemon: Daemon, name: str) -> tuple[str, str]:
    """Soft and hard limit, as /proc/PID/limits has them."""
    (line,) = [line for line in Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines() if name in line]
    soft, hard = line.removeprefix(name).split()[:2]
    return soft, hard


def use(daemon: Daemon) -> None:
    """Some load, so that every thread that serves is there."""
    if daemon.spec.export is ExportKind.FUSE:
        run("dd", "if=/dev/urandom", f"of={daemon.device}", "bs=64k", "count=32", "oflag=direct")
    else:
        run("qemu-io", "-f", "raw", daemon.device, "-c", "write -P 3 0 2M", "-c", "flush")


@EXPORTS
def test_no_thread_has_privileges(bench: Bench, export: ExportKind) -> None:
    """No thread has a capability, a supplementary group, root's id or a way to any of them."""
    daemon = bench.start(bench.volume(16 * MIB, export=export))
    use(daemon)
    threads = os.listdir(f"/proc/{daemon.process.pid}/task")  # noqa: PTH208 - names of threads
    assert len(threads) > 1
    expected = privileges.target("ebscrypt").uid
    for thread in threads:
        told = status(daemon, thread)
        # The bounding set says what an execve could bring; with no_new_privs that is nothing.
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(told[name], 16) == 0, (thread, name)
        assert told["NoNewPrivs"] == "1"
        assert set(map(int, told["Uid"].split())) == {expected} != {0}
        assert told["Groups"].strip() == ""
    daemon.detach()


def test_no_thread_has_privileges_where_there_is_no_other_user(bench: Bench) -> None:
    """In a user namespace with no user but root, the capabilities go all the same, in every thread."""
    bench_command = bench.command
    bench.command = ["unshare", "--user", "--map-root-user", *bench.command]
    try:
        daemon = bench.start(bench.volume(16 * MIB))
    finally:
        bench.command = bench_command
    use(daemon)
    for thread in (path.name for path in Path(f"/proc/{daemon.process.pid}/task").iterdir()):
        told = status(daemon, thread)
        assert all(int(told[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
        assert told["NoNewPrivs"] == "1"
    daemon.detach()


@EXPORTS
def test_nobody_may_look_inside(bench: Bench, export: ExportKind) -> None:
    """Not dumpable: its /proc entries are root's, and a process of the same user can neither trace nor read it."""
    daemon = bench.start(bench.volume(16 * MIB, export=export))
    use(daemon)
    assert Path(f"/proc/{daemon.process.pid}/mem").stat().st_uid == 0
    same_user = subprocess.run(
        ["/usr/bin/head", "-c", "1", f"/proc/{daemon.process.pid}/maps"], user=65_534, group=65_534, extra_groups=[],
        capture_output=True, check=False,
    )  # fmt: skip
    assert same_user.returncode != 0
    assert b"Permission denied" in same_user.stderr
    daemon.detach()


def test_no_core_file(bench: Bench) -> None:
    """RLIMIT_CORE is zero, hard limit and all."""
    daemon = bench.start(bench.volume(8 * MIB))
    assert limits(daemon, "Max core file size") == ("0", "0")
    daemon.detach()


def test_memory_is_locked_where_it_may_be(bench: Bench) -> None:
    """Secret memory is locked always; all of it where RLIMIT_MEMLOCK allows, and a note says where it does not."""
    daemon = bench.start(bench.volume(8 * MIB))
    locked = int(status(daemon)["VmLck"].split()[0])
    assert locked > 0
    noted = any("memory is not locked" in note for note in daemon.attachment.notes)
    unlimited = limits(daemon, "Max locked memory")[0] == "unlimited"
    assert noted is not unlimited
    if unlimited:
        assert locked > 8 << 10, "Python alone has more than that"
    daemon.detach()


def test_io_flusher_where_it_may_be(bench: Bench) -> None:
    """Every thread has the kernel's mark of an I/O flusher (PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE), or a note says no."""
    daemon = bench.start(bench.volume(16 * MIB))
    use(daemon)
    noted = any("PR_SET_IO_FLUSHER" in note for note in daemon.attachment.notes)
    for path in Path(f"/proc/{daemon.process.pid}/task").glob("*/stat"):
        flags = int(path.read_text().rpartition(")")[2].split()[6])
        assert bool(flags & 0x0008_0000) is not noted
    daemon.detach()


@EXPORTS
def test_what_is_loaded(bench: Bench, export: ExportKind) -> None:
    """Neither boto3 nor SQLAlchemy nor `cryptography` is in the daemon, and pyfuse3 only where FUSE is exported."""
    bench_command = bench.command
    bench.command = [sys.executable, "-X", "importtime", "-m", "ebscrypt.daemon"]
    try:
        daemon = bench.start(bench.volume(16 * MIB, export=export))
    finally:
        bench.command = bench_command
    use(daemon)
    loaded = {name.split(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", daemon.log(), re.MULTILINE)}
    assert {"ebscrypt", "trio", "msgspec"} <= loaded
    assert not loaded & {"boto3", "botocore", "sqlalchemy", "cryptography", "starlette", "uvicorn", "urllib3"}
    assert ("pyfuse3" in loaded) is (export is ExportKind.FUSE)
    mapped = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert not re.search("boto|sqlalchemy|cryptography", mapped)
    daemon.detach()


@EXPORTS
def test_memory_in_use(bench: Bench, export: ExportKind) -> None:
    """A daemon that has served a little stays under its ceiling: a host may have hundreds of volumes."""
    daemon = bench.start(bench.volume(16 * MIB, export=export))
    use(daemon)
    assert int(status(daemon)["VmHWM"].split()[0]) < MEMORY_CEILING << 10
    daemon.detach()


def test_nothing_secret_on_the_outside(bench: Bench) -> None:
    """Arguments, environment and log have no part of the key, wrapped or not."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    key, wrapped = bench.data_key(spec), bench.read_header(spec).token().wrapped_key
    outside = [Path(f"/proc/{daemon.process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    outside.append(daemon.runtime.log.read_bytes())
    outside.extend(path.read_bytes() for path in daemon.runtime.path.glob("*.json"))
    for text in outside:
        for secret in (key, wrapped):
            assert not any(part in text for part in (secret[:16], secret[:16].hex().encode(), secret[32:48]))
    daemon.detach()


@EXPORTS
def test_nobody_else_can_connect(bench: Bench, export: ExportKind) -> None:
    """Another user reaches neither socket nor file: the directory keeps them out, and each socket's mode again."""
    daemon = bench.start(bench.volume(8 * MIB, export=export))
    runtime = daemon.runtime
    assert runtime.path.stat().st_mode & 0o777 == 0o700
    for path in (runtime.control_socket, runtime.nbd_socket):
        if path.exists():
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.stat().st_uid == 0
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    stranger = subprocess.run(
        ["/usr/bin/python3", "-c", program, runtime.control_socket], user=65_534, group=65_534, extra_groups=[],
        capture_output=True, check=False, cwd="/",
    )  # fmt: skip
    assert b"PermissionError" in stranger.stderr
    daemon.detach()


def test_the_daemon_cannot_change_its_records(bench: Bench) -> None:
    """As another user it could neither replace attachment.json nor the sockets: control may trust them."""
    daemon = bench.start(bench.volume(8 * MIB))
    uid = int(status(daemon)["Uid"].split()[0])
    for path in (daemon.runtime.path, *daemon.runtime.path.iterdir()):
        assert path.stat().st_uid == 0 != uid
        assert path.stat().st_mode & 0o022 == 0
    daemon.detach()


def test_descriptors(bench: Bench) -> None:
    """Beyond standard streams: lock, backing, change file, sockets, secret memory and event loop; all close-on-exec."""
    daemon = bench.start(bench.volume(8 * MIB))
    daemon.call("status")  # what only the start needs is closed by now
    for entry in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        target = str(entry.readlink())
        assert re.match(r"/dev/null|socket:|anon_inode:|/secretmem|pipe:", target) or target in {
            str(daemon.runtime.log),
            str(daemon.runtime.path / "lock"),
            daemon.spec.backing,
            *(str(bench.directory / "changes" / f"{daemon.spec.volume_id}{kind}") for kind in ("", ".seen")),
        }, target
        if int(entry.name) > 2:
            flags = re.search(r"flags:\s+0*([0-7]+)", (entry.parent.parent / "fdinfo" / entry.name).read_text())
            assert flags is not None
            assert int(flags[1], 8) & os.O_CLOEXEC, target
    daemon.detach()


def test_identity_is_not_taken_from_a_peer_that_only_connects(bench: Bench) -> None:
    """A peer that says nothing costs a place and no more; the daemon answers others meanwhile."""
    daemon = bench.start(bench.volume(8 * MIB))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(daemon.runtime.control_socket))
        assert daemon.call("status")["state"] == "serving"
    daemon.detach()

"""Whether the core keeps a data key and everything made from it out of memory that others can read."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt.core import SecretMemory
from tests import keyscan

SIZE = 16 << 20
THREADS = 3
"""Of the worker, each with one request under way."""
HERE = Path(__file__).parent


class Worker:
    """A process under load, and the key that it works with."""

    def __init__(self, memory_fd: int, key: bytes, backing: Path, sector_size: int, *options: str) -> None:
        self.key = key
        self.process = subprocess.Popen(
            [
                sys.executable,
                HERE / "core_under_load.py",
                str(memory_fd),
                backing,
                str(SIZE),
                str(sector_size),
                *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[memory_fd],
        )
        self.kind = self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker ended with {self.process.wait()}"
        return line.strip()

    def ask(self, command: str) -> int:
        """Give a command and return the number of requests done so far."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return int(self._answer())

    def scan(self) -> keyscan.Scan:
        return keyscan.scan_process(self.process.pid, self.key)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing"
    path.touch()
    os.truncate(path, SIZE)
    return path


@pytest.fixture(params=[512, 4096], ids=["sectors of 512", "sectors of 4096"])
def worker(request: pytest.FixtureRequest, backing: Path) -> Iterator[Worker]:
    """A worker whose key came as a daemon's does: through a descriptor, never through its own memory."""
    key = os.urandom(64)
    memory = SecretMemory()
    memory.fill(key)
    worker = Worker(memory.fileno(), key, backing, request.param)
    yield worker
    worker.end()
    memory.wipe()


def test_process_memory_holds_no_key_under_load(worker: Worker) -> None:
    """Whenever one looks at a working process, no readable byte of it is the key, a half or a round key.

    Not even the stacks of threads that are in the middle of a sector, or where a signal has just stored registers.
    """
    assert worker.kind == "memfd_secret"
    requests = worker.ask("requests")
    for _ in range(3):
        scan = worker.scan()
        assert scan.hits == []
        assert scan.scanned > 10 << 20
        assert scan.unreadable, "the secret memory was readable"
        assert {where.split()[0] for where in scan.unreadable} == {"/secretmem"}
        before, requests = requests, worker.ask("requests")
        assert requests > before, "the worker did not work meanwhile"


def test_core_file_under_load_holds_no_key_in_memory(worker: Worker, tmp_path: Path) -> None:
    """A core file taken in the middle of the work has no key in any memory segment.

    A thread that was stopped inside an AES instruction has round keys in its registers: no software can have them
    elsewhere at that instant. Such a hit must come from a thread whose instruction pointer is in the core's own code.
    """
    requests = worker.ask("requests")
    segments, notes = keyscan.scan_core(keyscan.write_core(worker.process.pid, tmp_path), worker.key)
    assert segments.hits == []
    assert segments.scanned > 10 << 20
    assert notes.scanned > 0
    assert worker.ask("requests") > requests
    code = _code_of_core(worker.process.pid)
    assert [hit for hit in notes.hits if hit.rip is None or not any(hit.rip in part for part in code)] == []


def test_core_file_between_requests_holds_no_key_at_all(worker: Worker, tmp_path: Path) -> None:
    """With every request finished, a core file has no key anywhere, the threads' registers included."""
    worker.ask("hold")
    segments, notes = keyscan.scan_core(keyscan.write_core(worker.process.pid, tmp_path), worker.key)
    assert segments.hits == []
    assert notes.hits == []
    assert notes.scanned > 4 * 512, "four threads have more registers than that"
    before = worker.ask("go on")
    assert worker.ask("requests") >= before


def test_nothing_is_left_after_close(worker: Worker, tmp_path: Path) -> None:
    """After close and wipe the process that did the work holds no key in memory or registers."""
    assert worker.ask("close") > 0
    assert worker.scan().hits == []
    segments, notes = keyscan.scan_core(keyscan.write_core(worker.process.pid, tmp_path), worker.key)
    assert segments.hits + notes.hits == []


def test_suspended_process_holds_no_key(backing: Path, tmp_path: Path) -> None:
    """While a device is suspended with its key wiped, the key is in no memory at all, the threads' registers included.

    Shown where all memory can be read: with a filter that forbids memfd_secret the scan finds round keys before, none
    while suspended, and them again once the device is resumed with the key given anew; then the same work goes on.
    """
    key = os.urandom(64)
    fd = os.memfd_create("ebscrypt-key", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, os.sysconf("SC_PAGESIZE"))
    os.pwrite(fd, key, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    worker = Worker(fd, key, backing, 4096, "without-memfd-secret")
    try:
        for _ in range(2):
            found = {hit.name for hit in worker.scan().hits}
            assert found >= {f"encryption round key {index} of half {half}" for index in range(15) for half in (1, 2)}
            requests = worker.ask("suspend")
            scan = worker.scan()
            assert scan.hits == []
            assert scan.unreadable == []
            segments, notes = keyscan.scan_core(keyscan.write_core(worker.process.pid, tmp_path, excluded=True), key)
            assert segments.hits + notes.hits == []
            assert worker.ask("requests") <= requests + THREADS, "requests went on while it was suspended"
            os.pwrite(fd, key, 0)
            worker.ask("resume")
            os.pwrite(fd, bytes(len(key)), 0)
            while worker.ask("requests") <= requests + THREADS:
                pass
    finally:
        worker.end()
        os.close(fd)


def test_without_memfd_secret(backing: Path, tmp_path: Path) -> None:
    """On a kernel without memfd_secret all secrets are in locked memory that is marked to be kept out of core files.

    Root can read that memory, which is what ``memfd`` as the kind of memory means; and nowhere else is there a trace.
    """
    key = os.urandom(64)
    fd = os.memfd_create("ebscrypt-key", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, os.sysconf("SC_PAGESIZE"))
    os.write(fd, key)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    worker = Worker(fd, key, backing, 4096, "without-memfd-secret")
    try:
        assert worker.kind == "memfd"
        scan = worker.scan()
        assert {hit.where.split()[0] for hit in scan.hits} == {"/memfd:ebscrypt-key"}
        names = {hit.name for hit in scan.hits}
        assert names >= {f"encryption round key {index} of half {half}" for index in range(15) for half in (1, 2)}
        assert names >= {f"decryption round key {index} of half 1" for index in range(13)}
        assert scan.unreadable == []
        segments, _ = keyscan.scan_core(keyscan.write_core(worker.process.pid, tmp_path, excluded=False), key)
        assert segments.scanned > 10 << 20
        assert segments.hits == []
        worker.ask("close")
        assert worker.scan().hits == []
    finally:
        worker.end()
        os.close(fd)


def test_scanner_finds_a_key_in_ordinary_memory(tmp_path: Path) -> None:
    """A program that keeps its key and its cipher in ordinary memory is found out, in memory and in its core file.

    OpenSSL's round keys are an oracle for ours: all 15 of both halves are found.
    """
    program = (
        "import sys\n"
        "from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes\n"
        "key = sys.stdin.buffer.read(64)\n"
        "text = key.hex()\n"
        "cipher = Cipher(algorithms.AES(key), modes.XTS(bytes(16))).encryptor()\n"
        "cipher.update(bytes(512))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    key = os.urandom(64)
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(key)
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        expected = {f"encryption round key {index} of half {half}" for index in range(15) for half in (1, 2)}
        expected |= {"half 1 in hex", "half 2 in hex"}
        assert {hit.name for hit in keyscan.scan_process(process.pid, key).hits} >= expected
        segments, _ = keyscan.scan_core(keyscan.write_core(process.pid, tmp_path), key)
        assert {hit.name for hit in segments.hits} >= expected
        assert keyscan.scan_process(process.pid, os.urandom(64)).hits == []
    finally:
        process.kill()
        process.communicate()


def test_scanner_finds_registers(tmp_path: Path) -> None:
    """A value in a vector register of a stopped thread is found in its core file's notes, with the thread's RIP."""
    key = os.urandom(64)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        low, high = (int.from_bytes(key[start : start + 8], "little", signed=True) for start in (0, 8))
        core = tmp_path / "core"
        commands = [f"set $xmm5.v2_int64[0] = {low}", f"set $xmm5.v2_int64[1] = {high}", f"gcore {core}", "detach"]
        arguments = [part for command in commands for part in ("-ex", command)]
        gdb = ["gdb", "-nx", "-batch", "-p", str(process.pid), *arguments]
        subprocess.run(gdb, check=True, capture_output=True, timeout=120)
        _, notes = keyscan.scan_core(core, key)
        assert "encryption round key 0 of half 1" in {hit.name for hit in notes.hits}
        assert all(hit.rip for hit in notes.hits)
    finally:
        process.kill()
        process.communicate()


def test_key_schedules_are_the_standards() -> None:
    """The schedules equal the examples of FIPS 197, appendix A.3, and of its inverse cipher's definition."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    schedule = keyscan.encryption_schedule(key)
    assert len(schedule) == 15
    assert b"".join(schedule[:2]) == key
    assert schedule[14].hex() == "fe4890d1e6188d0b046df344706c631e"
    assert len(keyscan.decryption_schedule(key)) == 13
    # InvMixColumns of FIPS 197's example column, the inverse of MixColumns (d4bf5d30 to 046681e5).
    assert keyscan._inverse_mix_columns(bytes.fromhex("046681e5") * 4) == bytes.fromhex("d4bf5d30") * 4


def _code_of_core(pid: int) -> list[range]:
    """Where the compiled core's code lies in a process."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    found = [line[0].split("-") for line in lines if "x" in line[1] and line[-1].endswith("_core.abi3.so")]
    assert found
    return [range(int(start, 16), int(end, 16)) for start, end in found]

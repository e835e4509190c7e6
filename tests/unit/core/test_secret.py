"""`SecretMemory`: what goes in, what comes out, who shares it, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading

import pytest

from ebscrypt.core import Device, SecretMemory

SALT = b"salt of a header"


def digest_of(key: bytes, name: str = "sha256") -> bytes:
    return hashlib.pbkdf2_hmac(name, key, SALT, 1000, 32)


@pytest.fixture
def key() -> bytes:
    return os.urandom(64)


@pytest.fixture
def memory(key: bytes) -> SecretMemory:
    memory = SecretMemory()
    memory.fill(key)
    return memory


def test_it_says_what_it_is() -> None:
    """A fresh memory holds 64 zero bytes of the best kind, locked."""
    memory = SecretMemory()
    assert memory.size == 64
    assert memory.kind == "memfd_secret"
    assert memory.locked
    assert memory.digest(SALT, 1000, "sha256", 32) == digest_of(bytes(64))


@pytest.mark.parametrize("name", ["sha256", "sha512"])
@pytest.mark.parametrize("length", [1, 32, 64, 200])
def test_digest_is_pbkdf2(memory: SecretMemory, key: bytes, name: str, length: int) -> None:
    """The digest equals hashlib's PBKDF2, for both hashes and any length, from any buffer as salt."""
    expected = hashlib.pbkdf2_hmac(name, key, SALT, 1234, length)
    assert memory.digest(SALT, 1234, name, length) == expected
    assert memory.digest(memoryview(bytearray(SALT)), 1234, name, length) == expected
    assert memory.matches(SALT, 1234, name, expected)
    assert not memory.matches(SALT, 1235, name, expected)
    assert not memory.matches(SALT, 1234, name, expected[:-1] + bytes([expected[-1] ^ 1]))


def test_nonsense_is_a_value_error(memory: SecretMemory) -> None:
    """Unknown hashes, no iterations, empty digests and wrong sizes are refused, and the content stays."""
    before = memory.digest(SALT, 1, "sha256", 32)
    for call in (
        lambda: memory.digest(SALT, 1, "md5", 32),
        lambda: memory.digest(SALT, 0, "sha256", 32),
        lambda: memory.digest(SALT, 1, "sha256", 0),
        lambda: memory.matches(SALT, 1, "SHA256", bytes(32)),
        lambda: memory.matches(SALT, 0, "sha256", bytes(32)),
        lambda: memory.matches(SALT, 1, "sha256", b""),
        lambda: memory.fill(bytes(63)),
        lambda: memory.fill(bytes(65)),
        lambda: memory.fill(memoryview(bytes(128))),
        lambda: SecretMemory(0),
    ):
        with pytest.raises(ValueError, match=r".{10}"):
            call()
    with pytest.raises(BufferError):
        memory.fill(memoryview(bytes(128))[::2])
    with pytest.raises(TypeError):
        memory.fill("x" * 64)  # type: ignore[arg-type]
    assert memory.digest(SALT, 1, "sha256", 32) == before


def test_wipe_ends_it(memory: SecretMemory) -> None:
    """After a wipe, which may be repeated, every use is a ValueError, and the descriptor is closed."""
    fd = memory.fileno()
    memory.wipe()
    memory.wipe()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    for call in (
        memory.fileno,
        lambda: memory.fill(bytes(64)),
        lambda: memory.digest(SALT, 1, "sha256", 32),
        lambda: memory.matches(SALT, 1, "sha256", bytes(32)),
        lambda: Device(0, size=4096, key=memory),
    ):
        with pytest.raises(ValueError, match="wiped"):
            call()
    assert (memory.size, memory.kind) == (64, "memfd_secret")


def test_two_memories_share_a_descriptor(memory: SecretMemory, key: bytes) -> None:
    """What one puts in the other has; it outlives the one and ends with a wipe of the other."""
    second = SecretMemory.adopt(os.dup(memory.fileno()))
    third = SecretMemory.adopt(os.dup(memory.fileno()))
    assert second.kind == "memfd_secret"
    assert second.digest(SALT, 1000, "sha256", 32) == digest_of(key)
    second.fill(bytes(range(64)))
    del second
    assert memory.digest(SALT, 1000, "sha256", 32) == digest_of(bytes(range(64)))
    memory.wipe()
    assert third.digest(SALT, 1000, "sha256", 32) == digest_of(bytes(64))


def test_a_child_fills_it_through_the_inherited_descriptor(key: bytes) -> None:
    """The way of the key: a child process gets the descriptor, puts the key in and ends; the parent has it then."""
    memory = SecretMemory()
    program = (
        "import sys\n"
        "from ebscrypt.core import SecretMemory\n"
        "memory = SecretMemory.adopt(int(sys.argv[1]))\n"
        "assert memory.kind == 'memfd_secret'\n"
        "memory.fill(sys.stdin.buffer.read())\n"
    )
    fd = memory.fileno()
    subprocess.run([sys.executable, "-c", program, str(fd)], input=key, pass_fds=[fd], check=True, timeout=60)
    assert memory.matches(SALT, 1000, "sha256", digest_of(key))


def test_content_cannot_be_read_through_the_descriptor(memory: SecretMemory) -> None:
    """Whoever gets hold of the descriptor cannot simply read, write or shrink it; and no exec inherits it."""
    fd = memory.fileno()
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    for call in (lambda: os.pread(fd, 64, 0), lambda: os.pwrite(fd, b"x", 0), lambda: os.truncate(fd, 0)):
        with pytest.raises(OSError, match=r"\[Errno (?:22|5|1|29)\]"):
            call()


def _memfd(size: int, seals: int) -> int:
    fd = os.memfd_create("candidate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_adopt_refuses_other_descriptors(memory: SecretMemory) -> None:
    """A pipe, a file, an unsealed memfd, a memory of another size or a number that is none are refused with EINVAL."""
    page = os.sysconf("SC_PAGESIZE")
    read_end, write_end = os.pipe()
    sealed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    candidates = [
        (read_end, 64),
        (write_end, 64),
        (os.open(sys.executable, os.O_RDONLY), 64),
        (_memfd(page, 0), 64),
        (_memfd(page, fcntl.F_SEAL_SHRINK), 64),
        (_memfd(2 * page, sealed), 64),
        (os.dup(memory.fileno()), page + 1),
    ]
    for fd, size in candidates:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            SecretMemory.adopt(fd, size)
        assert caught.value.errno == errno.EINVAL
    for fd in (-1, 10_000):
        with pytest.raises(OSError, match="Bad file descriptor"):
            SecretMemory.adopt(fd)
    assert SecretMemory.adopt(_memfd(page, sealed)).kind == "memfd"


def test_no_room_is_an_error() -> None:
    """Where RLIMIT_MEMLOCK leaves no room the allocation fails, and does not quietly take weaker memory."""
    program = (
        "import os, resource, errno\n"
        "from ebscrypt.core import SecretMemory\n"
        "os.setuid(65534)\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "try:\n"
        "    SecretMemory()\n"
        "except OSError as error:\n"
        "    assert error.errno == errno.EAGAIN, error\n"
        "else:\n"
        "    raise SystemExit('allocated')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_digest_lets_other_threads_work(memory: SecretMemory) -> None:
    """The interpreter lock is free while a digest is made, and a wipe waits for the digest to end."""
    started = threading.Event()
    results: list[bytes] = []

    def slow() -> None:
        started.set()
        results.append(memory.digest(SALT, 300_000, "sha512", 64))

    thread = threading.Thread(target=slow)
    thread.start()
    started.wait()
    turns = 0
    while thread.is_alive():
        turns += 1
    memory.wipe()
    thread.join()
    assert turns > 1000, "this thread had no turn while the other one made a digest"
    assert len(results[0]) == 64

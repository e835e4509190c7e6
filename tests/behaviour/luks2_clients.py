"""Stock cryptsetup and our own functions on one backing, for the tests that compare them."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ebscrypt import luks2
from ebscrypt.luks2 import COPY_SIZE, Header

FAST_KDF = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
RIGHT, WRONG = 0, 2


def run(*command: str | Path, status: int = 0, stdin: bytes = b"") -> str:
    """What a command prints; it must end with ``status``."""
    result = subprocess.run([*map(str, command)], input=stdin, capture_output=True, timeout=60, check=False)
    assert result.returncode == status, (command, result.returncode, result.stderr.decode())
    return result.stdout.decode()


def cryptsetup(*arguments: str | Path, status: int = 0, stdin: bytes = b"") -> str:
    return run("cryptsetup", "--batch-mode", *arguments, status=status, stdin=stdin)


@contextlib.contextmanager
def opened(path: Path, mode: str = "r+b") -> Iterator[int]:
    with path.open(mode, buffering=0) as file:
        yield file.fileno()


def area(path: Path) -> bytes:
    """Both copies, as they stand on the backing."""
    with path.open("rb") as file:
        return file.read(2 * COPY_SIZE)


def read(path: Path) -> luks2.Reading:
    with opened(path, "rb") as fd:
        return luks2.read_header(fd)


def write(path: Path, header: Header) -> Header:
    with opened(path) as fd:
        return luks2.write_header(fd, header)


def seal(path: Path, key: bytes) -> Header:
    """Put the digest of ``key`` in, as the first attachment does; PBKDF2 by the standard library."""
    salt = luks2.new_digest_salt()
    digest = hashlib.pbkdf2_hmac("sha256", key, salt, luks2.DIGEST_ITERATIONS, luks2.DIGEST_SIZE)
    return write(path, read(path).header.with_digest(luks2.Digest(salt=salt, digest=digest)))


def check_key(path: Path, key_file: Path, status: int) -> None:
    """Let cryptsetup say whether the key in ``key_file`` is the volume's."""
    cryptsetup("open", "--test-passphrase", "--volume-key-file", key_file, "--key-size", "512", path, status=status)


def luks_format(path: Path, passphrase: Path, *options: str | Path) -> None:
    cryptsetup("luksFormat", "--type", "luks2", *FAST_KDF, "--key-size", "512", *options, path, passphrase)


def blocked_on_flock(pid: int) -> bool:
    """Whether the kernel has ``pid`` waiting for a file lock."""
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s in vain"
        time.sleep(0.01)

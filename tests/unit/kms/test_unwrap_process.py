"""The unwrap process itself: what it may see, what it shows, and what becomes of it when it misbehaves."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ebscrypt import errors
from ebscrypt.core import SecretMemory
from ebscrypt.kms import unwrap
from tests.unit.kms.unwrapping import Wrapped, holds


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module to be written by the test, that runs in place of the unwrap process."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(unwrap, "MODULE", "misbehaving")
    return folder / "misbehaving.py"


def test_slow_process_is_killed_at_the_deadline(
    wrapped: Wrapped, memory: SecretMemory, child: Path, tmp_path: Path
) -> None:
    """A process that fills the memory but never answers is killed at the deadline, and the memory emptied."""
    child.write_text(
        textwrap.dedent("""
            import json, os, pathlib, signal, sys
            from ebscrypt.core import SecretMemory
            request = json.loads(sys.stdin.buffer.read())
            SecretMemory.adopt(request["fd"], request["size"]).fill(b"\\x01" * 64)
            pathlib.Path(os.environ["HOME"], "filled").touch()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pause()
        """)
    )
    started = time.monotonic()

    with pytest.raises(errors.KmsUnreachable, match=wrapped.key_arn):
        wrapped.into(memory, seconds=4)

    assert 4 <= time.monotonic() - started < 12
    assert (tmp_path / "filled").exists()
    assert holds(memory, bytes(64))
    assert wrapped.left_behind() == set()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("import os; os._exit(7)", "ended with status 7"),
        ("print('nonsense', flush=True)", "without an answer"),
        ("print('{\"notes\": 7}', flush=True)", "without an answer"),
        ("import os; os.write(1, b'{}'); os._exit(3)", "ended with status 3 after its answer"),
        ("import os; os.write(1, b'[' * 1000000)", "without an answer"),
    ],
)
def test_process_that_dies_or_babbles(
    code: str, text: str, wrapped: Wrapped, memory: SecretMemory, child: Path
) -> None:
    """However the process ends without a proper answer: `DaemonError` that says how, and empty memory."""
    child.write_text(code)

    with pytest.raises(errors.DaemonError, match=text):
        wrapped.into(memory)

    assert holds(memory, bytes(64))
    assert wrapped.left_behind() == set()


def test_unexpected_errors_show_no_values(
    wrapped: Wrapped, memory: SecretMemory, child: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error that nobody foresaw, right when the plaintext is there, is told by type and place, without its text."""
    child.write_text(
        textwrap.dedent("""
            from ebscrypt.kms import unwrap_process
            from ebscrypt.kms.client import KmsClient
            def broken(self, blob, *arguments, **named):
                raise ZeroDivisionError("the secret text")
            KmsClient.decrypt = broken
            unwrap_process.main()
        """)
    )

    with pytest.raises(errors.DaemonError, match=r"ZeroDivisionError at misbehaving\.py:5") as caught:
        wrapped.into(memory)

    assert "secret text" not in caught.value.message + "".join(capfd.readouterr())


def test_modules_in_the_working_directory_are_not_loaded(
    wrapped: Wrapped, memory: SecretMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A json.py or ebscrypt/ where the daemon happens to stand is not what runs."""
    trap = tmp_path / "trap"
    (trap / "ebscrypt" / "kms").mkdir(parents=True)
    for name in ("json.py", "boto3.py", "ebscrypt/__init__.py", "ebscrypt/kms/__init__.py"):
        (trap / name).write_text("raise SystemExit('trapped')")
    monkeypatch.chdir(trap)

    wrapped.into(memory)

    assert holds(memory, wrapped.plaintext)


def test_environment_is_reduced() -> None:
    """Only what settings, credentials, network and Python need is passed on."""
    passed = unwrap.environment(
        {
            "AWS_PROFILE": "p",
            "EBSCRYPT_KMS": "aws",
            "https_proxy": "http://proxy",
            "CREDENTIALS_DIRECTORY": "/run/credentials/x",
            "HOME": "/root",
            "LD_PRELOAD": "evil.so",
            "PYTHONSTARTUP": "evil.py",
            "NOTIFY_SOCKET": "/run/systemd/notify",
            "LISTEN_FDS": "1",
            "SECRET_OF_THE_SHELL": "x",
        }
    )

    assert set(passed) - {"PYTHONPATH"} == {
        "AWS_PROFILE",
        "EBSCRYPT_KMS",
        "https_proxy",
        "CREDENTIALS_DIRECTORY",
        "HOME",
    }


def test_no_other_descriptor_is_inherited(wrapped: Wrapped, memory: SecretMemory, child: Path) -> None:
    """The process gets stdin, stdout, stderr and the secret memory, whatever else the daemon has open."""
    child.write_text(
        textwrap.dedent("""
            import json, os, sys
            request = json.loads(sys.stdin.buffer.read())
            listing = os.open("/proc/self/fd", os.O_RDONLY)
            open_ones = {int(name) for name in os.listdir(listing)} - {listing, listing + 1}
            unexpected = sorted(open_ones - {0, 1, 2, request["fd"]})
            print(json.dumps({"notes": [str(unexpected)]}), flush=True)
        """)
    )
    with open(os.devnull) as null:  # noqa: PTH123 - a descriptor that must not be inherited
        os.set_inheritable(null.fileno(), True)

        assert wrapped.into(memory) == ["[]"]


def test_the_process_is_hardened(wrapped: Wrapped, memory: SecretMemory, child: Path) -> None:
    """While it talks to KMS, the process is not dumpable, may write no core file and has its memory locked."""
    child.write_text(
        textwrap.dedent("""
            import json, os, resource
            from ebscrypt.kms import unwrap_process
            from ebscrypt.kms.client import KmsClient
            real = KmsClient.decrypt
            def watched(self, *arguments, **named):
                import ctypes
                assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0
                assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
                locked = next(line for line in open("/proc/self/status") if line.startswith("VmLck"))
                assert int(locked.split()[1]) > 10000
                return real(self, *arguments, **named)
            KmsClient.decrypt = watched
            unwrap_process.main()
        """)
    )

    wrapped.into(memory)

    assert holds(memory, wrapped.plaintext)


def test_neither_boto3_nor_cryptography_comes_into_the_parent() -> None:
    """Importing the parent's side loads no boto3, no botocore, no cryptography, no sqlite."""
    code = "import sys, ebscrypt.kms.unwrap; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert "ebscrypt.kms.unwrap" in loaded
    assert {"boto3", "botocore", "cryptography", "sqlite3", "sqlalchemy"}.isdisjoint(loaded)

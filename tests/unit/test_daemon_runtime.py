"""The runtime directory from the daemon's side: the lock, the records, and the limit on socket paths."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from ebscrypt.daemon.runtime import RuntimeDirectory
from ebscrypt.errors import ConfigError, DaemonError, KmsKeyDisabled, NotFound, VolumeInUse, from_record
from ebscrypt.model import AttachmentSpec, BackingKind

VOLUME_ID = "vol-0123456789abcdef0"


@pytest.fixture
def runtime(tmp_path: Path) -> RuntimeDirectory:
    """A volume's runtime directory, as control makes it."""
    path = tmp_path / VOLUME_ID
    path.mkdir(mode=0o700)
    return RuntimeDirectory(path)


def spec(volume_id: str = VOLUME_ID) -> AttachmentSpec:
    return AttachmentSpec(
        volume_id=volume_id, backing="/x", backing_kind=BackingKind.FILE, encrypted=True, size=1 << 20
    )


def test_lock_is_held_by_one(runtime: RuntimeDirectory) -> None:
    """A second daemon is told that the volume is served, until the first lets go."""
    lock = runtime.acquire()
    with pytest.raises(VolumeInUse, match="already served"):
        runtime.acquire()
    os.close(lock)
    os.close(runtime.acquire())


def test_lock_is_no_symbolic_link(runtime: RuntimeDirectory, tmp_path: Path) -> None:
    """The lock file is never one that somebody planted to have another file locked or made."""
    (runtime.path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        runtime.acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_spec_comes_back(runtime: RuntimeDirectory) -> None:
    """What control wrote is read as it was."""
    (runtime.path / "spec.json").write_bytes(msgspec.json.encode(spec()))
    assert runtime.read_spec() == spec()


def test_missing_spec_names_the_command(runtime: RuntimeDirectory) -> None:
    """A daemon started by hand says what to run instead."""
    with pytest.raises(NotFound, match=r"nobody asked to attach") as raised:
        runtime.read_spec()
    assert raised.value.hint == f"run `ebscrypt attach {VOLUME_ID}`"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"volume_id": 1}', b'{"unknown": true}'])
def test_broken_spec_is_refused(runtime: RuntimeDirectory, content: bytes) -> None:
    """Nothing is guessed from a spec that cannot be understood."""
    (runtime.path / "spec.json").write_bytes(content)
    with pytest.raises(DaemonError, match="cannot be understood"):
        runtime.read_spec()


def test_spec_of_another_volume_is_refused(runtime: RuntimeDirectory) -> None:
    """A spec that lies in the wrong directory is not served under the wrong name."""
    (runtime.path / "spec.json").write_bytes(msgspec.json.encode(spec("vol-00000000000000000")))
    with pytest.raises(DaemonError, match="is about volume vol-00000000000000000"):
        runtime.read_spec()


def test_failure_comes_back_as_it_was(runtime: RuntimeDirectory) -> None:
    """Who waited for the daemon raises the same error, of mode 0600 and with nothing else left behind."""
    error = KmsKeyDisabled("the KMS key is disabled", hint="enable it", kms_code="DisabledException")
    runtime.write_failure(error)
    path = runtime.path / "failure.json"
    found = from_record(msgspec.json.decode(path.read_bytes()))
    assert type(found) is KmsKeyDisabled
    assert (found.message, found.hint) == (error.message, error.hint)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in runtime.path.iterdir()] == ["failure.json"]
    runtime.forget_failure()
    assert not path.exists()


def test_long_socket_path_is_refused(tmp_path: Path) -> None:
    """A path that the kernel could not bind is refused before anything else, with the setting to change."""
    runtime = RuntimeDirectory(tmp_path / ("x" * 80) / VOLUME_ID)
    with pytest.raises(ConfigError, match=r"over the limit of 107") as raised:
        runtime.check_socket_paths()
    assert "EBSCRYPT_RUNTIME_DIR" in str(raised.value.hint)


def test_longest_socket_path_is_fine() -> None:
    """A path of exactly 107 bytes is one that the kernel takes."""
    fixed = len(f"/{VOLUME_ID}/control.sock")
    RuntimeDirectory(Path("/" + "x" * (107 - fixed - 1)) / VOLUME_ID).check_socket_paths()
    with pytest.raises(ConfigError):
        RuntimeDirectory(Path("/" + "x" * (107 - fixed)) / VOLUME_ID).check_socket_paths()

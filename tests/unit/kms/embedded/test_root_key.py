"""The root key: made once, whole, for nobody else's eyes; never replaced, never accepted from a lax place."""

from __future__ import annotations

import multiprocessing
import os
import re
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, NotPermitted
from ebscrypt.kms.embedded import root_key
from tests.unit.kms.embedded.speaking import Speaker

LINE = re.compile(rb"ebscrypt-kms-root-1 [0-9a-f]{64}\n")


@pytest.fixture
def directory(settings: Settings) -> Path:
    """The KMS's directory, empty."""
    settings.kms_dir.mkdir(mode=0o700, parents=True)
    return settings.kms_dir


def test_it_is_made_on_first_use(settings: Settings, directory: Path) -> None:
    """The first use makes a root key of the documented form, 0600, and nothing else."""
    root_key.load(settings, create=True)

    assert [path.name for path in directory.iterdir()] == ["root.key"]
    assert LINE.fullmatch((directory / "root.key").read_bytes())
    assert (directory / "root.key").stat().st_mode & 0o7777 == 0o600


def test_umask_does_not_matter(settings: Settings, directory: Path) -> None:
    """The mode is 0600 under any umask."""
    old = os.umask(0o277)
    try:
        root_key.load(settings, create=True)
    finally:
        os.umask(old)

    assert (directory / "root.key").stat().st_mode & 0o7777 == 0o600


def test_it_is_never_replaced(settings: Settings, directory: Path) -> None:
    """A root key that is there, even a malformed one, is never overwritten."""
    (directory / "root.key").touch(mode=0o600)

    with pytest.raises(ConfigError, match="malformed"):
        root_key.load(settings, create=True)

    assert (directory / "root.key").read_bytes() == b""


def test_without_leave_it_is_not_made(settings: Settings, directory: Path) -> None:
    """Where a store exists, a missing root key is an error that says what is lost."""
    with pytest.raises(ConfigError, match="missing") as caught:
        root_key.load(settings, create=False)

    assert "backup" in str(caught.value.hint)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700 | 0o001, 0o620])
def test_lax_modes_are_refused(mode: int, settings: Settings, directory: Path) -> None:
    """A root key that others could read or write is refused, with its mode and the cure."""
    root_key.load(settings, create=True)
    (directory / "root.key").chmod(mode)

    with pytest.raises(NotPermitted, match=f"{mode:04o}") as caught:
        root_key.load(settings, create=False)

    assert "chmod 600" in str(caught.value.hint)


def test_another_owner_is_refused(settings: Settings, directory: Path) -> None:
    """A root key that belongs to somebody else is refused."""
    root_key.load(settings, create=True)
    os.chown(directory / "root.key", 12345, 12345)

    with pytest.raises(NotPermitted, match="12345"):
        root_key.load(settings, create=False)


@pytest.mark.parametrize(
    "content",
    [
        b"ebscrypt-kms-root-1 " + b"0" * 63 + b"\n",
        b"ebscrypt-kms-root-1 " + b"0" * 65 + b"\n",
        b"ebscrypt-kms-root-2 " + b"0" * 64 + b"\n",
        b"ebscrypt-kms-root-1 " + b"G" * 64 + b"\n",
        b"0" * 64,
        b"ebscrypt-kms-root-1 " + b"0" * 64 + b"\n\n",
        b"x" * 100_000,
    ],
)
def test_malformed_content_is_refused_and_not_quoted(content: bytes, settings: Settings, directory: Path) -> None:
    """Anything but the one line is refused, and its content does not show in the message."""
    path = directory / "root.key"
    path.touch(mode=0o600)
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="malformed") as caught:
        root_key.load(settings, create=False)

    assert "0000" not in caught.value.message + str(caught.value.hint)


def test_special_files_are_refused(settings: Settings, directory: Path) -> None:
    """What is no regular file is no root key."""
    (directory / "root.key").mkdir()

    with pytest.raises(NotPermitted, match="regular file"):
        root_key.load(settings, create=False)


def test_a_place_of_ones_own(settings: Settings, tmp_path: Path) -> None:
    """`kms.root_key` names another place, where it is made too, and nothing appears in the KMS's directory."""
    path = tmp_path / "elsewhere.key"
    moved = msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, root_key=str(path)))

    Speaker(moved).key()

    assert LINE.fullmatch(path.read_bytes())
    assert not (settings.kms_dir / "root.key").exists()


def test_credential(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A systemd credential is used in place of the file, with the mode that systemd gives it."""
    credential = tmp_path / "credentials" / "ebscrypt-kms-root"
    credential.parent.mkdir()
    credential.write_text("ebscrypt-kms-root-1 " + "ab" * 32)
    credential.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credential.parent))

    Speaker(settings).key()

    assert not (settings.kms_dir / "root.key").exists()
    assert root_key.load(settings, create=False).origin == credential
    credential.chmod(0o444)
    with pytest.raises(NotPermitted, match="everyone"):
        root_key.load(settings, create=False)


def test_credentials_without_ours(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service with other credentials only uses the file."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    Speaker(settings).key()

    assert (settings.kms_dir / "root.key").exists()


def test_the_key_is_not_in_its_repr(settings: Settings, directory: Path) -> None:
    """Neither repr nor fingerprint shows the key."""
    root = root_key.load(settings, create=True)
    secret = (directory / "root.key").read_text().split()[1]

    assert secret not in repr(root) + root.fingerprint
    assert root.derive("a") != root.derive("b") != bytes.fromhex(secret)


def _open_store(settings: Settings, start: multiprocessing.synchronize.Barrier) -> None:
    start.wait(60)
    Speaker(settings).key()


def test_eight_processes_race_for_the_first_use(settings: Settings) -> None:
    """Eight processes that make the store at once end up with one root key, one README and eight usable keys."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(8)
    racers = [context.Process(target=_open_store, args=(settings, start)) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)

    assert [racer.exitcode for racer in racers] == [0] * 8
    speaker = Speaker(settings)
    keys = [entry["KeyArn"] for entry in speaker.say("ListKeys")["Keys"]]
    assert len(keys) == 8
    assert all(len(speaker.opened(speaker.wrapped(key))) == 64 for key in keys)
    speaker.close()
    assert sorted(path.name for path in settings.kms_dir.iterdir()) == ["README", "keys.db", "root.key"]

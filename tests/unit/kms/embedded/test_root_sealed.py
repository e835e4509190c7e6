"""The root key as an encrypted credential of systemd, by the real `systemd-creds` with a host key of the test's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, NotPermitted, StateError
from ebscrypt.kms.embedded import credential, root_change, root_files, root_key
from ebscrypt.kms.embedded.root_change import Sealing
from tests.unit.kms.embedded.changing import HOST, names, opens
from tests.unit.kms.embedded.speaking import Speaker

STAND_IN = """#!/bin/sh
# A systemd-creds that seals by reversing, and writes down how it was called.
printf '%s\\n' "$*" >>"$RECORD.arguments"
env >>"$RECORD.environment"
rev
"""


def test_sealed_with_the_host_key(used: tuple[Settings, bytes]) -> None:
    """The file in clear is gone, the credential opens, and neither form of the line is in it."""
    settings, blob = used
    line = (settings.kms_dir / "root.key").read_bytes()

    changed = root_change.seal(settings, HOST)

    assert changed.erased == [settings.kms_dir / "root.key"]
    assert names(settings) == {"README", "root.cred", "keys.db"}
    content = (settings.kms_dir / "root.cred").read_bytes()
    assert line.split()[1] not in content
    assert bytes.fromhex(line.split()[1].decode()) not in content
    assert (settings.kms_dir / "root.cred").stat().st_mode & 0o7777 == 0o600
    status = root_change.status(settings)
    assert (status.sealed_with, status.copies, status.fingerprint) == ("host", [], changed.fingerprint)
    assert opens(settings, blob)


def test_rotation_of_a_sealed_root_key(used: tuple[Settings, bytes]) -> None:
    """The new root key is sealed as well, never in clear, and the one before opens nothing."""
    settings, blob = used
    root_change.seal(settings, HOST)
    old = (settings.kms_dir / "root.cred").read_bytes()

    changed = root_change.rotate(settings)

    assert names(settings) == {"README", "root.cred", "keys.db"}
    assert root_change.status(settings).sealed_with == "host"
    assert changed.resealed == 1
    assert opens(settings, blob)
    (settings.kms_dir / "root.cred").write_bytes(old)
    with pytest.raises(ConfigError, match="not the root key"):
        opens(settings, blob)


def test_whoever_has_the_store_open_goes_on(used: tuple[Settings, bytes]) -> None:
    """Sealing, rotating and unsealing go on under a KMS that is in use."""
    settings, blob = used
    user = Speaker(settings)
    assert len(user.opened(blob)) == 64

    root_change.seal(settings, HOST)
    assert len(user.opened(blob)) == 64
    root_change.rotate(settings)
    assert len(user.opened(blob)) == 64
    root_change.unseal(settings)
    root_change.rotate(settings)
    assert len(user.opened(blob)) == 64

    user.close()


def test_a_place_of_ones_own(used: tuple[Settings, bytes], tmp_path: Path) -> None:
    """kms.root_key may name where the sealed one shall be: the file in clear serves until it is there."""
    settings, blob = used
    path = tmp_path / "credstore.encrypted" / "ebscrypt-kms-root"
    kms = msgspec.structs.replace(settings.kms, root_key=str(path))
    moved = msgspec.structs.replace(settings, kms=kms)
    assert opens(moved, blob)

    root_change.seal(moved, HOST)

    assert path.exists()
    assert names(settings) == {"README", "keys.db"}
    assert opens(moved, blob)
    root_change.rotate(moved)
    assert opens(moved, blob)


def test_a_file_in_clear_that_is_named_is_not_sealed(used: tuple[Settings, bytes], tmp_path: Path) -> None:
    """Settings that would then name a file that is gone are refused first, with what to do."""
    settings, _ = used
    path = tmp_path / "elsewhere.key"
    (settings.kms_dir / "root.key").rename(path)
    moved = msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, root_key=str(path)))

    with pytest.raises(ConfigError, match="in clear") as caught:
        root_change.seal(moved, HOST)

    assert "kms.root_key" in str(caught.value.hint)
    assert path.exists()


def test_sealed_already(used: tuple[Settings, bytes]) -> None:
    """Sealing and unsealing twice is told, and changes nothing."""
    settings, blob = used
    with pytest.raises(StateError, match="a file in clear already"):
        root_change.unseal(settings)
    root_change.seal(settings, HOST)

    with pytest.raises(StateError, match="sealed already"):
        root_change.seal(settings, HOST)

    assert opens(settings, blob)


def test_a_crash_between_is_finished_by_the_same_command(used: tuple[Settings, bytes]) -> None:
    """With the root key in both places the store opens, the status names both, and sealing again removes the one."""
    settings, blob = used
    saved = (settings.kms_dir / "root.key").read_bytes()
    root_change.seal(settings, HOST)
    root_key.write(root_key.plain_place(settings), saved)
    assert opens(settings, blob)
    assert root_change.status(settings).copies == [settings.kms_dir / "root.key"]

    root_change.seal(settings, HOST)

    assert names(settings) == {"README", "root.cred", "keys.db"}
    assert opens(settings, blob)


def test_what_does_not_open_again_is_not_relied_on(
    used: tuple[Settings, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the sealed root key cannot be read back, the file in clear stays and no credential is left."""
    settings, blob = used
    program = tmp_path / "bin" / "systemd-creds"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = encrypt ] && exec cat\necho "TPM is on fire" >&2; exit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    with pytest.raises(ConfigError, match="TPM is on fire"):
        root_change.seal(settings, HOST)

    assert names(settings) == {"README", "root.key", "keys.db"}
    assert opens(settings, blob)


def test_nothing_secret_is_an_argument_or_in_the_environment(
    used: tuple[Settings, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What systemd-creds is told in public: names and kinds of keys; the root key goes through pipes."""
    settings, blob = used
    line = (settings.kms_dir / "root.key").read_text()
    program = tmp_path / "bin" / "systemd-creds"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))

    root_change.seal(settings, Sealing(with_key="host+tpm2", pcrs="0+7"))

    assert opens(settings, blob)
    told = (tmp_path / "record.arguments").read_text()
    assert told.splitlines()[0] == "encrypt --with-key=host+tpm2 --name=ebscrypt-kms-root --tpm2-pcrs=0+7 - -"
    assert set(told.splitlines()[1:]) == {"decrypt --name=ebscrypt-kms-root - -"}
    assert line.split()[1] not in told + (tmp_path / "record.environment").read_text()


def test_the_line_in_clear_touches_no_disk(used: tuple[Settings, bytes], tmp_path: Path) -> None:
    """Whatever is done with a sealed root key: no file below the test's directory holds the line at any moment seen."""
    settings, blob = used
    root_change.seal(settings, HOST)
    lines: set[bytes] = set()

    for _ in range(2):
        lines.add(root_key.read(root_key.sealed_place(settings)).line().split()[1])
        assert opens(settings, blob)
        root_change.rotate(settings)

    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert all(line not in everything for line in lines)


def test_without_systemd_it_is_said(used: tuple[Settings, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no systemd-creds, sealing says so, and nothing has changed."""
    settings, blob = used
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(ConfigError, match="no program systemd-creds"):
        root_change.seal(settings, HOST)

    assert opens(settings, blob)


def test_a_credential_of_another_name_is_refused(used: tuple[Settings, bytes], tmp_path: Path) -> None:
    """What was sealed under another name does not open as a root key."""
    settings, _ = used
    line = (settings.kms_dir / "root.key").read_bytes()
    sealed = subprocess.run(
        ["systemd-creds", "encrypt", "--with-key=host", "--name=other", "-", "-"],
        input=line,
        capture_output=True,
        check=True,
    ).stdout

    with pytest.raises(ConfigError, match="cannot open the sealed root key"):
        credential.decrypt(sealed, tmp_path)


def test_a_lax_credential_is_refused(used: tuple[Settings, bytes]) -> None:
    """A sealed root key that others may write is refused; reading it does them no good."""
    settings, blob = used
    root_change.seal(settings, HOST)
    (settings.kms_dir / "root.cred").chmod(0o644)
    assert opens(settings, blob)

    (settings.kms_dir / "root.cred").chmod(0o666)

    with pytest.raises(NotPermitted, match="0666"):
        opens(settings, blob)


def test_what_it_opens_with_is_recognised() -> None:
    """Kinds that are not known, and what is no credential, are told as unknown."""
    assert credential.sealed_with(b"AAAA") is None
    assert credential.sealed_with(b"no base64") is None


def test_a_next_root_key_that_cannot_be_read_does_not_matter(used: tuple[Settings, bytes]) -> None:
    """What a crash left half useless beside a good root key is erased by the next opening."""
    settings, blob = used
    root_change.seal(settings, HOST)
    place = root_key.sealed_place(settings)
    root_key.write(place.next, b"garbage")

    assert opens(settings, blob)

    assert not place.next.exists()
    assert root_files.holds(place, root_change.status(settings).fingerprint)

"""`ebscrypt kms` on the embedded KMS itself: where its root key is, another one, backups."""

from __future__ import annotations

import contextlib
import getpass
import os
import pty
import select
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ebscrypt
from ebscrypt.kms.embedded import backup_file

Run = Callable[..., Any]
SOURCE = Path(ebscrypt.__file__).parents[1]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host key of this test's own, and passphrases that are quick to try."""
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "host.secret"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(backup_file, "_COST", (14, 8, 1))


@pytest.fixture
def key(run: Run) -> str:
    arn: str = run("kms", "create-key", "--description", "kept").out.strip()
    return arn


@pytest.fixture
def passphrase(tmp_path: Path) -> str:
    path = tmp_path / "passphrase"
    path.write_bytes("größer\nthe second line does not count".encode())
    return str(path)


@contextlib.contextmanager
def elsewhere(tmp_path: Path) -> Iterator[None]:
    """Another state directory, meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EBSCRYPT_STATE_DIR", str(tmp_path / "elsewhere"))
        yield


def test_the_root_key_is_shown_sealed_rotated_and_unsealed(run: Run, key: str, tmp_path: Path) -> None:
    """Each step prints where the root key is and says what it means; the key works after each."""
    directory = tmp_path / "state" / "kms"

    shown = run("kms", "root-key")
    assert f"{directory}/root.key" in shown.out
    assert "a file in clear" in shown.out
    sealed = run("kms", "root-key", "seal", "--with-key", "host")
    assert sealed.out == f"{directory}/root.cred\n"
    assert f"LoadCredentialEncrypted=ebscrypt-kms-root:{directory}/root.cred" in sealed.err
    assert f"{directory}/root.key was overwritten and removed; flash" in sealed.err
    assert "opens with host" in run("kms", "root-key", "show").out
    rotated = run("kms", "rotate-root")
    assert (rotated.status, rotated.out) == (0, f"{directory}/root.cred\n")
    assert "secrets sealed anew: 1;" in rotated.err
    assert run("kms", "describe-key", key).status == 0
    unsealed = run("kms", "root-key", "unseal")
    assert unsealed.out == f"{directory}/root.key\n"
    assert "in clear now" in unsealed.err
    assert run("kms", "rotate-root").out == f"{directory}/root.key\n"
    assert run("kms", "describe-key", key).status == 0


def test_for_programs(run: Run, key: str, tmp_path: Path) -> None:
    """With --output json: what and where, one object on stdout, talk as objects on stderr."""
    del key
    path = str(tmp_path / "state" / "kms" / "root.cred")
    fingerprint = run("kms", "root-key", "--output", "json").json["Fingerprint"]

    sealed = run("kms", "root-key", "seal", "--with-key", "host", "--output", "json")
    shown = run("kms", "root-key", "--output", "json").json
    rotated = run("kms", "rotate-root", "--output", "json").json

    assert sealed.json == {"RootKey": path, "Fingerprint": fingerprint}
    assert all(line.startswith('{"Note": ') for line in sealed.err.splitlines())
    expected = {"RootKey": path, "Kind": "sealed", "SealedWith": "host", "Fingerprint": fingerprint, "Copies": []}
    assert shown == expected
    assert rotated["Fingerprint"] != fingerprint


def test_a_backup_is_written_and_taken_in(run: Run, key: str, passphrase: str, tmp_path: Path) -> None:
    """0600, never over a file unless told; elsewhere the keys are there with their ARNs."""
    target = tmp_path / "backup"

    written = run("kms", "export", str(target), "--passphrase-file", passphrase)

    assert (written.status, written.out) == (0, "")
    assert "keys: 1, aliases: 0;" in written.err
    assert target.stat().st_mode & 0o7777 == 0o600
    before = target.read_bytes()
    refused = run("kms", "export", str(target), "--passphrase-file", passphrase)
    assert refused.status == 1
    assert "--force" in refused.err
    assert target.read_bytes() == before
    forced = run("kms", "export", str(target), "--passphrase-file", passphrase, "--force", "--output", "json")
    assert forced.json == {"File": str(target), "Keys": 1, "Aliases": 0}
    assert target.read_bytes() != before
    with elsewhere(tmp_path):
        taken = run("kms", "import", str(target), "--passphrase-file", passphrase)
        again = run("kms", "import", str(target), "--passphrase-file", passphrase, "--output", "json")
        assert run("kms", "describe-key", key).status == 0
    assert "keys added: 1, brought back: 0, here already: 0, left out: 0" in taken.err
    assert again.json == {"Added": [], "Restored": [], "Unchanged": [key], "LeftOut": []}


def test_a_wrong_passphrase(run: Run, key: str, passphrase: str, tmp_path: Path) -> None:
    """Refused, and nothing is made of it."""
    del key
    run("kms", "export", str(tmp_path / "backup"), "--passphrase-file", passphrase)
    (tmp_path / "other").write_text("another")

    with elsewhere(tmp_path):
        ran = run("kms", "import", str(tmp_path / "backup"), "--passphrase-file", str(tmp_path / "other"))

    assert ran.status == 1
    assert "the passphrase is another" in ran.err
    assert "another\n" not in ran.out


def test_through_pipes(run: Run, key: str, passphrase: str, tmp_path: Path) -> None:
    """`export -` into `import -`: the backup touches no disk, and stdout has nothing else in it."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "ebscrypt.cli.main", "kms"]
    options = ["-", "--passphrase-file", passphrase]

    exported = subprocess.run([*command, "export", *options], env=environment, capture_output=True, check=True)
    there = environment | {"EBSCRYPT_STATE_DIR": str(tmp_path / "elsewhere")}
    subprocess.run([*command, "import", *options], env=there, input=exported.stdout, capture_output=True, check=True)

    assert exported.stdout.startswith(b"ebscrypt-kms-bkp")
    with elsewhere(tmp_path):
        assert run("kms", "describe-key", key).status == 0


def test_what_was_deleted_is_told_and_comes_back_on_request(
    run: Run, key: str, passphrase: str, tmp_path: Path
) -> None:
    """A key that an import leaves out is named on stderr with the option that brings it back."""
    words = [str(tmp_path / "backup"), "--passphrase-file", passphrase]
    run("kms", "schedule-key-deletion", key, "--pending-window-in-days", "7")
    run("kms", "export", *words)
    database = tmp_path / "state" / "kms" / "keys.db"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE kms_key SET deletion_date = 1")
    assert run("kms", "describe-key", key).status == 1

    left = run("kms", "import", *words)
    back = run("kms", "import", *words, "--restore-deleted", "--output", "json")

    assert "left out: 1" in left.err
    assert f"note: {key} is left as it is: it was deleted here; --restore-deleted brings it back" in left.err
    assert back.json["Restored"] == [key]
    assert run("kms", "describe-key", key).status == 0


def test_the_terminal_is_asked_twice(run: Run, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a new backup; two different answers, or none, write nothing."""
    del key
    answers: list[str] = []
    monkeypatch.setattr(getpass, "getpass", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _: True})())
    for said, told in ((["one", "two"], "differ"), (["", ""], "empty")):
        answers[:] = said
        refused = run("kms", "export", str(tmp_path / "backup"))
        assert refused.status == 2
        assert told in refused.err
        assert not (tmp_path / "backup").exists()
    answers[:] = ["same", "same"]
    assert run("kms", "export", str(tmp_path / "backup")).status == 0
    answers[:] = ["same"]
    assert run("kms", "import", str(tmp_path / "backup")).status == 0
    assert answers == []


def test_a_passphrase_typed_at_a_terminal_does_not_show(run: Run, key: str, tmp_path: Path) -> None:
    """A real terminal: the prompts appear, what is typed does not."""
    del run, key
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "ebscrypt.cli.main", "kms", "export", str(tmp_path / "backup")]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    shown = b""
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    ) as process:
        os.close(slave)
        killer = threading.Timer(60, process.kill)
        killer.start()
        answers = [(b"passphrase: ", b"hidden words\n"), (b"the same again: ", b"hidden words\n")]
        with contextlib.suppress(OSError):  # the terminal ends with the process
            while True:
                select.select([master], [], [])
                shown += os.read(master, 4096)
                if answers and answers[0][0] in shown:
                    os.write(master, answers.pop(0)[1])
        killer.cancel()
    os.close(master)

    assert process.returncode == 0, shown
    assert b"hidden" not in shown
    assert (tmp_path / "backup").read_bytes().startswith(b"ebscrypt-kms-bkp")

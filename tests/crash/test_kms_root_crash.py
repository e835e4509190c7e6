"""kill -9 at every point of every change of the embedded KMS as a whole: another root key, another place, a backup.

The points are the moment before each SQL statement and after each call that changes files. Afterwards everything that
was wrapped before opens, and the same command, said again, comes to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.config import Settings
from ebscrypt.kms.embedded import backup, backup_file, root_change
from ebscrypt.kms.embedded.root_change import Sealing
from ebscrypt.kms.embedded.store import Store
from tests.crash.test_kms_store_crash import WRITER, check, settings_at, started
from tests.unit.kms.embedded.speaking import Speaker

KILLED = -9
PASSPHRASE = b"a passphrase"
ROOT_FILES = {"root.key", "root.cred", "root.key.new", "root.cred.new"}


class Killer:
    """Runs `ebscrypt` on a KMS of its own, and kills it where it is told to."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.state = tmp_path / "state"
        self.settings = settings_at(self.state)
        kms = self.settings.kms
        self.environ = {
            "EBSCRYPT_STATE_DIR": str(self.state),
            "EBSCRYPT_REGION": kms.region,
            "EBSCRYPT_ACCOUNT": kms.account,
            "EBSCRYPT_CONFIG": os.devnull,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.killer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def run(self, words: list[str], kill_at: int = 0) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {"words": words, "environ": self.environ, "kill_at": kill_at, "sql": True}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


@pytest.fixture
def killer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Killer]:
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "host.secret"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    subprocess.run(["systemd-creds", "setup"], check=True, capture_output=True)
    made = Killer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def blobs(killer: Killer) -> list[bytes]:
    """A store with three keys in it, and what they wrapped."""
    speaker = Speaker(killer.settings)
    made = [speaker.wrapped(speaker.key()) for _ in range(3)]
    speaker.close()
    return made


def opens(settings: Settings, blobs: list[bytes]) -> None:
    """Every blob opens in a new process's KMS, whose database is sound."""
    speaker = Speaker(settings)
    assert all(len(speaker.opened(blob)) == 64 for blob in blobs)
    with speaker.database() as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    speaker.close()


def root_files(settings: Settings) -> set[str]:
    return {path.name for path in settings.kms_dir.iterdir()} & ROOT_FILES


def sweep(killer: Killer, words: list[str], blobs: list[bytes], left: set[str], again: set[int]) -> list[str]:
    """Kill the command at each of its points, on a fresh copy of the store; the names of the points.

    ``left``: the files of the root key when it is done. ``again``: exit statuses that are right for a second time.
    """
    template = killer.tmp_path / "template"
    shutil.copytree(killer.settings.kms_dir, template)
    whole = killer.run(words)
    assert whole["status"] == 0, whole
    opens(killer.settings, blobs)
    for number, name in enumerate(whole["points"], 1):
        shutil.rmtree(killer.settings.kms_dir)
        shutil.copytree(template, killer.settings.kms_dir)
        ran = killer.run(words, kill_at=number)
        assert ran["status"] == KILLED, (number, name, ran)
        try:
            opens(killer.settings, blobs)
            assert killer.run(words)["status"] in again | {0}
            opens(killer.settings, blobs)
            assert root_files(killer.settings) == left
        except Exception as error:
            error.add_note(f"killed at point {number} of {len(whole['points'])}, {name}, of {words}")
            raise
    points: list[str] = whole["points"]
    return points


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True], ids=["a file in clear", "a sealed one"])
def test_killed_while_rotating_the_root_key(sealed: bool, killer: Killer, blobs: list[bytes]) -> None:  # noqa: FBT001
    """Before the commit the old root key is in force, after it the new one; nothing is lost at any point between."""
    if sealed:
        root_change.seal(killer.settings, Sealing(with_key="host"))

    points = sweep(killer, ["kms", "rotate-root"], blobs, {"root.cred" if sealed else "root.key"}, set())

    assert {"COMMIT", "UPDATE store SET", "UPDATE material SET", "replace", "fsync", "pwrite"} <= set(points)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["seal", "unseal"])
def test_killed_while_moving_the_root_key(word: str, killer: Killer, blobs: list[bytes]) -> None:
    """At every point the root key is in one place or both; the second attempt leaves it in the one that was wanted."""
    if word == "unseal":
        root_change.seal(killer.settings, Sealing(with_key="host"))
    words = ["kms", "root-key", word, *(["--with-key", "host"] if word == "seal" else [])]

    points = sweep(killer, words, blobs, {"root.cred" if word == "seal" else "root.key"}, {1})

    assert {"fsync", "pwrite", "unlink"} <= set(points)


@pytest.mark.slow
def test_killed_while_importing(
    killer: Killer, blobs: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that was killed has brought all keys or none, and none of those that were there is touched."""
    monkeypatch.setattr(backup_file, "_COST", (14, 8, 1))  # a passphrase that is quick to try: the sweep tries it often
    other = settings_at(tmp_path / "other")
    speaker = Speaker(other)
    foreign = [speaker.wrapped(speaker.key()) for _ in range(3)]
    speaker.close()
    store = Store(other)
    (tmp_path / "backup").write_bytes(backup.export(store, PASSPHRASE).file)
    store.close()
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    words = ["kms", "import", str(tmp_path / "backup"), "--passphrase-file", str(tmp_path / "passphrase")]

    points = sweep(killer, words, blobs, {"root.key"}, set())

    assert {"COMMIT", "INSERT INTO kms_key", "INSERT INTO material"} <= set(points)
    opens(killer.settings, [*blobs, *foreign])


@pytest.mark.slow
def test_a_writer_goes_on_while_rotations_are_killed(killer: Killer, blobs: list[bytes]) -> None:
    """Another process makes keys all the while: it never fails, and all that it acknowledged is there."""
    points = killer.run(["kms", "rotate-root"])["points"]
    with started(WRITER, str(killer.state), "writer") as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        for number in range(1, len(points) + 1):
            assert killer.run(["kms", "rotate-root"], kill_at=number)["status"] == KILLED
            lines.append(writer.stdout.readline())
        assert killer.run(["kms", "rotate-root"])["status"] == 0
        lines += [writer.stdout.readline() for _ in range(10)]
        assert writer.poll() is None, "the writer has failed"
        writer.kill()
        lines += writer.stdout.read().splitlines(keepends=True)

    check(killer.state, [[json.loads(line) for line in lines if line.endswith("\n")]])
    opens(killer.settings, blobs)
    assert root_files(killer.settings) == {"root.key"}


@pytest.mark.slow
def test_killed_while_exporting(killer: Killer, blobs: list[bytes], tmp_path: Path) -> None:
    """At the name of a backup there is the old one or the whole new one, never a part."""
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    target = tmp_path / "place" / "backup"
    target.parent.mkdir()
    words = ["kms", "export", str(target), "--passphrase-file", str(tmp_path / "passphrase"), "--force"]
    points = killer.run(words)["points"]
    assert "replace" in points

    for number in range(1, len(points) + 1):
        target.write_bytes(b"the old one")
        assert killer.run(words, kill_at=number)["status"] == KILLED
        found = target.read_bytes()
        if found != b"the old one":
            store = Store(killer.settings)
            assert len(backup.restore(store, found, PASSPHRASE).unchanged) == len(blobs)
            store.close()
    assert killer.run(words)["status"] == 0
    assert [path.name for path in target.parent.iterdir()] == ["backup"]

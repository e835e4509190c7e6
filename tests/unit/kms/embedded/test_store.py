"""The store: its files and modes, what it refuses to open, and how its failures are told."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, EbscryptError, KmsError, NotPermitted, OutOfSpace
from ebscrypt.kms.embedded import schema
from tests.unit.kms.embedded.speaking import Refused, Speaker


@pytest.fixture
def store(settings: Settings) -> Path:
    """The directory of a store with one key in it, closed."""
    speaker = Speaker(settings)
    speaker.key()
    speaker.close()
    return settings.kms_dir


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_all_files_are_private_while_in_use(kms: Speaker) -> None:
    """Directory 0700, every file in it 0600, SQLite's own included, whatever the umask."""
    old = os.umask(0)
    try:
        kms.key()
        modes = {path.name: path.stat().st_mode & 0o7777 for path in kms.settings.kms_dir.iterdir()}
    finally:
        os.umask(old)

    assert set(modes) == {"README", "root.key", "keys.db", "keys.db-wal", "keys.db-shm"}
    assert set(modes.values()) == {0o600}
    assert kms.settings.kms_dir.stat().st_mode & 0o7777 == 0o700


def test_readme_says_what_is_not_protected(store: Path) -> None:
    """The README beside the files names both sides, and survives in the words of its owner."""
    text = (store / "README").read_text()

    assert "What this protects against" in text
    assert "What this does not protect against" in text


def test_keys_outlive_the_process(settings: Settings, store: Path) -> None:
    """What was made is there for the next process, material included."""
    first = Speaker(settings)
    key = first.say("ListKeys")["Keys"][0]["KeyArn"]
    blob = first.wrapped(key)
    first.close()

    assert len(Speaker(settings).opened(blob)) == 64
    assert store.exists()


def test_missing_root_key_is_not_replaced(settings: Settings, store: Path) -> None:
    """A store without its root key does not open, and gets no new one."""
    (store / "root.key").unlink()

    with pytest.raises(ConfigError, match="missing"):
        Speaker(settings).say("ListKeys")

    assert not (store / "root.key").exists()


def test_other_root_key_is_told(settings: Settings, store: Path) -> None:
    """A store with another root key does not open, and says so."""
    (store / "root.key").write_text("ebscrypt-kms-root-1 " + "00" * 32 + "\n")

    with pytest.raises(ConfigError, match="not the root key"):
        Speaker(settings).say("ListKeys")


def test_lax_directory_is_refused(settings: Settings, store: Path) -> None:
    """A directory that others may enter is refused, with its mode and the cure."""
    store.chmod(0o755)

    with pytest.raises(NotPermitted, match="0755") as caught:
        Speaker(settings).say("ListKeys")

    assert "chmod 700" in str(caught.value.hint)


def test_foreign_directory_is_refused(settings: Settings, store: Path) -> None:
    """A directory that belongs to somebody else is refused."""
    os.chown(store, 12345, 12345)

    with pytest.raises(NotPermitted, match="12345"):
        Speaker(settings).say("ListKeys")


def test_newer_version_is_refused(settings: Settings, store: Path) -> None:
    """A store of a later version is left alone."""
    with sqlite3.connect(store / "keys.db") as database:
        database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    database.close()

    with pytest.raises(KmsError, match=f"version {schema.VERSION + 1}"):
        Speaker(settings).say("ListKeys")


def test_foreign_database_is_refused(settings: Settings, store: Path) -> None:
    """A database of another program is not taken over."""
    (store / "keys.db").unlink()
    with sqlite3.connect(store / "keys.db") as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()

    with pytest.raises(KmsError, match="not a database of the embedded KMS"):
        Speaker(settings).say("ListKeys")


@pytest.mark.parametrize("damage", ["garbage", "holes", "cut off"])
def test_damage_is_told(damage: str, settings: Settings, store: Path) -> None:
    """A damaged database is "corrupted or tampered with", whatever is done with it."""
    path = store / "keys.db"
    content = path.read_bytes()
    damaged = {
        "garbage": b"not a database" * 1000,
        "holes": content[:4096] + bytes(len(content) - 4096),
        "cut off": content[:6000],
    }
    path.write_bytes(damaged[damage])

    with pytest.raises(KmsError, match="corrupted or tampered with"):
        Speaker(settings).say("ListKeys")


def test_swapped_material_is_told(settings: Settings, store: Path) -> None:
    """Material moved from one key's row to another's does not open: it is bound to its key."""
    speaker = Speaker(settings)
    one, other = speaker.key(), speaker.key()
    with speaker.database() as database:
        sealed = dict(database.execute("SELECT arn, sealed FROM material JOIN kms_key USING (key_id)"))
        for arn, bytes_ in ((one, sealed[other]), (other, sealed[one])):
            database.execute(
                "UPDATE material SET sealed = ? WHERE key_id = (SELECT key_id FROM kms_key WHERE arn = ?)",
                (bytes_, arn),
            )

    with pytest.raises(KmsError, match="corrupted or tampered with") as caught:
        speaker.wrapped(one)

    assert caught.value.key_arn == one
    assert store.exists()


def test_unused_first_steps_are_finished(settings: Settings) -> None:
    """Whatever a crash left of the first opening, the next one finishes it: README, root key, empty database."""
    settings.kms_dir.mkdir(mode=0o700, parents=True)
    (settings.kms_dir / "README").touch(mode=0o600)
    (settings.kms_dir / "keys.db").touch(mode=0o600)
    (settings.kms_dir / ".root.key.new-0123456789abcdef").touch(mode=0o600)

    speaker = Speaker(settings)
    assert speaker.say("ListKeys")["Keys"] == []
    speaker.close()
    assert {path.name for path in settings.kms_dir.iterdir()} == {"README", "root.key", "keys.db"}


@pytest.mark.parametrize("free", [0, 8, 16, 32, 48, 64, 80, 96])
def test_full_disk_while_making_the_store(free: int, settings: Settings, small_disk: Path) -> None:
    """A disk that is full from the start gives `OutOfSpace`, and a store that can be made once there is room."""
    here = msgspec.structs.replace(settings, paths=msgspec.structs.replace(settings.paths, state=str(small_disk)))
    filler = small_disk / "filler"
    filler.write_bytes(bytes((256 - free) * 1024))

    speaker = Speaker(here)
    with pytest.raises(OutOfSpace):
        speaker.key()
    speaker.close()

    filler.unlink()
    assert len(speaker.opened(speaker.wrapped(speaker.key()))) == 64
    speaker.close()


def test_full_disk_while_in_use(settings: Settings, small_disk: Path) -> None:
    """When the disk fills up, creation fails with `OutOfSpace`, and what was there still works."""
    here = msgspec.structs.replace(settings, paths=msgspec.structs.replace(settings.paths, state=str(small_disk)))
    speaker = Speaker(here)
    made = [speaker.key()]

    with pytest.raises(OutOfSpace):  # noqa: PT012 - it takes some to fill it
        while True:
            made += [speaker.key(Description="x" * 8000)]

    assert len(speaker.say("ListKeys", Limit=1000)["Keys"]) == len(made)
    assert len(speaker.opened(speaker.wrapped(made[0]))) == 64
    speaker.close()


def test_busy_store_is_a_retryable_answer(settings: Settings) -> None:
    """While another process holds the store, the answer is DependencyTimeoutException, which clients try again."""
    impatient = msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, timeout=0.05))
    speaker = Speaker(impatient)
    speaker.key()

    with speaker.database() as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Refused) as caught:
            speaker.key()
        other.execute("ROLLBACK")

    assert (caught.value.kind, caught.value.status) == ("DependencyTimeoutException", 503)
    assert speaker.key()
    speaker.close()


def test_something_is_in_the_way(settings: Settings, store: Path) -> None:
    """A file where the directory should be is an error of ours, not of the system's."""
    shutil.rmtree(store)
    store.write_text("in the way")

    with pytest.raises(EbscryptError, match="cannot use the directory"):
        Speaker(settings).say("ListKeys")


def test_many_threads_on_one_connection(settings: Settings) -> None:
    """Threads that share one KMS make keys and data keys without disturbing each other."""
    speaker = Speaker(settings)
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(10):
                key = speaker.key()
                assert len(speaker.opened(speaker.wrapped(key))) == 64
        except Exception as error:  # noqa: BLE001 - told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(speaker.say("ListKeys")["Keys"]) == 80
    speaker.close()

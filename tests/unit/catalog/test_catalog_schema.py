"""The database file: who may read it, how it writes, and which schema it has."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from ebscrypt.catalog import schema
from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.keys import EncryptionDefaults
from ebscrypt.catalog.reading import VERSION
from ebscrypt.catalog.schema import open_database
from ebscrypt.errors import CatalogDamaged, CatalogError, NotPermitted
from ebscrypt.events.rules import list_rules
from ebscrypt.events.targets.kinds import RetryPolicy
from ebscrypt.model import OnKeyUnusable, Volume

NOBODY = 65534
VECTORS = Path(__file__).parents[2] / "vectors"


def test_only_the_owner_may_read_it(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    """Directory 0700, and the database with its companions 0600, whatever the umask."""
    path = tmp_path / "state" / "catalog.db"

    with Catalog(path) as catalog:
        catalog.add(make_volume())
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {"catalog.db", "catalog.db-wal", "catalog.db-shm"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_it_writes_safely(tmp_path: Path) -> None:
    """WAL, synchronous FULL (2) and foreign keys, on every connection of the pool."""
    engine = open_database(tmp_path / "catalog.db")
    try:
        for _ in range(2):
            with engine.connect() as first, engine.connect() as second:
                for connection in (first, second):
                    assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
                    assert connection.execute(text("PRAGMA synchronous")).scalar_one() == 2
                    assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
    finally:
        engine.dispose()


def test_another_user_is_told_to_use_sudo(tmp_path: Path) -> None:
    """A catalog that this user may not open is a matter of permission, with the way out as hint."""
    tmp_path.chmod(0o755)
    Catalog(tmp_path / "state" / "catalog.db").close()
    code = f"""
import os, sys
from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.keys import EncryptionDefaults
from ebscrypt.errors import NotPermitted
os.setgid({NOBODY}); os.setuid({NOBODY})
from pathlib import Path
try:
    Catalog(Path({str(tmp_path / "state" / "catalog.db")!r}))
except NotPermitted as error:
    print(error.message, error.hint)
"""

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "may not use the catalog" in ran.stdout
    assert "sudo" in ran.stdout


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Nobody can make us write another file by planting a link."""
    (tmp_path / "catalog.db").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CatalogError):
        Catalog(tmp_path / "catalog.db")

    assert not (tmp_path / "elsewhere").exists()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """An old program must not write into a catalog whose rules it does not know."""
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = version + 1")
    connection.close()

    with pytest.raises(CatalogError, match=f"schema {VERSION + 1}, and this ebscrypt knows {VERSION}"):
        Catalog(path)


@pytest.mark.parametrize("damage", ["no database", "cut off"])
def test_a_damaged_file_is_told_from_other_troubles(tmp_path: Path, damage: str) -> None:
    """`CatalogDamaged`, with the way to a new one as hint."""
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    path.write_bytes(b"not a database at all" * 500 if damage == "no database" else path.read_bytes()[:8192])

    with pytest.raises(CatalogDamaged) as caught, Catalog(path) as catalog:
        catalog.volumes()

    assert caught.value.hint is not None
    assert "rebuild-catalog" in caught.value.hint


def test_migrations_run_once_and_in_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older catalog is brought up step by step; a step that fails leaves the old version whole."""
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    steps: list[str] = []

    def first(connection: Connection) -> None:
        steps.append("first")
        connection.execute(text("ALTER TABLE volumes ADD COLUMN extra TEXT"))

    def second(connection: Connection) -> None:
        steps.append("second")
        if steps.count("second") == 1:
            raise CatalogError("the second step failed")
        connection.execute(text("UPDATE volumes SET extra = 'x'"))

    monkeypatch.setattr(schema, "VERSION", VERSION + 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {VERSION: first, VERSION + 1: second})
    with pytest.raises(CatalogError, match="second step"):
        Catalog(path)
    Catalog(path).close()
    Catalog(path).close()

    assert steps == ["first", "second", "first", "second"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(VERSION + 2,)]
    connection.close()


def test_the_catalog_of_version_1_opens_for_ever(tmp_path: Path) -> None:
    """The golden catalog, as ebscrypt 0.1 wrote it, gives its volumes, tags, events and noted resize."""
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((VECTORS / "catalog-v1.sql").read_text(encoding="utf-8"))
    connection.close()

    with Catalog(path) as catalog:
        first, second = catalog.volumes()
        assert (first.volume_id, first.state.value, first.tags) == ("vol-0123456789abcdef0", "in-use", {"Name": "mail"})
        assert (first.size, first.kms_key_arn is not None, first.backing_owned) == (10737418240, True, True)
        assert (first.was_attached, second.was_attached) == (True, False)
        assert (second.volume_id, second.encrypted, second.backing) == ("vol-0123456789abcdef1", False, "/dev/sdx")
        assert second.create_time.isoformat() == "2024-01-02T03:04:05.678000+00:00"
        assert catalog.resizes() == {"vol-0123456789abcdef0": 21474836480}
        assert [event["detail"]["event"] for _, event in catalog.events()] == ["createVolume"]


def test_the_catalog_of_version_2_opens_for_ever(tmp_path: Path) -> None:
    """The golden catalog with rules gives them with every kind of target, and what these have yet to get."""
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((VECTORS / "catalog-v2.sql").read_text(encoding="utf-8"))
    connection.close()

    with Catalog(path) as catalog:
        off, refused = list_rules(catalog)
        assert (off.name, off.enabled, off.targets) == ("off", False, {})
        assert (refused.name, refused.enabled, refused.pending) == ("refused", True, 2)
        assert refused.description == "Look at what KMS refused."
        assert refused.event_pattern == '{"detail": {"event": ["attachVolume"], "result": ["failed"]}}'
        assert {target_id: str(target) for target_id, target in refused.targets.items()} == {
            "command-1": "/bin/echo 'a b'",
            "webhook-1": "https://hooks.example.com/…",
            "event-bus-1": "arn:aws:events:eu-central-1:111122223333:event-bus/default",
            "topic-1": "arn:aws:sns:eu-central-1:111122223333:alarms",
            "queue-1": "arn:aws:sqs:eu-central-1:111122223333:events.fifo",
        }
        assert refused.targets["command-1"].timeout == 30
        assert refused.targets["command-1"].retry_policy == RetryPolicy(3, 3600)
        first = catalog.rules.due(1704164648)
        assert first is not None
        assert (first.target_id, first.attempts, first.event) == ("queue-1", 0, catalog.events()[1][1])
        assert catalog.rules.next_due(busy=[("refused", "queue-1")]) == 1704164649.5


def test_the_catalog_of_version_3_opens_for_ever(tmp_path: Path) -> None:
    """The golden catalog with keys gives the defaults, the grants to be retired, and what volumes keep of keys."""
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((VECTORS / "catalog-v3.sql").read_text(encoding="utf-8"))
    connection.close()
    key, other = (
        f"arn:aws:kms:eu-central-1:111122223333:key/{start}-12ab-34cd-56ef-1234567890ab"
        for start in ("1234abcd", "aaaaaaaa")
    )

    with Catalog(path) as catalog:
        first, second = catalog.volumes()
        assert (first.on_key_unusable, first.was_attached) == (OnKeyUnusable.SUSPEND, True)
        assert first.attach_failure == f"KMS refused Decrypt: {key} is disabled"
        assert (second.on_key_unusable, second.was_attached, second.attach_failure) == ("ignore", False, None)
        assert catalog.keys.rewraps() == {first.volume_id: other}
        assert catalog.keys.defaults("111122223333", "eu-central-1") == EncryptionDefaults(
            enabled=True, kms_key_arn=other
        )
        assert catalog.keys.defaults("111122223333", "us-east-1") == EncryptionDefaults(enabled=True)
        made, asked = catalog.keys.grants()
        assert (made.volume_id, made.kms_key_arn, made.grant_id) == (first.volume_id, key, "ab" * 32)
        assert made.name == f"ebscrypt-{first.volume_id}-0011223344556677"
        assert (asked.volume_id, asked.grant_id) == ("vol-0123456789abcdef2", None)
        assert asked.create_time.isoformat() == "2024-01-02T03:04:08.678000+00:00"


def test_the_catalog_of_version_4_opens_for_ever(tmp_path: Path) -> None:
    """The golden catalog with snapshots gives them in every state, with tags, and the job of the pending one."""
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((VECTORS / "catalog-v4.sql").read_text(encoding="utf-8"))
    connection.close()

    with Catalog(path) as catalog:
        completed, pending, copy, plain = catalog.snapshots.list()
        assert (completed.state, completed.tags, completed.description) == ("completed", {"Name": "mail"}, "nightly")
        assert (completed.digest, completed.bytes_done, completed.bytes_total) == ("ab" * 32, 1 << 30, 1 << 30)
        assert completed.start_time.isoformat() == "2024-01-02T03:05:01.678000+00:00"
        assert completed.completion_time is not None
        assert completed.data_encryption_key_id == "6ebe7874-f36e-41de-ae1b-734f6b707946"
        assert (pending.store, pending.parent, pending.bytes_done) == (
            "s3://bucket/prefix/",
            completed.snapshot_id,
            4096,
        )
        assert catalog.snapshots.job(pending.snapshot_id) == '{"region":"eu-central-1"}'
        assert (copy.state, copy.copied_from, copy.state_message) == (
            "error",
            completed.snapshot_id,
            "the copy was interrupted",
        )
        assert (plain.encrypted, plain.kms_key_arn, plain.sector_size, plain.deleting) == (False, None, 512, True)
        assert catalog.snapshots.unsettled() == [pending, plain]


def columns_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """What the database says of each table: columns with types and keys, foreign keys, indices with their columns."""
    connection = sqlite3.connect(path)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: [
                *connection.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,)),
                *connection.execute("SELECT * FROM pragma_foreign_key_list(?)", (table,)),
                *sorted(
                    connection.execute(
                        'SELECT l."unique", l.origin, i.seqno, i.name FROM pragma_index_list(?) l, '
                        "pragma_index_info(l.name) i",
                        (table,),
                    )
                ),
            ]
            for table in tables
        }
    finally:
        connection.close()


def test_a_migrated_catalog_is_like_a_fresh_one(tmp_path: Path) -> None:
    """All steps together make the tables that `tables` describes: columns, types, keys and indices."""
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript((VECTORS / "catalog-v1.sql").read_text(encoding="utf-8"))
    connection.close()
    Catalog(tmp_path / "old.db").close()
    Catalog(tmp_path / "new.db").close()

    migrated, fresh = columns_of(tmp_path / "old.db"), columns_of(tmp_path / "new.db")

    assert {"deliveries", "grants", "snapshots", "snapshot_tags", "stacks", "stack_exports"} <= set(fresh)
    assert migrated == fresh


def test_many_first_users_make_one_schema(tmp_path: Path) -> None:
    """Commands that start at once on a fresh machine all get a catalog that works."""
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def open_it() -> None:
        start.wait()
        try:
            with Catalog(tmp_path / "state" / "catalog.db") as catalog:
                catalog.volumes()
        except BaseException as error:  # noqa: BLE001 - the main thread looks at it
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []


def test_a_directory_that_cannot_be_made_is_a_catalog_error(tmp_path: Path) -> None:
    """A file in the place of the state directory is told, with the path."""
    (tmp_path / "state").write_text("")

    with pytest.raises(CatalogError, match=r"catalog\.db"):
        Catalog(tmp_path / "state" / "catalog.db")


def test_a_read_only_file_system_is_told(tmp_path: Path) -> None:
    """Root is refused nothing by modes, but by a read-only mount: no traceback, and what to do."""
    path = tmp_path / "state" / "catalog.db"
    Catalog(path).close()
    subprocess.run(["mount", "--bind", path.parent, path.parent], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path.parent], check=True)
        with pytest.raises((NotPermitted, CatalogError)) as caught:
            Catalog(path)
        assert "catalog.db" in caught.value.message
    finally:
        subprocess.run(["umount", path.parent], check=True)

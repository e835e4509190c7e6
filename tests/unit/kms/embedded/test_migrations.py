"""A store of an earlier version becomes one of the present: whole, once, or not at all."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.config import Settings
from ebscrypt.kms.embedded import migrations, schema
from tests.unit.kms.embedded.speaking import Speaker

V1 = Path(__file__).parents[3] / "vectors" / "kms" / "v1"


@pytest.fixture
def old(settings: Settings) -> Path:
    """The database of a golden store of version 1."""
    directory = settings.kms_dir
    directory.mkdir(mode=0o700, parents=True)
    for name in ("keys.db", "root.key"):
        shutil.copyfile(V1 / name, directory / name)
        (directory / name).chmod(0o600)
    return directory / "keys.db"


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query finds."""
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def form(path: Path) -> dict[str, Any]:
    """Tables and indexes of a database: columns with their types, foreign keys, uniqueness, conditions."""
    tables = [name for (name,) in rows(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found: dict[str, Any] = {
        table: (
            [column[1:] for column in rows(path, f"PRAGMA table_xinfo({table})")],
            sorted(reference[2:] for reference in rows(path, f"PRAGMA foreign_key_list({table})")),
            [entry[4:] for entry in rows(path, f"PRAGMA table_list({table})")],
        )
        for table in tables
    }
    found |= dict(rows(path, "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"))
    return found


def test_same_tables_as_a_fresh_store(settings: Settings, old: Path, tmp_path: Path) -> None:
    """A store that came through the migration has the tables, columns and indexes of a fresh one."""
    speaker = Speaker(settings)
    speaker.say("ListKeys")
    fresh = tmp_path / "fresh.db"
    database = sqlite3.connect(fresh, isolation_level=None)
    schema.create(database, "")
    database.close()

    assert form(old) == form(fresh)
    assert rows(old, "PRAGMA user_version") == [(schema.VERSION,)]
    assert rows(old, "PRAGMA foreign_key_check") == []
    assert rows(old, "PRAGMA integrity_check") == [("ok",)]
    speaker.close()


def test_nothing_is_lost(settings: Settings, old: Path) -> None:
    """Every key, material and alias is what it was; a key's material is its first, and the managed key will rotate."""
    keys, aliases = rows(old, "SELECT * FROM kms_key ORDER BY 1"), rows(old, "SELECT * FROM alias ORDER BY 3")
    materials = rows(old, "SELECT material_id, key_id, created, sealed FROM material")

    speaker = Speaker(settings)
    speaker.say("ListKeys")

    assert [key[:14] for key in rows(old, "SELECT * FROM kms_key ORDER BY 1")] == keys
    assert rows(old, "SELECT * FROM alias ORDER BY 3") == aliases
    assert rows(old, "SELECT material_id, key_id, created, sealed FROM material") == materials
    assert set(rows(old, "SELECT number, state, rotated, valid_to FROM material")) == {(1, "CURRENT", None, None)}
    rotating = "SELECT manager, rotation_period, next_rotation - created FROM kms_key WHERE next_rotation IS NOT NULL"
    assert rows(old, rotating) == [("AWS", 365, 365 * 86_400.0)]
    speaker.close()


@pytest.mark.parametrize("step", range(len(migrations._STEPS[1])))
def test_stopped_anywhere(step: int, settings: Settings, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever statement fails, the store is one of version 1 as before; the next opening migrates it."""
    before = form(old)
    statements = list(migrations._STEPS[1])
    statements[step] = "SELECT no_such_column"
    with monkeypatch.context() as broken:
        broken.setattr(migrations, "_STEPS", {1: tuple(statements)})
        speaker = Speaker(settings)
        with pytest.raises(Exception, match="no_such_column"):
            speaker.say("ListKeys")

    assert form(old) == before
    assert rows(old, "PRAGMA user_version") == [(1,)]
    speaker = Speaker(settings)
    assert len(speaker.say("ListKeys")["Keys"]) == 6
    speaker.close()


def test_rows_that_lead_nowhere(settings: Settings, old: Path) -> None:
    """A store of version 1 with a material of no key is damaged: it is not migrated, and said to be damaged."""
    database = sqlite3.connect(old)
    with database:
        database.execute("INSERT INTO alias VALUES ('111122223333', 'eu-central-1', 'alias/x', 'nobody', 0, 0)")
    database.close()

    with pytest.raises(Exception, match="a key or material that is not there"):
        Speaker(settings).say("ListKeys")

    assert rows(old, "PRAGMA user_version") == [(1,)]


def test_foreign_keys_are_watched_afterwards(settings: Settings, old: Path) -> None:
    """The connection that migrated watches foreign keys again."""
    speaker = Speaker(settings)
    store = speaker.kms.open()

    assert old.exists()
    with store.read() as db:
        assert db.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    speaker.close()


def test_many_processes_at_once(settings: Settings, old: Path) -> None:
    """Processes that open an old store at the same moment all find it migrated, and one did the work."""
    program = """
import sys
from pathlib import Path
from ebscrypt.config import KmsSettings, PathSettings, Settings
from tests.unit.kms.embedded.speaking import Speaker
state = Path(sys.argv[1])
kms = KmsSettings(region="eu-central-1", account="111122223333")
speaker = Speaker(Settings(paths=PathSettings(state=str(state), runtime=str(state / "run")), kms=kms))
print("ready", flush=True)
sys.stdin.readline()
assert len(speaker.say("ListKeys")["Keys"]) == 6
speaker.close()
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(settings.kms_dir.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[4],
        )
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    codes = []
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        process.communicate(timeout=60)
        codes.append(process.returncode)

    assert codes == [0] * 4
    assert rows(old, "PRAGMA user_version") == [(schema.VERSION,)]

"""`CatalogReader` answers what `Catalog` answers; the queries of both stay quick however much the catalog holds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.reading import UNDER_WAY, VERSION, CatalogReader, open_reader, statements
from ebscrypt.errors import CatalogDamaged, CatalogError, SnapshotNotFound, VolumeNotFound
from ebscrypt.model import BackingKind, OnKeyUnusable, Snapshot, SnapshotState, Volume, VolumeState, new_volume_id

VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The golden catalog with volumes, tags and snapshots in every state, brought to the newest schema."""
    path = tmp_path / "catalog.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((VECTORS / "catalog-v4.sql").read_text(encoding="utf-8"))
    Catalog(path).close()
    return path


@pytest.fixture
def reader(path: Path) -> Iterator[CatalogReader]:
    opened = open_reader(path)
    assert opened is not None
    with closing(opened):
        yield opened


def test_it_answers_as_the_catalog_does(path: Path, reader: CatalogReader, make_volume: Callable[..., Volume]) -> None:
    """Volumes and snapshots, all, by id and by what they are chosen by, are equal to the catalog's, in its order."""
    fields = {"tags": {"b": "2", "a": "ü"}, "on_key_unusable": OnKeyUnusable.SUSPEND, "was_attached": True}
    made = make_volume(**fields)
    plain = make_volume(encrypted=False, backing="/dev/sdz", backing_kind=BackingKind.BLOCK, state_message="why")
    with Catalog(path) as catalog:
        for volume in (plain, made):
            catalog.add(volume)
        volumes, snapshots = catalog.volumes(), catalog.snapshots.list()

        assert len(volumes) >= 2
        assert len(snapshots) == 4
        assert reader.volumes() == volumes
        assert reader.snapshots.list() == snapshots
        assert [reader.volume(volume.volume_id) for volume in volumes] == volumes
        assert [reader.snapshots.get(snapshot.snapshot_id) for snapshot in snapshots] == snapshots
        for states in ([VolumeState.CREATING], [VolumeState.IN_USE, VolumeState.AVAILABLE], [VolumeState.ERROR]):
            assert reader.volumes(*states) == catalog.volumes(*states)
        for volume_id in {snapshot.volume_id for snapshot in snapshots} | {new_volume_id()}:
            assert reader.snapshots.list(volume_id=volume_id) == catalog.snapshots.list(volume_id=volume_id)


def test_what_is_not_there_is_the_same_error(path: Path, reader: CatalogReader) -> None:
    """An id without a row: `VolumeNotFound` and `SnapshotNotFound` with the catalog's own words."""
    with Catalog(path) as catalog:
        asked: list[tuple[Callable[[], object], Callable[[], object]]] = [
            (lambda: catalog.volume("vol-0"), lambda: reader.volume("vol-0")),
            (lambda: catalog.snapshots.get("snap-0"), lambda: reader.snapshots.get("snap-0")),
        ]
        for ask_catalog, ask_reader in asked:
            with pytest.raises((VolumeNotFound, SnapshotNotFound)) as expected:
                ask_catalog()
            with pytest.raises(type(expected.value)) as found:
                ask_reader()
            assert found.value.record() == expected.value.record()


def test_it_sees_what_is_under_way(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    """A noted resize, rewrap and unsettled snapshot each count, and nothing else does."""
    with Catalog(tmp_path / "catalog.db") as catalog, closing(_opened(tmp_path / "catalog.db")) as reader:
        volume = make_volume(state=VolumeState.AVAILABLE)
        catalog.add(volume)
        seen = [reader.is_change_under_way()]
        catalog.correct(volume.volume_id, target_size=volume.size * 2)
        seen.append(reader.is_change_under_way())
        catalog.correct(volume.volume_id, target_size=None, target_kms_key_arn="arn:aws:kms:::key/x")
        seen.append(reader.is_change_under_way())
        catalog.correct(volume.volume_id, target_kms_key_arn=None)
        seen.append(reader.is_change_under_way())

    assert seen == [False, True, True, False]


@pytest.mark.parametrize("change", ["state = 'pending'", "job = '{}'", "deleting = 1"])
def test_it_sees_an_unsettled_snapshot(path: Path, reader: CatalogReader, change: str) -> None:
    """Pending, with a job, or being deleted: what `SnapshotRows.unsettled` finds, `is_change_under_way` counts."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE volumes SET target_size = NULL, target_kms_key_arn = NULL")
        connection.execute("DELETE FROM snapshots WHERE state <> 'completed' OR job IS NOT NULL OR deleting")
    assert not reader.is_change_under_way()

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE snapshots SET {change}")  # noqa: S608 - three constants

    assert reader.is_change_under_way()
    with Catalog(path) as catalog:
        assert catalog.snapshots.unsettled() == catalog.snapshots.list()


def test_it_sees_what_is_to_be_delivered(tmp_path: Path) -> None:
    """`is_work_left` agrees with the rules' own: an event that an enabled rule has not looked at, or a delivery."""
    with Catalog(tmp_path / "catalog.db") as catalog, closing(_opened(tmp_path / "catalog.db")) as reader:
        answers = []
        for statement in (
            "INSERT INTO events (event_id, body) VALUES ('e', '{}')",
            "INSERT INTO rules (name, event_pattern, enabled, description, cursor) VALUES ('r', '{}', 0, '', 0)",
            "UPDATE rules SET enabled = 1",
            "UPDATE rules SET cursor = 1",
            "INSERT INTO rule_targets (rule_name, target_id, body) VALUES ('r', 't', '{}')",
            "INSERT INTO deliveries SELECT 1, 'r', 't', 1, '{}', 0, 0, 0",
        ):
            with closing(sqlite3.connect(tmp_path / "catalog.db")) as connection, connection:
                connection.execute(statement)
            answers.append((reader.is_work_left(), catalog.rules.is_work_left()))

    assert [one for one, _ in answers] == [False, False, True, False, False, True]
    assert all(one == other for one, other in answers)


def test_it_cannot_change_anything(reader: CatalogReader) -> None:
    """A statement that writes is refused by the database itself."""
    with pytest.raises(CatalogError, match="readonly"):
        reader._database.is_any("DELETE FROM volumes RETURNING 1")


@pytest.mark.parametrize("damage", ["missing", "older", "newer", "no database", "link", "empty"])
def test_whatever_is_unusual_is_left_to_the_catalog(path: Path, damage: str) -> None:
    """No file, another schema, damage, a symbolic link: no reader, so that `Catalog` makes, migrates or refuses."""
    match damage:
        case "missing":
            path.unlink()
        case "older" | "newer":
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(
                    "UPDATE schema_version SET version = ?", (VERSION + (1 if damage == "newer" else -1),)
                )
        case "no database":
            path.write_bytes(b"not a database at all" * 500)
        case "link":
            path.symlink_to(path.rename(path.with_suffix(".elsewhere")))
        case _:
            path.write_bytes(b"")

    assert open_reader(path) is None
    assert damage != "missing" or not path.exists()


def test_a_damaged_row_is_told(path: Path, reader: CatalogReader) -> None:
    """A row that is no volume raises `CatalogDamaged` naming it, as the catalog does."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE volumes SET on_key_unusable = 'nonsense'")

    with pytest.raises(CatalogDamaged, match=r"row of vol-[0-9a-f]{17} is damaged"):
        reader.volumes()


def test_it_needs_no_sqlalchemy(path: Path) -> None:
    """That is what it is for: listing imports nothing of SQLAlchemy."""
    code = f"""
import sys
from pathlib import Path
from ebscrypt.catalog.reading import open_reader
reader = open_reader(Path({str(path)!r}))
assert reader.volumes() == reader.volumes() and reader.snapshots.list()
print([name for name in sys.modules if name.startswith("sqlalchemy")])
"""

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def _plans(path: Path, statement: str, values: tuple[object, ...]) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def _assert_indexed(path: Path, statement: str, values: tuple[object, ...] = ()) -> None:
    plans = _plans(path, statement, values)
    whole = [plan for plan in plans if plan.startswith("SCAN") and "USING" not in plan and plan != "SCAN CONSTANT ROW"]
    assert not [plan for plan in whole if "SUBQUERY" not in plan], (statement, plans)


def test_a_readers_queries_use_indices(path: Path) -> None:
    """By id, by state, by volume, and the look for what is under way: none goes through a whole table."""
    for kind, condition in (
        (Volume, "volume_id = ?"),
        (Volume, "state IN (?)"),
        (Snapshot, "snapshot_id = ?"),
        (Snapshot, "volume_id = ?"),
    ):
        for statement in statements(kind, condition):
            _assert_indexed(path, statement, ("x",))
    _assert_indexed(path, UNDER_WAY)


def test_the_catalogs_queries_use_indices(path: Path) -> None:
    """What commands ask of a catalog with very many volumes and snapshots goes by an index in every statement."""
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_c: Connection, _cursor: object, statement: str, values: tuple[object, ...], *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, values))

    with Catalog(path) as catalog:
        volume_id = catalog.volumes()[0].volume_id
        snapshot_id = catalog.snapshots.list()[0].snapshot_id
        event.listen(catalog._engine, "before_cursor_execute", note)
        catalog.volume(volume_id)
        catalog.volumes(VolumeState.CREATING, VolumeState.DELETING, VolumeState.IN_USE)
        catalog.resizes()
        catalog.keys.rewraps()
        catalog.snapshots.get(snapshot_id)
        catalog.snapshots.unsettled()
        catalog.snapshots.being_made(volume_id)
        catalog.snapshots.list(volume_id=volume_id)
        catalog.snapshots.list(SnapshotState.COMPLETED, volume_id=volume_id, store="local")

    assert len(asked) >= 14
    for statement, values in asked:
        _assert_indexed(path, statement, values)


def _opened(path: Path) -> CatalogReader:
    reader = open_reader(path)
    assert reader is not None
    return reader


def test_opening_the_catalog_again_ends_nobodys_locks(path: Path, reader: CatalogReader) -> None:
    """A reader goes on to see what other processes write, whoever in its process opens the catalog after it.

    Were the file opened and closed past SQLite, the reader's locks would be gone: the other process, last to leave as
    far as it knows, would remove the WAL, and the reader would look into the old one for ever.
    """
    program = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
        "connection.execute('UPDATE volumes SET state_message = ?', sys.argv[2:]); connection.commit(); "
        "connection.close()"
    )
    assert reader.volumes()
    with Catalog(path) as catalog, closing(open_reader(path) or reader):
        for word in ("one", "two"):
            subprocess.run([sys.executable, "-c", program, str(path), word], check=True)

            assert {volume.state_message for volume in reader.volumes()} == {word}
            assert catalog.volumes() == reader.volumes()

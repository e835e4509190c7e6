"""A command imports what it needs and no more: start-up is what people feel."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import ebscrypt
from ebscrypt.catalog.catalog import Catalog
from ebscrypt.model import BackingKind, Volume, VolumeState, new_volume_id, utc_now

SOURCE = Path(ebscrypt.__file__).parents[1]
HEAVY = ("sqlalchemy", "boto3", "botocore", "trio", "pyfuse3", "cryptography", "ebscrypt._core", "starlette", "uvicorn")
PRINT_IMPORTED = """
import sys
from ebscrypt.cli.main import main
try:
    status = main(sys.argv[2:])
except SystemExit as ending:
    status = ending.code
print(*[name for name in sys.argv[1].split(",") if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


def imported_by(tmp_path: Path, *words: str) -> set[str]:
    """The heavy modules that a command has imported when it ends."""
    ran = subprocess.run(
        [sys.executable, "-c", PRINT_IMPORTED, ",".join(HEAVY), *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "EBSCRYPT_STATE_DIR": str(tmp_path / "state")},
    )
    return set(ran.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["create", "--help"], ["attach", "--help"], ["kms", "--help"]]
)
def test_help_imports_nothing_heavy(tmp_path: Path, words: list[str]) -> None:
    """Neither database nor AWS's client nor the core."""
    assert imported_by(tmp_path, *words) == set()


def test_ls_needs_the_catalog_only(tmp_path: Path) -> None:
    """The first one makes the catalog, with SQLAlchemy. No KMS, no core, no loop; those after it not even that."""
    assert imported_by(tmp_path, "ls") == {"sqlalchemy"}
    for words in (["ls"], ["snapshot", "ls"], ["ls", "--output", "json"]):
        assert imported_by(tmp_path, *words) == set()


def cpu_seconds(tmp_path: Path, *command: str) -> float:
    """What a command of this Python costs in CPU time, the best of five."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(SOURCE), "EBSCRYPT_STATE_DIR": str(tmp_path / "state")},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_help_starts_fast(tmp_path: Path) -> None:
    """`ebscrypt --help` needs at most five times what an empty Python needs, in CPU time."""
    assert cpu_seconds(tmp_path, "-m", "ebscrypt.cli.main", "--help") <= 5 * cpu_seconds(tmp_path, "-c", "pass")


def test_ls_of_a_thousand_volumes_is_fast(tmp_path: Path) -> None:
    """At most ten times what an empty Python needs, in CPU time; with SQLAlchemy imported it was thirty times."""
    volume = Volume(
        volume_id=new_volume_id(),
        state=VolumeState.AVAILABLE,
        size=1 << 30,
        backing="/nowhere",
        backing_kind=BackingKind.FILE,
        backing_owned=True,
        encrypted=True,
        create_time=utc_now(),
        tags={"Name": "one of many"},
    )
    with Catalog(tmp_path / "state" / "catalog.db") as catalog:
        catalog.add(volume)
    with closing(sqlite3.connect(tmp_path / "state" / "catalog.db")) as connection, connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(volumes)")]
        copied = [{"volume_id": "printf('vol-%017x', n)", "claim": "n"}.get(name, name) for name in names]
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 999) "  # noqa: S608
            f"INSERT INTO volumes SELECT {', '.join(copied)} FROM numbers, volumes"
        )

    assert cpu_seconds(tmp_path, "-m", "ebscrypt.cli.main", "ls") <= 10 * cpu_seconds(tmp_path, "-c", "pass")

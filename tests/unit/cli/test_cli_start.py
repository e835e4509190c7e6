"""A command imports what it needs and no more: start-up is what people feel."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import ebscrypt

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
    """No KMS, no core, no event loop."""
    assert imported_by(tmp_path, "ls") == {"sqlalchemy"}


def test_help_starts_fast(tmp_path: Path) -> None:
    """`ebscrypt --help` needs at most five times what an empty Python needs, in CPU time, the best of five."""

    def best(*command: str) -> float:
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, *command],
                capture_output=True,
                check=True,
                env=os.environ | {"PYTHONPATH": str(SOURCE), "EBSCRYPT_STATE_DIR": str(tmp_path)},
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    assert best("-m", "ebscrypt.cli.main", "--help") <= 5 * best("-c", "pass")

"""Where the tests of this folder make their volumes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.daemon.bench import Bench


@pytest.fixture(scope="session")
def shared_bench() -> Iterator[Bench]:
    """One state directory for all: making KMS keys takes longer than a test. Short, for the sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="eb-", dir="/tmp"))
    try:
        yield Bench(directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def bench(shared_bench: Bench) -> Iterator[Bench]:
    """Where a test makes its volumes."""
    try:
        yield shared_bench
    finally:
        shared_bench.clear()
        for path in shared_bench.directory.glob("vol-*"):
            path.unlink()

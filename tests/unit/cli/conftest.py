"""`ebscrypt` called in this process, on a state directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ebscrypt.cli.main import main


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command; argparse's own exits count as exit statuses."""
    for name in [name for name in os.environ if name.startswith(("EBSCRYPT_", "AWS_"))]:
        monkeypatch.delenv(name)
    runtime = tempfile.mkdtemp(prefix="ec-", dir="/tmp")
    monkeypatch.setenv("EBSCRYPT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("EBSCRYPT_RUNTIME_DIR", runtime)
    monkeypatch.setenv("EBSCRYPT_CONFIG", os.devnull)
    umask = os.umask(0o022)

    def call(*words: str) -> Ran:
        try:
            status = main(words)
        except SystemExit as ending:
            status = int(ending.code or 0)
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    yield call
    os.umask(umask)
    shutil.rmtree(runtime)

"""What tests of more than one file here begin with."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with 64 random bytes."""
    path = tmp_path / "data.key"
    path.write_bytes(secrets.token_bytes(64))
    return path


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    """A file with a recovery passphrase."""
    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse battery staple")
    return path

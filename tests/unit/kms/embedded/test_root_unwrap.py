"""A volume's key is unwrapped while the root key is sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebscrypt.config import Settings
from ebscrypt.kms.embedded import root_change
from tests.unit.kms.embedded.changing import HOST
from tests.unit.kms.unwrapping import holds


def test_a_data_key_is_unwrapped_under_a_sealed_root_key(
    wrapped: Any, memory: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unwrap process, with the little of the environment that it gets, opens the sealed root key by itself."""
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "host.secret"))
    root_change.seal(settings, HOST)

    wrapped.into(memory)

    assert holds(memory, wrapped.plaintext)

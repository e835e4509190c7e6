"""How long a ClientToken is known."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ebscrypt.api.ec2 import volume_tokens


def test_old_tokens_are_forgotten(tmp_path: Path) -> None:
    """After a week, and not before."""
    for name, age in (("old", 8), ("new", 6)):
        path = tmp_path / f"{name}.json"
        path.touch()
        then = time.time() - age * 24 * 3600
        os.utime(path, (then, then))
    volume_tokens.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]

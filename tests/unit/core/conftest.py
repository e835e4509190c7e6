"""What tests of the core begin with: a key, a backing, and devices on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.core import Device, SecretMemory

SIZE = 8 << 20


@pytest.fixture
def key() -> SecretMemory:
    memory = SecretMemory()
    memory.fill(os.urandom(64))
    return memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "backing"
    path.touch()
    os.truncate(path, SIZE)
    return path


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., Device]]:
    """Opens devices on the backing and closes them."""
    devices: list[Device] = []

    def make(flags: int = 0, **arguments: Any) -> Device:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags)
        try:
            devices.append(Device(fd, **({"size": SIZE} | arguments)))
        finally:
            os.close(fd)
        return devices[-1]

    yield make
    for device in devices:
        device.close()

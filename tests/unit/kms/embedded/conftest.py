"""An embedded KMS that is spoken to without a client, and whose time can be turned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.kms.embedded import backup_file, wrapping
from tests.unit.kms.embedded.speaking import Speaker

_one_pair = functools.cache(wrapping.generate)


@pytest.fixture
def same_wrapping_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a wrapping key takes longer than all the rest of a test: where it is not the point, one is enough."""
    monkeypatch.setattr(wrapping, "generate", _one_pair)


@pytest.fixture
def kms(settings: Settings) -> Iterator[Speaker]:
    """An empty embedded KMS."""
    speaker = Speaker(settings)
    yield speaker
    speaker.close()


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], Speaker]]:
    """Makes empty KMSs on other machines."""
    made: list[Speaker] = []

    def make() -> Speaker:
        paths = msgspec.structs.replace(settings.paths, state=str(tmp_path / f"elsewhere-{len(made)}"))
        made.append(Speaker(msgspec.structs.replace(settings, paths=paths)))
        return made[-1]

    yield make
    for speaker in made:
        speaker.close()


@pytest.fixture
def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups whose passphrases are quick to try, where that is not what a test is about."""
    monkeypatch.setattr(backup_file, "_COST", (14, 8, 1))


@pytest.fixture
def used(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, bytes]:
    """A store with a key in it, closed, and a wrapped data key of that key. systemd's host key is one of this test."""
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "host.secret"))
    speaker = Speaker(settings)
    blob = speaker.wrapped(speaker.key())
    speaker.close()
    return settings, blob

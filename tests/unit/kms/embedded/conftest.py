"""An embedded KMS that is spoken to without a client, and whose time can be turned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ebscrypt.config import Settings
from tests.unit.kms.embedded.speaking import Speaker


@pytest.fixture
def kms(settings: Settings) -> Iterator[Speaker]:
    """An empty embedded KMS."""
    speaker = Speaker(settings)
    yield speaker
    speaker.close()

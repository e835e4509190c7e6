"""What is looked at while the root key of an embedded KMS moves and changes."""

from __future__ import annotations

from ebscrypt.config import Settings
from ebscrypt.kms.embedded.root_change import Sealing
from tests.unit.kms.embedded.speaking import Speaker

HOST = Sealing(with_key="host")


def opens(settings: Settings, blob: bytes) -> bool:
    """Whether a new process's KMS opens the blob; raises what it raises."""
    speaker = Speaker(settings)
    try:
        return len(speaker.opened(blob)) == 64
    finally:
        speaker.close()


def names(settings: Settings) -> set[str]:
    """The files in the KMS's directory."""
    return {path.name for path in settings.kms_dir.iterdir()}

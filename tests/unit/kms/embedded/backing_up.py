"""Backups of embedded KMSs, and what tests put into them first."""

from __future__ import annotations

from ebscrypt.kms.embedded import backup
from ebscrypt.kms.embedded.backup import Imported
from tests.unit.kms.embedded.importing import FOREVER, parameters
from tests.unit.kms.embedded.speaking import DAY, Speaker

PASSPHRASE = b"a passphrase"


def export(speaker: Speaker) -> bytes:
    """The file of a backup of everything."""
    return backup.export(speaker.kms.open(), PASSPHRASE, now=speaker.now).file


def restore(speaker: Speaker, file: bytes, *, restore_deleted: bool = False) -> Imported:
    """Import it, at the speaker's time."""
    return backup.restore(speaker.kms.open(), file, PASSPHRASE, restore_deleted=restore_deleted, now=speaker.now)


def external(speaker: Speaker, secret: bytes) -> str:
    """The ARN of a key with imported material."""
    key = speaker.key(Origin="EXTERNAL")
    speaker.say("ImportKeyMaterial", **parameters(speaker, key, secret), **FOREVER)
    return key


def gone(speaker: Speaker, key: str) -> None:
    """Let a key be deleted, and its time pass."""
    speaker.say("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    speaker.now += 8 * DAY
    speaker.say("ListKeys")

"""What is known of the KMS key of an attached volume that is watched: ``watch.json`` in its runtime directory.

It goes with the attachment. What the volume's users may do is the daemon's to know; here is what they were told of it.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import NamedTuple

import msgspec

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.model import Access


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks so far have found. ``usable`` is the last certain answer, None before the first one.

    ``unknown_since`` is set while KMS gives none (``unknown_cause`` says why). ``access`` is what the volume was
    changed to on account of its key, as an event told; None where nothing was. ``failed`` is why it could not be.
    """

    checked: datetime
    usable: bool | None = None
    since: datetime | None = None
    cause: str = ""
    unknown_since: datetime | None = None
    unknown_cause: str = ""
    access: Access | None = None
    failed: str = ""


def read_record(settings: Settings, volume_id: str) -> KeyRecord | None:
    """What is known, None before the first check."""
    try:
        return msgspec.json.decode((settings.runtime_dir(volume_id) / "watch.json").read_bytes(), type=KeyRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_record(settings: Settings, volume_id: str, record: KeyRecord) -> None:
    """Replace what is known. Nothing where the volume has just been detached."""
    with contextlib.suppress(FileNotFoundError):
        durable.write_file(settings.runtime_dir(volume_id) / "watch.json", msgspec.json.encode(record))


def forget_record(settings: Settings, volume_id: str) -> None:
    """Nothing is known any more: the volume is not watched from now on."""
    (settings.runtime_dir(volume_id) / "watch.json").unlink(missing_ok=True)


class Watched(NamedTuple):
    """How an attached volume is watched: whether the watch is there, and what its checks have found so far."""

    running: bool
    record: KeyRecord | None

"""What `show` tells of a volume whose KMS key is watched: what users may do, and what is known of the key."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ebscrypt.control.key_record import KeyRecord
from ebscrypt.control.runtime import Attached
from ebscrypt.model import Access, OnKeyUnusable, Volume, VolumeState


def record(attached: Attached) -> dict[str, Any]:
    """The members of an attachment's record that are about its key; without a watch only what users may do."""
    known = None if attached.watched is None else attached.watched.record
    about: dict[str, Any] = {"Access": _access(attached).value}
    if attached.watched is not None:
        about["KeyWatch"] = {"Running": attached.watched.running} | ({} if known is None else _known(known))
    return about


def fields(volume: Volume, attached: Attached | None) -> dict[str, str | None]:
    """The lines of `show`; of a volume that is not attached, what will be done if it is not to be ignored."""
    if attached is None or attached.watched is None or attached.attachment is None:
        mode = volume.on_key_unusable
        if mode is OnKeyUnusable.IGNORE or volume.state is VolumeState.ERROR:
            return {}
        return {"if unusable": f"{mode}, while it is attached"}
    known = attached.watched.record
    access = _access(attached)
    return {
        "access": access.value + (f" ({known.cause})" if known is not None and known.access is not None else ""),
        "its key": "not tried yet" if known is None else _told(known),
        "if unusable": volume.on_key_unusable.value
        + ("" if attached.watched.running else ", but no watch is running: the next command starts one"),
    }


def _access(attached: Attached) -> Access:
    if attached.watched is not None and attached.watched.record is not None and attached.watched.record.access:
        return attached.watched.record.access
    is_read_only = attached.attachment is not None and attached.attachment.read_only
    return Access.READ_ONLY if is_read_only else Access.READ_WRITE


def _known(known: KeyRecord) -> dict[str, Any]:
    return {
        "Checked": _time(known.checked),
        "Usable": known.usable,
        "Since": _time(known.since),
        "Cause": known.cause or None,
        "UnknownSince": _time(known.unknown_since),
        "UnknownCause": known.unknown_cause or None,
        "Failed": known.failed or None,
    }


def _told(known: KeyRecord) -> str:
    certain = {True: "usable", False: "unusable", None: "not known"}[known.usable]
    told = certain if known.since is None else f"{certain} since {_time(known.since)}"
    if known.cause and known.access is None:
        told += f": {known.cause}"
    if known.unknown_since is not None:
        told += f"; unknown since {_time(known.unknown_since)}: {known.unknown_cause}"
    if known.failed:
        told += f"; {known.failed}"
    return told


def _time(time: datetime | None) -> str | None:
    from ebscrypt.cli.output import timestamp  # noqa: PLC0415 - it imports us

    return None if time is None else timestamp(time)

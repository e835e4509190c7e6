"""What `show` tells of a volume whose KMS key is watched."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from ebscrypt.cli import key_watch, output
from ebscrypt.control.key_record import KeyRecord, Watched
from ebscrypt.control.runtime import Attached
from ebscrypt.model import (
    Access,
    Attachment,
    AttachmentState,
    BackingKind,
    ExportKind,
    OnKeyUnusable,
    Volume,
    VolumeState,
)

THEN = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
VOLUME = Volume(
    volume_id="vol-0123456789abcdef0",
    state=VolumeState.IN_USE,
    size=1 << 30,
    backing="/b",
    backing_kind=BackingKind.FILE,
    backing_owned=True,
    encrypted=True,
    create_time=THEN,
    on_key_unusable=OnKeyUnusable.SUSPEND,
)


def attached(record: KeyRecord | None, *, running: bool = True, read_only: bool = False) -> Attached:
    attachment = Attachment(
        volume_id=VOLUME.volume_id,
        pid=1,
        pid_start=1,
        export=ExportKind.SOCKET,
        device="d",
        backing="/b",
        size=1 << 30,
        read_only=read_only,
        key_memory=None,
        attach_time=THEN,
    )
    return Attached(AttachmentState.ATTACHED, attachment, Watched(running, record))


def test_a_suspended_volume_says_why_and_since_when() -> None:
    """Access with KMS's words, the key's state with its time, and what the mode is."""
    record = KeyRecord(checked=THEN, usable=False, since=THEN, cause="K is disabled.", access=Access.SUSPENDED)

    assert key_watch.fields(VOLUME, attached(record)) == {
        "access": "suspended (K is disabled.)",
        "its key": "unusable since 2026-11-23T20:00:00.000Z",
        "if unusable": "suspend",
    }


def test_silence_of_kms_is_told_beside_what_was_known() -> None:
    """Since when nothing is known, and why."""
    record = KeyRecord(checked=THEN, usable=True, since=THEN, unknown_since=THEN, unknown_cause="KMS is away.")

    told = key_watch.fields(VOLUME, attached(record))["its key"]

    assert told == "usable since 2026-11-23T20:00:00.000Z; unknown since 2026-11-23T20:00:00.000Z: KMS is away."


def test_a_failed_action_is_told() -> None:
    """The key is unusable, and nothing could be done about it yet."""
    record = KeyRecord(checked=THEN, usable=False, since=THEN, cause="K is disabled.", failed="it is swap space")

    told = key_watch.fields(VOLUME, attached(record))

    assert told["access"] == "read-write"
    assert told["its key"] == "unusable since 2026-11-23T20:00:00.000Z: K is disabled.; it is swap space"


def test_a_missing_watch_is_told() -> None:
    """And that the next command sees to it."""
    told = key_watch.fields(VOLUME, attached(None, running=False))

    assert told["its key"] == "not tried yet"
    assert told["if unusable"] == "suspend, but no watch is running: the next command starts one"


@pytest.mark.parametrize(("read_only", "access"), [(False, "read-write"), (True, "read-only")])
def test_access_of_a_volume_that_is_not_watched(*, read_only: bool, access: str) -> None:
    """What it was attached for; nothing is said of its key."""
    one = attached(None, read_only=read_only)._replace(watched=None)
    ignoring = msgspec.structs.replace(VOLUME, on_key_unusable=OnKeyUnusable.IGNORE)

    assert key_watch.record(one) == {"Access": access}
    assert key_watch.fields(ignoring, one) == {}


@pytest.mark.parametrize("mode", list(OnKeyUnusable))
def test_a_volume_that_is_not_attached_has_its_mode(mode: OnKeyUnusable) -> None:
    """What will be done is told before it is attached; to ignore is what EBS does, and is not worth a line."""
    volume = msgspec.structs.replace(VOLUME, on_key_unusable=mode, state=VolumeState.AVAILABLE)

    told = output.volume_fields(volume, None).get("if unusable")

    assert told == (None if mode is OnKeyUnusable.IGNORE else f"{mode.value}, while it is attached")
    failed = msgspec.structs.replace(volume, state=VolumeState.ERROR)
    assert "if unusable" not in output.volume_fields(failed, None)

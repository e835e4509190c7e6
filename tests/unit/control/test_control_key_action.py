"""`turn`: what follows from each verdict, told in order, finished after a crash, and never done twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from ebscrypt.control import faultpoints, key_check
from ebscrypt.control.key_action import lift, turn
from ebscrypt.control.key_check import Verdict
from ebscrypt.control.key_record import read_record
from ebscrypt.control.site import Site
from ebscrypt.errors import DaemonError, KmsKeyDisabled
from ebscrypt.model import Access, OnKeyUnusable, Volume
from tests.unit.control.served import served

CAUSE = "KEYARN is disabled."
GONE = Verdict(False, CAUSE)
BACK = Verdict(usable=True)
SILENCE = Verdict(None, "KMS cannot be reached.")

Say = Callable[..., None]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Let KMS give this verdict, or raise, from now on."""

    def set_verdict(verdict: Verdict) -> None:
        monkeypatch.setattr(key_check, "check_key", lambda *_, **__: verdict)

    return set_verdict


@pytest.fixture(autouse=True)
def no_kms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unwrap process would not find this site's KMS: nothing is unwrapped here."""
    import ebscrypt.kms.unwrap  # noqa: PLC0415 - its one use

    monkeypatch.setattr(ebscrypt.kms.unwrap, "unwrap_key", lambda *_, **__: [])


def told(site: Site) -> list[tuple[str, str, str]]:
    """The key's events: what, result, cause."""
    details = [event["detail"] for _, event in site.catalog.events() if event["source"] == "ebscrypt"]
    return [(detail["event"], detail["result"], detail["cause"]) for detail in details]


def turns(site: Site, volume: Volume, count: int = 1) -> list[bool]:
    return [turn(site, volume.volume_id) for _ in range(count)]


LIMITS = [
    pytest.param(OnKeyUnusable.READ_ONLY, Access.READ_ONLY, ["set_access read-only"], id="read-only"),
    pytest.param(OnKeyUnusable.SUSPEND, Access.SUSPENDED, ["suspend"], id="suspend"),
]


@pytest.mark.parametrize(("mode", "access", "asked"), LIMITS)
def test_an_unusable_key_limits_the_volume_once(
    site: Site, volume: Volume, say: Say, *, mode: OnKeyUnusable, access: Access, asked: list[str]
) -> None:
    """However often it is found unusable; and its return takes that back once."""
    with served(site, volume, mode) as daemon:
        say(GONE)
        assert turns(site, volume, 3) == [False] * 3
        assert daemon.asked == asked
        assert daemon.access is access
        say(BACK)
        turns(site, volume, 3)
        assert daemon.access is Access.READ_WRITE

    assert len(daemon.asked) == 2
    assert told(site) == [
        ("checkKey", "unusable", CAUSE),
        ("changeAccess", access.value, CAUSE),
        ("checkKey", "usable", ""),
        ("changeAccess", "read-write", ""),
    ]


def test_a_key_that_always_works_is_no_event(site: Site, volume: Volume, say: Say) -> None:
    """The first check only notes since when it is known; `show` has that."""
    say(BACK)
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        turns(site, volume, 3)

    assert daemon.asked == []
    assert told(site) == []
    record = read_record(site.settings, volume.volume_id)
    assert record is not None
    assert record.usable is True
    assert record.since is not None


@pytest.mark.parametrize("before", [GONE, BACK], ids=["unusable", "usable"])
def test_silence_changes_nothing(site: Site, volume: Volume, say: Say, before: Verdict) -> None:
    """Neither towards unusable nor back; it is remembered since when nothing is known, until KMS speaks again."""
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        say(before)
        turns(site, volume)
        asked, events = list(daemon.asked), told(site)
        say(SILENCE)
        turns(site, volume)
        first = read_record(site.settings, volume.volume_id)
        turns(site, volume)
        second = read_record(site.settings, volume.volume_id)
        assert (daemon.asked, told(site)) == (asked, events)
        say(before)
        turns(site, volume)
        assert (daemon.asked, told(site)) == (asked, events)

    assert first is not None
    assert second is not None
    assert second.unknown_since == first.unknown_since is not None
    assert second.unknown_cause == SILENCE.cause
    assert second.usable is before.usable
    last = read_record(site.settings, volume.volume_id)
    assert last is not None
    assert last.unknown_since is None


def test_detach_is_asked_for_and_not_done_here(site: Site, volume: Volume, say: Say) -> None:
    """By a process that outlives the watch; as long as the volume is there, each turn asks again."""
    say(GONE)
    with served(site, volume, OnKeyUnusable.DETACH) as daemon:
        assert turns(site, volume, 2) == [True, True]

    assert daemon.asked == []
    assert told(site) == [("checkKey", "unusable", CAUSE)]


def test_an_attachment_that_is_read_only_stays_so(site: Site, volume: Volume, say: Say) -> None:
    """There is nothing to limit and nothing to take back."""
    with served(site, volume, OnKeyUnusable.READ_ONLY, read_only=True) as daemon:
        daemon.access = Access.READ_ONLY
        for verdict in (GONE, GONE, BACK):
            say(verdict)
            turns(site, volume)

    assert daemon.asked == []
    assert told(site) == [("checkKey", "unusable", CAUSE), ("checkKey", "usable", "")]


def test_a_failed_flush_is_told_with_the_suspension(site: Site, volume: Volume, say: Say) -> None:
    """The volume is suspended all the same; what may be lost is said."""
    say(GONE)
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        daemon.flushed = False
        turns(site, volume)

    assert told(site)[-1][:2] == ("changeAccess", "suspended")
    assert "The last flush failed" in told(site)[-1][2]


def test_what_fails_is_tried_again_and_told_once(site: Site, volume: Volume, say: Say) -> None:
    """One event for one reason; when it works in the end, that is told."""
    say(GONE)
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        daemon.fails = {"suspend"}
        for _ in range(3):
            with pytest.raises(DaemonError, match="no suspend"):
                turns(site, volume)
        daemon.fails = set()
        turns(site, volume)

    assert told(site) == [
        ("checkKey", "unusable", CAUSE),
        ("changeAccess", "failed", "no suspend"),
        ("changeAccess", "suspended", CAUSE),
    ]
    record = read_record(site.settings, volume.volume_id)
    assert record is not None
    assert record.failed == ""


@pytest.mark.parametrize("verdict", [GONE, BACK], ids=["unusable", "usable"])
@pytest.mark.parametrize("point", ["watch.told", "watch.acted"])
def test_a_turn_that_is_killed_is_finished_by_the_next(
    site: Site, volume: Volume, say: Say, monkeypatch: pytest.MonkeyPatch, *, point: str, verdict: Verdict
) -> None:
    """Each event is there, at most one of them twice, and the volume is as the verdict wants it."""

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        if verdict is BACK:
            say(GONE)
            turns(site, volume)
        before = len(told(site))
        say(verdict)
        monkeypatch.setattr(faultpoints, "reach", kill)
        with pytest.raises(Killed):
            turns(site, volume)
        monkeypatch.setattr(faultpoints, "reach", lambda _: None)
        turns(site, volume, 2)

    wanted = Access.SUSPENDED if verdict is GONE else Access.READ_WRITE
    assert daemon.access is wanted
    events = [event[:2] for event, _same in itertools.groupby(told(site)[before:])]
    assert events == [("checkKey", "unusable" if verdict is GONE else "usable"), ("changeAccess", wanted.value)]


def test_a_volume_that_is_not_attached_has_no_turn(site: Site, volume: Volume, say: Say) -> None:
    """KMS is not asked, and nothing is written."""
    say(GONE)

    assert turn(site, volume.volume_id) is False
    assert not site.settings.runtime_dir(volume.volume_id).exists()


def test_a_resume_that_kms_refuses_leaves_it_suspended(
    site: Site, volume: Volume, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key may go again between the check and the unwrapping: that is told, and tried again."""
    import ebscrypt.kms.unwrap  # noqa: PLC0415 - its one use

    def refuse(*_: Any, **__: Any) -> None:
        raise KmsKeyDisabled("KMS refused Decrypt")

    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        say(GONE)
        turns(site, volume)
        say(BACK)
        monkeypatch.setattr(ebscrypt.kms.unwrap, "unwrap_key", refuse)
        with pytest.raises(KmsKeyDisabled):
            turns(site, volume)
        assert daemon.access.value == "suspended"
        monkeypatch.undo()
        monkeypatch.setattr(ebscrypt.kms.unwrap, "unwrap_key", lambda *_, **__: [])
        monkeypatch.setattr(key_check, "check_key", lambda *_, **__: BACK)
        turns(site, volume)

    assert daemon.access is Access.READ_WRITE
    assert told(site)[-1] == ("changeAccess", "read-write", "")


def test_lift_takes_it_back_and_says_so(site: Site, volume: Volume, say: Say) -> None:
    """When the volume is not to be watched any more: the event has the reason, and nothing is remembered."""
    say(GONE)
    with served(site, volume, OnKeyUnusable.READ_ONLY) as daemon:
        turns(site, volume)
        lift(site, volume.volume_id)
        assert daemon.access is Access.READ_WRITE

    assert told(site)[-1] == ("changeAccess", "read-write", "on-key-unusable was set to ignore")
    assert read_record(site.settings, volume.volume_id) is None


def test_another_command_is_not_disturbed(site: Site, volume: Volume, say: Say) -> None:
    """While a volume is being detached there is nothing to check: the lock's holder says so."""
    from ebscrypt.control import locks  # noqa: PLC0415 - its one use

    say(GONE)
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon, locks.held(site.settings, volume.volume_id, "detach"):
        assert turn(site, volume.volume_id) is False

    assert daemon.asked == []

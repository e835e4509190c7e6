"""`modify_volume`: the mode in the catalog, in the spec and in the watch, and what a crash between them leaves."""

from __future__ import annotations

import pytest

from ebscrypt.catalog.events import VolumeEvent
from ebscrypt.control import faultpoints, key_action, runtime, watch
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.modify import modify_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.settled import is_watch_settled
from ebscrypt.control.site import Site
from ebscrypt.errors import KmsKeyDisabled, MissingDependency, StateError
from ebscrypt.model import MIB, Access, OnKeyUnusable, Volume, VolumeState
from tests.unit.control.served import served

MODES = list(OnKeyUnusable)


class Watch:
    """Stands for the watch's process: whether it runs, and how often it was started."""

    def __init__(self) -> None:
        self.runs = False
        self.starts = 0

    def start(self, *_: object) -> None:
        self.runs = True
        self.starts += 1

    def stop(self, *_: object) -> None:
        self.runs = False


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """No process is started here."""
    one = Watch()
    monkeypatch.setattr(watch, "start", one.start)
    monkeypatch.setattr(watch, "stop", one.stop)
    monkeypatch.setattr(watch, "is_watched", lambda *_: one.runs)
    return one


def spec_mode(site: Site, volume: Volume) -> OnKeyUnusable:
    return runtime.directory(site.settings, volume.volume_id).read_spec().on_key_unusable


@pytest.mark.parametrize("mode", MODES)
def test_a_detached_volume_only_remembers_it(site: Site, volume: Volume, process: Watch, mode: OnKeyUnusable) -> None:
    """The next attachment will have it; nothing is started now."""
    assert modify_volume(site, volume.volume_id, on_key_unusable=mode).on_key_unusable is mode
    assert site.catalog.volume(volume.volume_id).on_key_unusable is mode
    assert process.starts == 0


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode is not OnKeyUnusable.IGNORE])
def test_a_plain_volume_has_no_key_to_watch(site: Site, plain_volume: Volume, mode: OnKeyUnusable) -> None:
    """Refused by `modify` and by `create`, which leaves nothing; ignore is what it has anyway."""
    with pytest.raises(MissingDependency, match="needs an encrypted volume"):
        modify_volume(site, plain_volume.volume_id, on_key_unusable=mode)
    with pytest.raises(MissingDependency, match="needs an encrypted volume"):
        create_volume(site, VolumeRequest(size=8 * MIB, encrypted=False, on_key_unusable=mode))

    modify_volume(site, plain_volume.volume_id, on_key_unusable=OnKeyUnusable.IGNORE)
    assert site.catalog.volumes() == [plain_volume]


def test_a_new_volume_has_the_mode_it_was_made_with(site: Site) -> None:
    """And ignore, EBS's own behaviour, where nothing was said."""
    asked = create_volume(site, VolumeRequest(size=8 * MIB, on_key_unusable=OnKeyUnusable.SUSPEND))
    plain = create_volume(site, VolumeRequest(size=8 * MIB))

    assert site.catalog.volume(asked.volume_id).on_key_unusable is OnKeyUnusable.SUSPEND
    assert plain.on_key_unusable is OnKeyUnusable.IGNORE


@pytest.mark.parametrize("old", MODES)
@pytest.mark.parametrize("new", MODES)
def test_an_attached_volume_has_it_at_once(
    site: Site, volume: Volume, process: Watch, *, old: OnKeyUnusable, new: OnKeyUnusable
) -> None:
    """Catalog, spec and watch agree, whatever it was before; where there is a watch it is a new one, which checks."""
    with served(site, volume, old):
        process.runs = old is not OnKeyUnusable.IGNORE
        modify_volume(site, volume.volume_id, on_key_unusable=new)

    assert site.catalog.volume(volume.volume_id).on_key_unusable is new
    assert spec_mode(site, volume) is new
    assert process.runs is (new is not OnKeyUnusable.IGNORE)
    assert process.starts == (new is not OnKeyUnusable.IGNORE)


def test_ignore_lets_a_read_only_volume_be_written_again(site: Site, volume: Volume) -> None:
    """It needs no key for that."""
    with served(site, volume, OnKeyUnusable.READ_ONLY) as daemon:
        daemon.access = Access.READ_ONLY
        modify_volume(site, volume.volume_id, on_key_unusable=OnKeyUnusable.IGNORE)

    assert daemon.access is Access.READ_WRITE


def test_a_suspended_volume_cannot_become_read_only(site: Site, volume: Volume) -> None:
    """Reads need the key that was wiped; the way out is said, and nothing has changed."""
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        daemon.access = Access.SUSPENDED
        with pytest.raises(StateError, match="cannot become read-only") as refused:
            modify_volume(site, volume.volume_id, on_key_unusable=OnKeyUnusable.READ_ONLY)

    assert "detach the volume" in (refused.value.hint or "")
    assert site.catalog.volume(volume.volume_id).on_key_unusable is OnKeyUnusable.SUSPEND
    assert spec_mode(site, volume) is OnKeyUnusable.SUSPEND


def test_an_attachment_whose_daemon_died_is_refused(site: Site, volume: Volume) -> None:
    """What becomes of it is to be said first."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    with pytest.raises(StateError, match="has died"):
        modify_volume(site, volume.volume_id, on_key_unusable=OnKeyUnusable.SUSPEND)


@pytest.mark.parametrize(
    ("new", "point"),
    [
        (OnKeyUnusable.IGNORE, "modify.lifted"),
        (OnKeyUnusable.IGNORE, "modify.applied"),
        (OnKeyUnusable.IGNORE, "modify.done"),
        (OnKeyUnusable.SUSPEND, "modify.noted"),
        (OnKeyUnusable.SUSPEND, "modify.done"),
    ],
)
def test_a_crash_leaves_one_mode_everywhere(
    site: Site, volume: Volume, process: Watch, monkeypatch: pytest.MonkeyPatch, *, new: OnKeyUnusable, point: str
) -> None:
    """Whichever it is, after the next command catalog, spec and watch agree on it."""

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    with served(site, volume, OnKeyUnusable.READ_ONLY):
        process.runs = True
        monkeypatch.setattr(faultpoints, "reach", kill)
        with pytest.raises(Killed):
            modify_volume(site, volume.volume_id, on_key_unusable=new)
        monkeypatch.setattr(faultpoints, "reach", lambda _: None)
        recover(site)

    mode = site.catalog.volume(volume.volume_id).on_key_unusable
    assert spec_mode(site, volume) is mode
    assert process.runs is (mode is not OnKeyUnusable.IGNORE)
    assert site.notes == []


def test_a_dead_watch_is_started_by_the_next_command(site: Site, volume: Volume, process: Watch) -> None:
    """Once, and only for a volume that is served and to be watched."""
    recover(site)
    with served(site, volume, OnKeyUnusable.DETACH):
        recover(site)
        recover(site)

    assert process.starts == 1


def test_a_volume_that_is_not_watched_costs_nothing(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its spec is not even looked at."""
    with served(site, volume, OnKeyUnusable.IGNORE):
        monkeypatch.setattr(runtime, "directory", lambda *_: pytest.fail("looked at"))
        assert is_watch_settled(site, site.catalog.volume(volume.volume_id))


def test_key_events_are_no_ebs_events(site: Site) -> None:
    """Nothing that a pattern for EBS's own events names: neither source nor detail-type nor event."""
    from ebscrypt.catalog import events, key_events  # noqa: PLC0415 - their one use

    record = key_events.key_event(
        key_events.KeyEvent.CHECK_KEY,
        "unusable",
        volume_id="vol-0123456789abcdef0",
        region="eu-central-1",
        account="111122223333",
        mode=OnKeyUnusable.SUSPEND,
        cause="KEYARN is disabled.",
        key_arn="KEYARN",
    )

    theirs = site.event(VolumeEvent.ATTACH, "failed", "vol-0123456789abcdef0", key_arn="KEYARN")
    assert record["source"] != events.SOURCE
    assert record["detail-type"] != events.DETAIL_TYPE
    assert record["detail"]["event"] not in set(VolumeEvent)
    assert record.keys() == theirs.keys()
    assert record["resources"] == theirs["resources"]
    assert record["detail"].items() >= {"on-key-unusable": "suspend", "cause": "KEYARN is disabled."}.items()


def test_an_ignore_that_is_refused_leaves_the_watch(
    site: Site, volume: Volume, process: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suspended volume needs its key for that: it has its old mode, and is resumed when the key is back."""

    def refuse(*_: object) -> None:
        raise KmsKeyDisabled("KMS refused Decrypt")

    monkeypatch.setattr(key_action, "lift", refuse)
    with served(site, volume, OnKeyUnusable.SUSPEND):
        process.runs = True
        with pytest.raises(KmsKeyDisabled):
            modify_volume(site, volume.volume_id, on_key_unusable=OnKeyUnusable.IGNORE)

    assert site.catalog.volume(volume.volume_id).on_key_unusable is OnKeyUnusable.SUSPEND
    assert process.runs

"""`start_copy`: copies that nobody waits for. Here the process that makes them is this one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import RegionSettings, Settings
from ebscrypt.control import copy_snapshot as module
from ebscrypt.control import snapshot_source, storing
from ebscrypt.control.copy_blocks import BlockCopier
from ebscrypt.control.copy_snapshot import CopyRequest
from ebscrypt.control.recover import recover
from ebscrypt.control.regions import site_of
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot
from ebscrypt.control.start_copy import start_copy
from ebscrypt.errors import CopyLimit, SnapshotNotFound, StateError
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import open_store
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import At
from tests.unit.control.storing_inline import Started

pytestmark = pytest.mark.usefixtures("unwraps_here")
ELSEWHERE = "eu-west-1"


class KilledError(BaseException):
    """In place of kill -9."""


@contextlib.contextmanager
def killed() -> Iterator[None]:
    """The process dies within, and takes nothing back."""
    with pytest.MonkeyPatch.context() as dead:
        dead.setattr(module, "undo_copy", lambda *_, **__: None)
        dead.setattr(snapshot_source, "_release", lambda *_: None)
        dead.setattr(BlockCopier, "release", lambda _: None)
        with pytest.raises(KilledError):
            yield


def die() -> None:
    raise KilledError


def test_it_is_pending_at_first_and_made_as_any_copy(site: Site, request_other: CopyRequest) -> None:
    """What is answered is the row as it was entered; what is made has the source's blocks under the other key."""
    answered = start_copy(site, msgspec.structs.replace(request_other, description="off", tags={"a": "b"}))

    assert answered.state is SnapshotState.PENDING
    copy = site.catalog.snapshots.get(answered.snapshot_id)
    assert (copy.state, copy.kms_key_arn) == (SnapshotState.COMPLETED, request_other.kms_key_id)
    assert (copy.description, copy.tags) == ("off", {"a": "b"})
    assert contents.read_snapshot(site, copy) == contents.expected()
    assert contents.last_event(site)["detail"]["result"] == "succeeded"


@pytest.mark.parametrize("point", ["copy.asked", "copy.wrapped", "copy.moved", "copy.published"])
def test_where_its_process_died_another_goes_on(site: Site, request_other: CopyRequest, at: At, point: str) -> None:
    """Unlike a copy whose command died: whoever asked for this one was told that it will be made."""
    at(point, die)
    with killed():
        start_copy(site, request_other)
    [left] = site.catalog.snapshots.list(SnapshotState.PENDING)

    recover(site)

    copy = site.catalog.snapshots.get(left.snapshot_id)
    assert copy.state is SnapshotState.COMPLETED
    assert contents.read_snapshot(site, copy) == contents.expected()
    assert contents.pins_in(site) == []


def test_a_key_that_cannot_be_used_is_told_by_the_copy(site: Site, request_other: CopyRequest) -> None:
    """In EC2's words, and then in ours; nobody else works on it then."""
    site.kms.call("DisableKey", KeyId=request_other.kms_key_id)

    answered = start_copy(site, request_other)

    copy = site.catalog.snapshots.get(answered.snapshot_id)
    assert copy.state is SnapshotState.ERROR
    assert copy.state_message is not None
    assert copy.state_message.startswith("Given key ID is not accessible: ")
    assert "is disabled" in copy.state_message
    assert contents.last_event(site)["detail"]["result"] == "failed"
    assert site.catalog.snapshots.unsettled() == []


def test_a_source_that_is_gone_before_it_began(
    site: Site, source: Snapshot, request_other: CopyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy ends in ``error``, naming what is missing."""
    with monkeypatch.context() as patch:
        started = Started(patch)
        answered = start_copy(site, request_other)
        delete_snapshot(site, source.snapshot_id)
    assert started.snapshot_ids == [answered.snapshot_id]

    storing.settle_snapshot(site, answered.snapshot_id)

    copy = site.catalog.snapshots.get(answered.snapshot_id)
    assert copy.state is SnapshotState.ERROR
    assert source.snapshot_id in str(copy.state_message)


def test_one_that_is_deleted_before_it_began_is_gone(
    site: Site, request_other: CopyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process finds nothing to do."""
    Started(monkeypatch)
    answered = start_copy(site, request_other)
    delete_snapshot(site, answered.snapshot_id)
    storing.settle_snapshot(site, answered.snapshot_id)
    with pytest.raises(SnapshotNotFound):
        site.catalog.snapshots.get(answered.snapshot_id)


def test_twenty_at_once_are_allowed(site: Site, request_other: CopyRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """EBS's limit of one destination Region, told before there is a twenty-first."""
    Started(monkeypatch)
    for _ in range(20):
        start_copy(site, request_other)
    with pytest.raises(CopyLimit):
        start_copy(site, request_other)
    assert len(site.catalog.snapshots.list(SnapshotState.PENDING)) == 20


def test_where_no_process_can_be_started_the_next_command_tries(
    site: Site, request_other: CopyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is entered, so it is no failure: who asked again would have two."""

    def fail(_: Site, __: str) -> None:
        raise StateError("nothing can be started")

    with monkeypatch.context() as patch:
        patch.setattr(storing, "start_storing", fail)
        answered = start_copy(site, request_other)
    assert "nothing can be started" in site.notes
    recover(site)
    assert site.catalog.snapshots.get(answered.snapshot_id).state is SnapshotState.COMPLETED


class TestFromAnotherRegion:
    """The source's site is opened again by the process that makes the copy."""

    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        file = tmp_path / "elsewhere.toml"
        file.write_text(
            f'[paths]\nstate = "{settings.paths.state}/elsewhere"\nruntime = "{settings.paths.runtime}/elsewhere"\n'
            f'[kms]\nregion = "{ELSEWHERE}"\naccount = "111122223333"\n'
        )
        return msgspec.structs.replace(settings, regions=RegionSettings(files={ELSEWHERE: str(file)}))

    def test_it_goes_on_there_too(self, site: Site, at: At) -> None:
        """After a death in the middle; nothing stays pinned at the source."""
        with site_of(site, ELSEWHERE) as elsewhere:
            source = contents.snapshot_of(elsewhere, contents.filled_volume(elsewhere, "alias/aws/ebs"))
            at("copy.moved", die)
            with killed():
                start_copy(site, CopyRequest(source_snapshot_id=source.snapshot_id), source_site=elsewhere)
            recover(site)

            [copy] = site.catalog.snapshots.list(SnapshotState.COMPLETED)
            assert contents.read_snapshot(site, copy) == contents.expected()
            assert contents.pins_in(site) == contents.pins_in(elsewhere) == []
            with contextlib.closing(open_store(site.settings)) as store:
                assert list(store.list_manifests()) == [copy.snapshot_id]

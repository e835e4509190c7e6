"""StartSnapshot: what is refused, which key it gets, its token, its parent, and its end when no block comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.control import faultpoints, storing, upload
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.defaults import enable_ebs_encryption_by_default, modify_ebs_default_kms_key_id
from ebscrypt.control.direct import DirectAccess
from ebscrypt.control.put_snapshot_block import complete_snapshot
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot, sweep_store
from ebscrypt.control.start_snapshot import StartRequest, start_snapshot
from ebscrypt.errors import (
    ClientTokenReused,
    EbscryptError,
    InvalidBlockRequest,
    InvalidCombination,
    KmsKeyDisabled,
    SnapshotNotFound,
    StoreUnreachable,
)
from ebscrypt.model import GIB, Snapshot, SnapshotState
from ebscrypt.stores.names import BLOCK_SIZE
from ebscrypt.stores.store import Store
from tests.unit.control.direct import uploads
from tests.unit.control.direct.uploads import ZEROS, data
from tests.unit.control.disks import disabled_key
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import manifest_of
from tests.unit.control.storing_inline import age


class PowerCut(BaseException):
    """The process ends here."""


@pytest.fixture
def cut_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the process end at a fault point, the first time."""

    def register(point: str) -> None:
        waiting = [point]

        def reach(name: str) -> None:
            if name in waiting:
                waiting.clear()
                raise PowerCut

        monkeypatch.setattr(faultpoints, "reach", reach)

    return register


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"volume_size": 0}, "INVALID_VOLUME_SIZE"),
        ({"volume_size": 65537}, "INVALID_VOLUME_SIZE"),
        ({"timeout": 9}, "INVALID_PARAMETER_VALUE"),
        ({"timeout": 4321}, "INVALID_PARAMETER_VALUE"),
        ({"tags": {"aws:x": "1"}}, "INVALID_TAG"),
        ({"kms_key_arn": "alias/aws/ebs"}, "INVALID_CUSTOMER_KEY"),
        ({"kms_key_arn": "arn:aws:kms:eu-central-1:111122223333:alias/aws/ebs"}, "INVALID_CUSTOMER_KEY"),
    ],
)
def test_what_ebs_refuses_is_refused_with_its_reason(site: Site, request_: dict[str, Any], reason: str) -> None:
    """And nothing is made."""
    with pytest.raises(InvalidBlockRequest) as caught:
        uploads.start(site, **request_)
    assert caught.value.reason == reason
    assert site.catalog.snapshots.list() == []


def test_the_key_is_the_one_that_the_table_says(site: Site, new_key: str) -> None:
    """Named, default, or none; the table itself is tested cell by cell elsewhere."""
    assert uploads.start(site).kms_key_arn is None
    assert uploads.start(site, kms_key_arn=new_key).kms_key_arn == new_key
    managed = site.kms.resolve_key(None).arn
    assert uploads.start(site, encrypted=True).kms_key_arn == managed
    modify_ebs_default_kms_key_id(site, new_key)
    enable_ebs_encryption_by_default(site)
    assert uploads.start(site).kms_key_arn == new_key
    with pytest.raises(InvalidCombination):
        uploads.start(site, encrypted=False)


def test_a_key_that_cannot_be_used_leaves_nothing(site: Site) -> None:
    """KMS is asked before there is a row."""
    with pytest.raises(KmsKeyDisabled):
        uploads.start(site, kms_key_arn=disabled_key(site))
    assert site.catalog.snapshots.list() == []


def test_a_started_snapshot_is_pending_and_left_alone(site: Site, access: DirectAccess) -> None:
    """`recover`, which every command begins with, does not take an upload for a crash."""
    snapshot = uploads.start(site, description="from afar", tags={"a": "b"})
    recover(site)
    now = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert now == snapshot
    assert (now.state, now.volume_size, now.volume_id) == (SnapshotState.PENDING, GIB, upload.NO_VOLUME)
    assert (now.description, now.tags, now.sector_size) == ("from afar", {"a": "b"}, 512)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    uploads.complete(site, snapshot.snapshot_id, {0: data(1)})


def test_one_client_token_makes_one_snapshot(site: Site) -> None:
    """Also for another process; and for another request it is a conflict."""
    request = StartRequest(volume_size=1, tags={"b": "2", "a": "1"})
    first = start_snapshot(site, request, client_token="once")
    with Site(site.settings) as other:
        again = start_snapshot(other, StartRequest(volume_size=1, tags={"a": "1", "b": "2"}), client_token="once")
    assert again == first
    with pytest.raises(ClientTokenReused):
        start_snapshot(site, StartRequest(volume_size=2), client_token="once")
    assert start_snapshot(site, request, client_token="twice") != first
    assert len(site.catalog.snapshots.list()) == 2


def test_a_token_is_free_again_after_a_failure(site: Site, new_key: str) -> None:
    """A request that made nothing does not use it up."""
    site.kms.call("DisableKey", KeyId=new_key)
    request = StartRequest(volume_size=1, kms_key_arn=new_key)
    with pytest.raises(KmsKeyDisabled):
        start_snapshot(site, request, client_token="once")
    start_snapshot(site, StartRequest(volume_size=2), client_token="once")


@pytest.mark.parametrize("point", ["start.noted", "start.entered", "start.held", "start.begun"])
def test_a_start_that_was_killed_is_finished_by_its_repetition(
    site: Site, access: DirectAccess, cut_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The client gets a snapshot that works, and there is one only."""
    parent = uploads.uploaded(site, access, {0: data(1)})
    request = StartRequest(volume_size=1, parent_snapshot_id=parent.snapshot_id)
    cut_at(point)
    if point == "start.held":
        # A process that is killed takes nothing back.
        monkeypatch.setattr("ebscrypt.control.start_snapshot.finish_deletion", lambda *_, **__: None)
        monkeypatch.setattr(
            type(site.catalog.snapshots), "begin_deletion", lambda rows, snapshot_id: rows.get(snapshot_id)
        )
    with pytest.raises(PowerCut):
        start_snapshot(site, request, client_token="once")
    monkeypatch.undo()
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)
    recover(site)
    snapshot = start_snapshot(site, request, client_token="once")
    assert {one.snapshot_id for one in site.catalog.snapshots.list()} == {parent.snapshot_id, snapshot.snapshot_id}
    uploads.put(site, access, snapshot.snapshot_id, 1, data(2))
    done = uploads.complete(site, snapshot.snapshot_id, {1: data(2)})
    assert uploads.stored_blocks(site, done) == {0: data(1), 1: data(2)}


def test_a_start_that_fails_late_takes_everything_back(
    site: Site, access: DirectAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent whose blocks cannot be pinned leaves neither row nor folder."""
    parent = uploads.uploaded(site, access, {0: data(1)})

    def fail(*_: object) -> None:
        raise StoreUnreachable("the store does not answer")

    monkeypatch.setattr(Store, "put_pin", fail)
    with pytest.raises(StoreUnreachable):
        uploads.start(site, parent_snapshot_id=parent.snapshot_id)
    assert site.catalog.snapshots.list() == [parent]
    assert {path.name for path in (Path(site.settings.paths.state) / "uploads").iterdir()} <= {"tokens"}


def family(site: Site, access: DirectAccess, *, encrypted: bool) -> tuple[Snapshot, Snapshot]:
    """A parent with three blocks and a child that changes one, makes one zeros and adds one."""
    parent = uploads.uploaded(site, access, {0: data(1), 1: data(2), 2: data(3)}, encrypted=encrypted)
    changes = {1: data(4), 2: ZEROS, 9: data(5)}
    return parent, uploads.uploaded(site, access, changes, parent_snapshot_id=parent.snapshot_id)


@pytest.mark.parametrize("encrypted", [True, False])
def test_an_incremental_snapshot_has_its_parents_other_blocks(
    site: Site,
    access: DirectAccess,
    encrypted: bool,  # noqa: FBT001 - a case
) -> None:
    """Under the same data key, wrapped for its own id; stored once."""
    parent, child = family(site, access, encrypted=encrypted)
    expected = {0: data(1), 1: data(4), 9: data(5)}
    assert uploads.downloaded(site, access, child.snapshot_id) == expected
    assert (child.parent, child.data_encryption_key_id) == (parent.snapshot_id, parent.data_encryption_key_id)
    assert manifest_of(site, child).blocks.get(0) == manifest_of(site, parent).blocks.get(0)
    if encrypted:
        assert uploads.deciphered(site, child) == expected
        of_parent, of_child = manifest_of(site, parent).header.encryption, manifest_of(site, child).header.encryption
        assert of_parent is not None
        assert of_child is not None
        assert uploads.data_key_of(site, of_parent) == uploads.data_key_of(site, of_child)
        assert of_parent.wrapped_key != of_child.wrapped_key


def test_a_parent_may_be_deleted_meanwhile(site: Site, access: DirectAccess) -> None:
    """Its blocks are pinned and its list is kept."""
    parent = uploads.uploaded(site, access, {0: data(1), 1: data(2)}, encrypted=True)
    child = uploads.start(site, parent_snapshot_id=parent.snapshot_id)
    delete_snapshot(site, parent.snapshot_id)
    age(site)
    sweep_store(site, "local")
    uploads.put(site, access, child.snapshot_id, 1, data(3))
    done = uploads.complete(site, child.snapshot_id, {1: data(3)})
    assert uploads.deciphered(site, done) == {0: data(1), 1: data(3)}


def test_a_child_of_a_volumes_snapshot_goes_on_behind_its_short_end(site: Site, access: DirectAccess) -> None:
    """A volume of no whole GiB reads as zeros to the next one; its last block, which is short, is kept whole."""
    volume = contents.filled_volume(site, "alias/aws/ebs")
    parent = contents.snapshot_of(site, volume)
    child = uploads.uploaded(site, access, {2047: data(1)}, parent_snapshot_id=parent.snapshot_id)
    assert child.sector_size == parent.sector_size
    found = uploads.downloaded(site, access, child.snapshot_id)
    assert found.pop(2047) == data(1)
    whole = contents.expected().ljust(9 * BLOCK_SIZE, b"\0")
    blocks = {index: whole[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE] for index in range(9)}
    assert found == {index: content for index, content in blocks.items() if any(content)}
    assert {len(stored) for stored in uploads.stored_blocks(site, child).values()} == {BLOCK_SIZE}
    volume = create_volume(site, VolumeRequest(snapshot_id=child.snapshot_id))
    with contents.opened(site, volume) as device:
        assert device.pread(len(whole), 0) == whole


@pytest.mark.parametrize(
    ("which", "error"),
    [("pending", InvalidBlockRequest), ("missing", SnapshotNotFound), ("too large", InvalidBlockRequest)],
)
def test_a_parent_that_is_none_is_refused(
    site: Site, access: DirectAccess, which: str, error: type[EbscryptError]
) -> None:
    """One that is not complete, not there, or larger."""
    parents: dict[str, Callable[[], str]] = {
        "pending": lambda: uploads.start(site).snapshot_id,
        "missing": lambda: "snap-00000000000000000",
        "too large": lambda: uploads.uploaded(site, access, {}, volume_size=2).snapshot_id,
    }
    parent = parents[which]()
    before = site.catalog.snapshots.list()
    with pytest.raises(error):
        uploads.start(site, parent_snapshot_id=parent)
    assert site.catalog.snapshots.list() == before


@pytest.mark.parametrize("by", ["recover", "put", "complete"])
def test_an_upload_without_blocks_for_too_long_ends_in_error(site: Site, access: DirectAccess, by: str) -> None:
    """Ten minutes were asked for; what was put is free for a sweep, and the event tells the failure."""
    snapshot = uploads.start(site, timeout=10)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    uploads.age_log(site, snapshot.snapshot_id, 9 * 60)
    recover(site)
    uploads.put(site, access, snapshot.snapshot_id, 1, data(2))
    uploads.age_log(site, snapshot.snapshot_id, 11 * 60)
    if by == "recover":
        recover(site)
    elif by == "put":
        with pytest.raises(InvalidBlockRequest) as caught:
            uploads.put(site, access, snapshot.snapshot_id, 2, data(2))
        assert caught.value.reason == "INVALID_SNAPSHOT_ID"
    else:
        with pytest.raises(InvalidBlockRequest):
            complete_snapshot(site, snapshot.snapshot_id, changed_blocks_count=2)
        recover(site)
    now = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert now.state is SnapshotState.ERROR
    assert "within 10 minutes" in (now.state_message or "")
    assert contents.last_event(site)["detail"]["result"] == "failed"
    assert contents.pins_in(site) == []
    assert not upload.folder(site.settings, snapshot.snapshot_id).exists()


@pytest.mark.parametrize("point", ["upload.sealed", "upload.published", "snapshot.released"])
def test_a_completion_that_was_killed_is_finished(
    site: Site, access: DirectAccess, cut_at: Callable[[str], None], point: str
) -> None:
    """By the next command; the client that asks again is answered."""
    snapshot = uploads.start(site, encrypted=True)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    cut_at(point)
    with pytest.raises(PowerCut):
        complete_snapshot(site, snapshot.snapshot_id, changed_blocks_count=1)
    recover(site)
    done = complete_snapshot(site, snapshot.snapshot_id, changed_blocks_count=1)
    assert done.state is SnapshotState.COMPLETED
    assert uploads.deciphered(site, done) == {0: data(1)}
    assert contents.pins_in(site) == []


def test_a_start_that_nobody_repeats_takes_no_blocks_and_ends_in_time(
    site: Site, access: DirectAccess, cut_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between row and folder: its client never heard of it."""
    cut_at("start.entered")
    with pytest.raises(PowerCut):
        uploads.start(site, timeout=10)
    [snapshot] = site.catalog.snapshots.list()
    with pytest.raises(InvalidBlockRequest):
        uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    with pytest.raises(InvalidBlockRequest):
        complete_snapshot(site, snapshot.snapshot_id, changed_blocks_count=0)
    recover(site)
    assert site.catalog.snapshots.get(snapshot.snapshot_id).state is SnapshotState.PENDING
    later = time.time() + 11 * 60
    monkeypatch.setattr(time, "time", lambda: later)
    recover(site)
    assert site.catalog.snapshots.get(snapshot.snapshot_id).state is SnapshotState.ERROR

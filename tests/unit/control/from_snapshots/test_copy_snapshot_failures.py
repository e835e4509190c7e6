"""What is left of a copy that fails, is stopped or killed; and what goes on beside it."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.control import copy_snapshot as module
from ebscrypt.control import snapshot_source
from ebscrypt.control.copy_blocks import BlockCopier
from ebscrypt.control.copy_snapshot import CopyRequest, copy_snapshot
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot, sweep_store
from ebscrypt.errors import (
    BlockDamaged,
    ConfigError,
    InvalidParameter,
    KmsKeyDisabled,
    ManifestNotAuthentic,
    MissingDependency,
    SnapshotNotFound,
    StateError,
    StoreError,
    TransferCancelled,
)
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.witness import load_manifest_key
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import At

pytestmark = pytest.mark.usefixtures("unwraps_here")


def failed_copy(site: Site) -> Snapshot:
    [copy] = site.catalog.snapshots.list(SnapshotState.ERROR)
    return copy


@pytest.mark.parametrize("whose", ["source", "copy"])
def test_a_disabled_key_leaves_a_record_and_its_event(site: Site, new_key: str, whose: str) -> None:
    """The cause is KMS's own text; in the store there is what was there before."""
    mine = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    source = contents.snapshot_of(site, contents.filled_volume(site, mine))
    disabled = mine if whose == "source" else new_key
    site.kms.call("DisableKey", KeyId=disabled)
    blocks = contents.blocks_in(site)

    with pytest.raises(KmsKeyDisabled):
        copy_snapshot(site, CopyRequest(source_snapshot_id=source.snapshot_id, encrypted=True, kms_key_id=new_key))

    copy = failed_copy(site)
    assert copy.copied_from == source.snapshot_id
    assert copy.state_message is not None
    assert "is disabled" in copy.state_message
    detail = contents.last_event(site)["detail"]
    assert (detail["event"], detail["result"]) == ("copySnapshot", "failed")
    assert detail["cause"] == f"{disabled} is disabled."
    assert contents.blocks_in(site) == blocks
    assert contents.pins_in(site) == []


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        pytest.param({"source_snapshot_id": "snap-1"}, InvalidParameter, id="no-id"),
        pytest.param({"source_snapshot_id": "snap-00000000000000000"}, SnapshotNotFound, id="unknown"),
        pytest.param({"encrypted": False, "kms_key_id": None}, InvalidParameter, id="not-encrypted"),
        pytest.param({"encrypted": None}, MissingDependency, id="key-alone"),
        pytest.param({"kms_key_id": "arn:aws:kms:nowhere"}, InvalidParameter, id="no-key"),
        pytest.param({"store": "nowhere"}, ConfigError, id="unknown-store"),
        pytest.param({"store": "file:///proc/nowhere"}, StoreError, id="no-place-for-a-store"),
        pytest.param({"description": "x" * 256}, InvalidParameter, id="long-description"),
        pytest.param({"tags": {"aws:mine": "x"}}, InvalidParameter, id="reserved-tag"),
    ],
)
def test_what_makes_no_sense_leaves_not_even_a_record(
    site: Site, request_other: CopyRequest, changes: dict[str, Any], kind: type[Exception]
) -> None:
    """Refused before anything exists, and without an event."""
    before, events = site.catalog.snapshots.list(), site.catalog.events()

    with pytest.raises(kind):
        copy_snapshot(site, msgspec.structs.replace(request_other, **changes))

    assert (site.catalog.snapshots.list(), site.catalog.events()) == (before, events)


@pytest.mark.parametrize("state", ["pending", "error", "deleting"])
def test_only_of_a_completed_snapshot_copies_are_made(site: Site, source: Snapshot, state: str) -> None:
    """Of one that is not whole, was never, or is on its way out: refused, and the state is named."""
    if state == "deleting":
        site.catalog.snapshots.begin_deletion(source.snapshot_id)
        snapshot_id = source.snapshot_id
    else:
        other = msgspec.structs.replace(
            source, snapshot_id="snap-0123456789abcdef0", state=SnapshotState(state), digest=None
        )
        site.catalog.snapshots.add(other)
        snapshot_id = other.snapshot_id

    with pytest.raises(StateError, match="being deleted" if state == "deleting" else f"is {state}"):
        copy_snapshot(site, CopyRequest(source_snapshot_id=snapshot_id))


def block_path(site: Site, snapshot: Snapshot, index: int) -> Path:
    name = contents.manifest_of(site, snapshot).blocks.get(index)
    assert name is not None
    return site.settings.snapshots_dir / "blocks" / name.hex()[:2] / name.hex()


def test_a_damaged_block_is_not_copied(site: Site, source: Snapshot, request_other: CopyRequest) -> None:
    """The copy ends in error, naming the block; the source's pin is released."""
    path = block_path(site, source, 5)
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(BlockDamaged, match=path.name):
        copy_snapshot(site, request_other)

    assert path.name in (failed_copy(site).state_message or "")
    assert contents.pins_in(site) == []


def test_a_manifest_in_the_place_of_another_is_refused(
    site: Site, source: Snapshot, request_other: CopyRequest, settings: Settings
) -> None:
    """Even one that bears this installation's tag: only the one that the catalog knows counts."""
    copy = copy_snapshot(site, CopyRequest(source_snapshot_id=source.snapshot_id))
    manifests = settings.snapshots_dir / "manifests"
    ours = manifests / f"{source.snapshot_id}.manifest"
    raw = (manifests / f"{copy.snapshot_id}.manifest").read_bytes()
    # A manifest that names its own snapshot, and that nobody here wrote for it.
    forged = raw.replace(copy.snapshot_id.encode(), source.snapshot_id.encode())
    ours.write_bytes(_with_right_digest(forged, settings))

    with pytest.raises(ManifestNotAuthentic):
        copy_snapshot(site, request_other)


def _with_right_digest(raw: bytes, settings: Settings) -> bytes:
    body, key = raw[:-72], load_manifest_key(settings.manifest_key_path)
    digest = hashlib.sha256(body).digest()
    return body + digest + key.key_id + key.tag(digest)


def test_stopping_takes_it_back(site: Site, request_other: CopyRequest) -> None:
    """`TransferCancelled`; the record says so, and no manifest is there."""
    stop = threading.Event()
    stop.set()

    with pytest.raises(TransferCancelled):
        copy_snapshot(site, request_other, cancel=stop)

    with contextlib.closing(open_store(site.settings)) as store:
        assert not store.has_manifest(failed_copy(site).snapshot_id)


@pytest.mark.parametrize("other_key", [False, True], ids=["carried", "turned"])
def test_a_sweep_in_the_middle_takes_nothing_that_is_needed(
    site: Site, request_other: CopyRequest, at: At, tmp_path: Path, *, other_key: bool
) -> None:
    """Blocks that were put, and are taken before the manifest is there, are put again."""
    elsewhere = (tmp_path / "elsewhere").as_uri()
    key = request_other.kms_key_id if other_key else "alias/aws/ebs"
    request = msgspec.structs.replace(request_other, store=elsewhere, kms_key_id=key)

    def take_all() -> None:
        with contextlib.closing(open_store(site.settings, elsewhere)) as store:
            store.delete_blocks([block.name for block in store.list_blocks()])

    at("copy.moved", take_all)

    copy = copy_snapshot(site, request)

    assert contents.read_snapshot(site, copy) == contents.expected()


def test_the_source_may_be_deleted_and_swept_meanwhile(
    settings: Settings, source: Snapshot, request_other: CopyRequest, at: At
) -> None:
    """The copy has its blocks pinned, and is whole."""
    stores = msgspec.structs.replace(settings.stores, grace=0.0)
    with Site(msgspec.structs.replace(settings, stores=stores)) as site:

        def delete() -> None:
            delete_snapshot(site, source.snapshot_id)
            assert sweep_store(site, "local").freed == 0

        at("copy.wrapped", delete)

        copy = copy_snapshot(site, request_other)

        assert sweep_store(site, "local").freed == 5
        assert contents.read_snapshot(site, copy) == contents.expected()


def test_a_copy_that_is_deleted_meanwhile_leaves_nothing(site: Site, request_other: CopyRequest, at: At) -> None:
    """It cannot be completed any more, takes its manifest back, and the deletion finishes as it would have."""
    at("copy.published", lambda: site.catalog.snapshots.begin_deletion(_pending(site).snapshot_id))

    with pytest.raises(StateError, match="being deleted"):
        copy_snapshot(site, request_other)
    copy = next(snapshot for snapshot in site.catalog.snapshots.list() if snapshot.copied_from)
    with contextlib.closing(open_store(site.settings)) as store:
        assert not store.has_manifest(copy.snapshot_id)
    recover(site)

    assert [snapshot.copied_from for snapshot in site.catalog.snapshots.list()] == [None]
    assert contents.pins_in(site) == []


def _pending(site: Site) -> Snapshot:
    [snapshot] = site.catalog.snapshots.list(SnapshotState.PENDING)
    return snapshot


@pytest.mark.parametrize("point", ["copy.entered", "copy.wrapped", "copy.moved", "copy.published"])
def test_what_a_crash_leaves_of_a_copy_recover_takes_back(
    site: Site, source: Snapshot, request_other: CopyRequest, at: At, point: str
) -> None:
    """Wherever its process dies: `error` with the event, no manifest, no pin; and the next copy succeeds."""

    class KilledError(BaseException):
        pass

    def die() -> None:
        raise KilledError

    at(point, die)
    with pytest.MonkeyPatch.context() as dead:
        dead.setattr(module, "undo_copy", lambda *_, **__: None)
        dead.setattr(snapshot_source, "_release", lambda *_: None)
        dead.setattr(BlockCopier, "release", lambda _: None)
        with pytest.raises(KilledError):
            copy_snapshot(site, request_other)
    left = _pending(site)
    assert set(contents.pins_in(site)) == (set() if point == "copy.entered" else {left.snapshot_id})

    recover(site)

    assert failed_copy(site).snapshot_id == left.snapshot_id
    assert failed_copy(site).state_message == "the copy was interrupted"
    assert contents.last_event(site)["detail"]["result"] == "failed"
    with contextlib.closing(open_store(site.settings)) as store:
        assert list(store.list_manifests()) == [source.snapshot_id]
    assert contents.pins_in(site) == []
    assert contents.read_snapshot(site, copy_snapshot(site, request_other)) == contents.expected()

"""What is left of a restore that fails or is killed; and what goes on beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.config import Settings
from ebscrypt.control import create, snapshot_source
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot, sweep_store
from ebscrypt.errors import (
    BlockDamaged,
    HeaderError,
    InvalidCombination,
    InvalidParameter,
    KmsKeyDisabled,
    ManifestDamaged,
    MissingDependency,
    SnapshotNotFound,
    StateError,
)
from ebscrypt.model import KIB, MIB, Snapshot, SnapshotState, Volume, VolumeState
from tests.unit.control.disks import header_of
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import SIZE, At

pytestmark = pytest.mark.usefixtures("unwraps_here")


def failed_volume(site: Site) -> Volume:
    [volume] = site.catalog.volumes(VolumeState.ERROR)
    return volume


def expect_nothing_but_the_record(site: Site) -> None:
    """A row in `error` with its event; no file, no header, no pin."""
    failed = failed_volume(site)
    assert failed.state_message
    detail = contents.last_event(site)["detail"]
    assert (detail["event"], detail["result"]) == ("createVolume", "failed")
    assert not Path(failed.backing).exists()
    assert contents.pins_in(site) == []


@pytest.mark.parametrize("whose", ["the snapshot's, to keep", "the snapshot's, to leave", "the new one"])
def test_with_a_disabled_key_snapshots_are_made_and_restores_fail(site: Site, new_key: str, whose: str) -> None:
    """A snapshot needs no key. The failed restore's event has KMS's own text as its cause, as EBS's has."""
    mine = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    volume = contents.filled_volume(site, mine)
    disabled = new_key if whose == "the new one" else mine
    site.kms.call("DisableKey", KeyId=disabled)

    snapshot = contents.snapshot_of(site, volume)
    wanted = mine if whose == "the snapshot's, to keep" else new_key
    with pytest.raises(KmsKeyDisabled):
        create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id, kms_key_id=wanted))

    expect_nothing_but_the_record(site)
    assert contents.last_event(site)["detail"]["cause"] == f"{disabled} is disabled."
    site.kms.call("EnableKey", KeyId=disabled)
    restored = create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id, kms_key_id=wanted))
    assert contents.read(site, restored) == contents.expected()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        pytest.param({"snapshot_id": "snap-1"}, InvalidParameter, id="no-id"),
        pytest.param({"snapshot_id": "snap-00000000000000000"}, SnapshotNotFound, id="unknown"),
        pytest.param({"size": SIZE - 4 * KIB}, InvalidParameter, id="smaller"),
        pytest.param({"size": SIZE + 512}, InvalidParameter, id="half-a-sector-more"),
        pytest.param({"sector_size": 512}, InvalidParameter, id="other-sectors"),
        pytest.param({"encrypted": False}, InvalidCombination, id="plain-of-encrypted"),
        pytest.param({"encrypted": None, "kms_key_id": "alias/aws/ebs"}, MissingDependency, id="key-alone"),
        pytest.param({"kms_key_id": "arn:aws:kms:nowhere"}, InvalidParameter, id="no-key"),
    ],
)
def test_what_makes_no_sense_leaves_not_even_a_record(
    site: Site, source: Snapshot, changes: dict[str, Any], kind: type[Exception]
) -> None:
    """Refused before anything exists, and without an event."""
    before, events = site.catalog.volumes(), site.catalog.events()

    with pytest.raises(kind):
        create_volume(site, VolumeRequest(**{"snapshot_id": source.snapshot_id} | changes))

    assert (site.catalog.volumes(), site.catalog.events()) == (before, events)


def test_sectors_that_do_not_divide_a_plain_snapshot_are_refused(site: Site) -> None:
    """A plain volume may have any number of 512 bytes; 4096 would cut its last sector."""
    odd = contents.filled_volume(site, None, size=SIZE + 512, sector_size=512)
    snapshot = contents.snapshot_of(site, odd)

    with pytest.raises(InvalidParameter, match="not a multiple"):
        create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id, sector_size=4096))

    fine = create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id))
    assert contents.read(site, fine) == contents.expected(SIZE + 512)


@pytest.mark.parametrize("state", ["pending", "error", "deleting"])
def test_only_of_a_completed_snapshot_volumes_are_made(site: Site, source: Snapshot, state: str) -> None:
    """Of one that is not whole, was never, or is on its way out: refused, and the state is named."""
    snapshot_id = source.snapshot_id
    if state == "deleting":
        site.catalog.snapshots.begin_deletion(snapshot_id)
    else:
        snapshot_id = "snap-0123456789abcdef0"
        fields = {"snapshot_id": snapshot_id, "state": SnapshotState(state), "digest": None}
        site.catalog.snapshots.add(msgspec.structs.replace(source, **fields))

    with pytest.raises(StateError, match="being deleted" if state == "deleting" else f"is {state}"):
        create_volume(site, VolumeRequest(snapshot_id=snapshot_id))


def test_a_device_that_is_too_small_is_refused(site: Site, source: Snapshot, make_loop: Callable[[int], str]) -> None:
    """Before anything is written to it."""
    device = make_loop(luks2.DATA_OFFSET + 4 * MIB)

    with pytest.raises(InvalidParameter, match="has room for a volume of 4 MiB"):
        create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id, backing=device))

    assert not any(Path(device).read_bytes())
    assert site.catalog.volumes(VolumeState.ERROR, VolumeState.CREATING) == []


def block_path(settings: Settings, site: Site, snapshot: Snapshot, index: int) -> Path:
    name = contents.manifest_of(site, snapshot).blocks.get(index)
    assert name is not None
    return settings.snapshots_dir / "blocks" / name.hex()[:2] / name.hex()


@pytest.mark.parametrize("key", ["same", "other"])
def test_a_damaged_block_ends_it(site: Site, settings: Settings, source: Snapshot, new_key: str, key: str) -> None:
    """The reason names the block; what had been restored is taken back."""
    path = block_path(settings, site, source, 6)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    wanted = new_key if key == "other" else None

    with pytest.raises(BlockDamaged, match=path.name):
        create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id, kms_key_id=wanted))

    expect_nothing_but_the_record(site)
    assert path.name in (failed_volume(site).state_message or "")


def test_a_damaged_manifest_ends_it(site: Site, settings: Settings, source: Snapshot) -> None:
    """It is read under the new volume's name, so the record is there; nothing else is."""
    manifest = settings.snapshots_dir / "manifests" / f"{source.snapshot_id}.manifest"
    raw = bytearray(manifest.read_bytes())
    raw[100] ^= 1
    manifest.write_bytes(raw)

    with pytest.raises(ManifestDamaged):
        create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))

    expect_nothing_but_the_record(site)


@pytest.mark.parametrize("kind", ["file", "block device"])
def test_a_backing_of_the_users_is_given_back(
    site: Site,
    settings: Settings,
    source: Snapshot,
    make_loop: Callable[[int], str],
    tmp_path: Path,
    *,
    kind: str,
) -> None:
    """A file is as empty as it was; a device has no header that would say a volume is there."""
    path = block_path(settings, site, source, 8)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    mine = make_loop(24 * MIB) if kind == "block device" else str(tmp_path / "mine")
    Path(mine).touch()

    with pytest.raises(BlockDamaged):
        create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id, backing=mine, size=8 * MIB))

    if kind == "file":
        assert (Path(mine).stat().st_size, Path(mine).stat().st_blocks) == (0, 0)
    else:
        assert not any(Path(mine).read_bytes()[: luks2.DATA_OFFSET])
    assert contents.pins_in(site) == []


@pytest.mark.parametrize("key", ["same", "other"])
def test_there_is_no_header_before_the_volume_is_whole(
    site: Site, source: Snapshot, new_key: str, at: At, key: str
) -> None:
    """So `rebuild-catalog` can never take half a volume for one."""
    seen: list[str] = []

    def look() -> None:
        [volume] = site.catalog.volumes(VolumeState.CREATING)
        with pytest.raises(HeaderError):
            header_of(volume.backing)
        seen.append(volume.volume_id)

    at("restore.written", look)

    wanted = new_key if key == "other" else None
    volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id, kms_key_id=wanted))

    assert seen == [volume.volume_id]


def test_the_snapshot_may_be_deleted_and_swept_meanwhile(settings: Settings, source: Snapshot, at: At) -> None:
    """The volume has its blocks pinned, and is whole; afterwards they are swept."""
    stores = msgspec.structs.replace(settings.stores, grace=0.0)
    with Site(msgspec.structs.replace(settings, stores=stores)) as site:

        def delete() -> None:
            delete_snapshot(site, source.snapshot_id)
            assert sweep_store(site, "local").freed == 0

        at("create.wrapped", delete)

        volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))

        assert contents.read(site, volume) == contents.expected()
        assert sweep_store(site, "local").freed == 5


def _being_made(site: Site) -> Volume:
    [volume] = site.catalog.volumes(VolumeState.CREATING)
    return volume


class KilledError(BaseException):
    """Ends a use case as a killed process would, if nobody takes anything back."""


@pytest.mark.parametrize("deleted", [False, True], ids=["", "snapshot-deleted"])
@pytest.mark.parametrize(
    "point", ["create.entered", "create.wrapped", "create.backing", "restore.written", "create.described"]
)
def test_what_a_crash_leaves_of_a_restore_recover_takes_back(
    site: Site, source: Snapshot, at: At, point: str, *, deleted: bool
) -> None:
    """Wherever its process dies: nothing but the record, and no block stays pinned even if the snapshot has gone."""

    def die() -> None:
        raise KilledError

    at(point, die)
    with pytest.MonkeyPatch.context() as dead:
        dead.setattr(create, "undo_creation", lambda *_, **__: None)
        dead.setattr(snapshot_source, "_release", lambda *_: None)
        with pytest.raises(KilledError):
            create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))
    assert contents.pins_in(site) == ([] if point == "create.entered" else [_being_made(site).volume_id])
    if deleted:
        delete_snapshot(site, source.snapshot_id)

    recover(site)

    expect_nothing_but_the_record(site)

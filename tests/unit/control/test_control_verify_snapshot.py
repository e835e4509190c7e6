"""`verify_snapshot`: every damage is named by snapshot and block, and put back from another store that has it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.control.verify_snapshots import Damage, verify_snapshot
from ebscrypt.errors import SnapshotNotFound, StateError, StoreNotFound
from ebscrypt.model import Snapshot, Volume, new_snapshot_id
from ebscrypt.stores.names import BLOCK_SIZE, block_name, block_path
from tests.unit.control import storing_inline
from tests.unit.control.storing_inline import Started, block, opened, snapshot_bytes, stored_bytes, write_blocks


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


@pytest.fixture
def snapshots(site: Site, volume: Volume) -> tuple[Snapshot, Snapshot]:
    """Two: blocks 0, 1, 2, and the same with another block 2."""
    write_blocks(volume, {index: block(index) for index in range(3)})
    first = storing_inline.take(site, volume)
    write_blocks(volume, {2: block(20)})
    return first, storing_inline.take(site, volume)


@pytest.fixture
def copy(site: Site, snapshots: tuple[Snapshot, Snapshot], tmp_path: Path) -> str:
    """The URL of a copy of the store, made with other tools, as the format allows."""
    assert snapshots
    shutil.copytree(site.settings.snapshots_dir, tmp_path / "copy")
    return (tmp_path / "copy").as_uri()


def file_of(site: Site, number: int) -> Path:
    return site.settings.snapshots_dir / block_path(block_name(block(number)))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_sound_is_said_so(site: Site, snapshots: tuple[Snapshot, Snapshot]) -> None:
    """Each block is read once, whoever lists it."""
    found = verify_snapshot(site)

    assert (found.snapshots, found.blocks, found.size) == (2, 4, 4 * BLOCK_SIZE)
    assert (found.damage, found.foreign, found.stores) == ([], [], ["local"])
    assert verify_snapshot(site, [snapshots[0].snapshot_id]).blocks == 3


@pytest.mark.parametrize("kind", ["flipped", "cut", "gone"])
def test_a_damaged_block_is_named_in_every_snapshot(
    site: Site, snapshots: tuple[Snapshot, Snapshot], kind: str
) -> None:
    """By the snapshots that have it and its index in them; what only another has is not."""
    path = file_of(site, 1)
    match kind:
        case "flipped":
            flip(path)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case _:
            path.unlink()

    found = verify_snapshot(site)

    assert [(damage.snapshot_id, damage.block) for damage in found.damage] == [
        (snapshots[0].snapshot_id, 1),
        (snapshots[1].snapshot_id, 1),
    ]
    assert all(block_name(block(1)).hex() in damage.message for damage in found.damage)
    flip(file_of(site, 20))
    assert [damage.block for damage in verify_snapshot(site, [snapshots[0].snapshot_id]).damage] == [1]


@pytest.mark.parametrize("kind", ["flipped", "gone"])
def test_a_damaged_manifest_is_named(site: Site, snapshots: tuple[Snapshot, Snapshot], kind: str) -> None:
    """The other snapshot is verified all the same."""
    path = site.settings.snapshots_dir / "manifests" / f"{snapshots[0].snapshot_id}.manifest"
    flip(path) if kind == "flipped" else path.unlink()

    found = verify_snapshot(site)

    assert [(damage.snapshot_id, damage.block) for damage in found.damage] == [(snapshots[0].snapshot_id, None)]
    assert found.blocks == 3


def test_another_manifest_of_ours_is_not_believed(site: Site, snapshots: tuple[Snapshot, Snapshot]) -> None:
    """Sound, and with a good tag, but not the one that the catalog knows."""
    first, second = (
        site.settings.snapshots_dir / "manifests" / f"{snapshot.snapshot_id}.manifest" for snapshot in snapshots
    )
    first.write_bytes(second.read_bytes())

    [damage] = verify_snapshot(site).damage

    assert (damage.snapshot_id, damage.block) == (snapshots[0].snapshot_id, None)


@pytest.mark.parametrize("kind", ["block flipped", "block gone", "manifest flipped", "manifest gone", "all gone"])
def test_damage_is_repaired_from_another_store(
    site: Site, volume: Volume, snapshots: tuple[Snapshot, Snapshot], copy: str, kind: str
) -> None:
    """It is named as repaired; afterwards everything is sound, to the byte."""
    manifest = site.settings.snapshots_dir / "manifests" / f"{snapshots[1].snapshot_id}.manifest"
    target = file_of(site, 20) if kind.startswith("block") else manifest
    if kind == "all gone":
        shutil.rmtree(site.settings.snapshots_dir / "blocks")
    flip(target) if kind.endswith("flipped") else target.unlink()

    found = verify_snapshot(site, repair_from=copy)

    assert found.damage
    assert all(damage.repaired for damage in found.damage)
    assert verify_snapshot(site).damage == []
    assert snapshot_bytes(site, snapshots[1]) == stored_bytes(volume)


def test_a_copy_with_the_same_damage_repairs_nothing(
    site: Site, snapshots: tuple[Snapshot, Snapshot], copy: str, tmp_path: Path
) -> None:
    """A bad block is never put in the place of a bad block; both are told."""
    flip(file_of(site, 20))
    flip(tmp_path / "copy" / block_path(block_name(block(20))))

    [damage] = verify_snapshot(site, repair_from=copy).damage

    assert damage == Damage(snapshots[1].snapshot_id, 2, damage.message)
    assert "; and " in damage.message


def test_what_the_catalog_does_not_know_is_told(site: Site, snapshots: tuple[Snapshot, Snapshot]) -> None:
    """Of another installation, or of a lost catalog: it is no damage, and nothing is done about it."""
    with opened(site) as store:
        raw = store.get_manifest(snapshots[0].snapshot_id)
        stranger = new_snapshot_id()
        store.put_manifest(stranger, raw)

    found = verify_snapshot(site)

    assert (found.damage, found.foreign) == ([], [stranger])


def test_what_cannot_be_verified_is_refused(site: Site, volume: Volume) -> None:
    """One that is not there, one that is not completed, and a store that is not there."""
    with pytest.raises(SnapshotNotFound):
        verify_snapshot(site, [new_snapshot_id()])
    done = storing_inline.take(site, volume)
    pending = create_snapshot(site, volume.volume_id)
    with pytest.raises(StateError, match="pending"):
        verify_snapshot(site, [pending.snapshot_id])
    shutil.rmtree(site.settings.snapshots_dir)
    with pytest.raises(StoreNotFound):
        verify_snapshot(site, [done.snapshot_id])

"""A volume made with ``lazy`` from a snapshot: available at once, whole at the end, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.control import fill_job, filler
from ebscrypt.control.convert import convert_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.fill_job import fill_path, is_filling, load, progress, save
from ebscrypt.control.filling import fill_volume
from ebscrypt.control.rebuild import rebuild_catalog
from ebscrypt.control.recover import recover
from ebscrypt.control.reencrypt import reencrypt_volume
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.settled import is_settled
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot, sweep_store
from ebscrypt.core import Device
from ebscrypt.errors import BlockMissing, InvalidParameter, StateError
from ebscrypt.model import MIB, Snapshot, Volume, VolumeState
from ebscrypt.stores.names import BLOCK_SIZE
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import UnwrapsHere
from tests.unit.control.storing_inline import (
    age,
    block,
    block_files,
    snapshot_bytes,
    stored_bytes,
    take,
    unreleased_pins,
    write_blocks,
)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of the processes that fill volumes: for which ones one was started."""
    volume_ids: list[str] = []
    monkeypatch.setattr(filler, "start_filler", lambda _, volume_id: volume_ids.append(volume_id))
    return volume_ids


@pytest.fixture
def snapshot(site: Site, volume: Volume) -> Snapshot:
    """A snapshot of an encrypted volume of 8 MiB with three blocks of data."""
    write_blocks(volume, {0: block(0), 3: block(1), 15: block(2)})
    return take(site, volume)


def lazy(site: Site, snapshot: Snapshot, **options: object) -> Volume:
    request = VolumeRequest(snapshot_id=snapshot.snapshot_id, encrypted=None, lazy=True)
    return create_volume(site, msgspec.structs.replace(request, **options))


def events_of(site: Site, volume: Volume) -> list[str]:
    told = [event["detail"] for _, event in site.catalog.events() if volume.volume_id in str(event["resources"])]
    return [f"{detail['event']} {detail['result']}" for detail in told]


def header_of(volume: Volume) -> luks2.Header:
    with Path(volume.backing).open("rb") as file:
        return luks2.read_header(file.fileno()).header


def test_it_is_available_before_its_blocks_are_there(site: Site, snapshot: Snapshot, started: list[str]) -> None:
    """Nothing is copied by the command; a filler is started; its event comes when the volume is whole, and once."""
    volume = lazy(site, snapshot)

    assert (volume.state, started) == (VolumeState.AVAILABLE, [volume.volume_id])
    assert not any(stored_bytes(volume))
    assert events_of(site, volume) == ["createVolume available"]
    assert progress(site.settings, volume.volume_id) == (0, 3)

    fill_volume(site, volume.volume_id)
    fill_volume(site, volume.volume_id)

    assert stored_bytes(volume) == snapshot_bytes(site, snapshot)
    assert events_of(site, volume) == ["createVolume available", "initializeVolume succeeded"]
    assert progress(site.settings, volume.volume_id) is None
    assert unreleased_pins(site) == set()
    assert list((Path(site.settings.paths.state) / "fills").iterdir()) == []


def test_half_a_volume_says_so(site: Site, snapshot: Snapshot) -> None:
    """Its header has the mark until the last block is there, and then nothing of it."""
    volume = lazy(site, snapshot)

    assert header_of(volume).filling
    fill_volume(site, volume.volume_id)
    assert not header_of(volume).filling
    assert "requirements" not in header_of(volume).metadata["config"]


def test_rebuilding_refuses_half_a_volume_that_nobody_can_fill(site: Site, snapshot: Snapshot) -> None:
    """Without its job nobody knows which blocks are missing; with it the volume is taken in, and filled."""
    volume = lazy(site, snapshot)
    job = load(site.settings, volume.volume_id)
    assert job is not None
    path = fill_path(site.settings, volume.volume_id).with_suffix(".json")
    path.unlink()
    refused = {found.volume_id: found for found in rebuild_catalog(site, []) if found.message}
    assert any("does not have all blocks" in str(found.message) for found in refused.values())

    save(site.settings, volume.volume_id, job)
    rebuild_catalog(site, [])
    fill_volume(site, volume.volume_id)
    assert stored_bytes(volume) == snapshot_bytes(site, snapshot)


@pytest.mark.parametrize("kms_key_id", [None, "alias/aws/ebs"], ids=["plain", "encrypted"])
def test_it_is_turned_to_another_key(
    site: Site, unwraps_here: UnwrapsHere, new_key: str, kms_key_id: str | None
) -> None:
    """From plain to encrypted and from one KMS key to another: what is read is the same, under a key of its own."""
    made_of = contents.filled_volume(site, kms_key_id)
    made = lazy(site, contents.snapshot_of(site, made_of), encrypted=True, kms_key_id=new_key)

    unwraps_here.asked.clear()
    fill_volume(site, made.volume_id)

    assert unwraps_here.asked[0] == {"aws:ebs:id": made.volume_id}
    assert contents.read(site, made) == contents.expected()
    assert header_of(made).token().sealed
    assert header_of(made).token().kms_key_arn == new_key


def test_a_plain_volume_is_described_when_it_is_whole(site: Site, plain_volume: Volume) -> None:
    """Its sidecar comes at the end: half a volume has none."""
    write_blocks(plain_volume, {2: block(5)})
    made = lazy(site, take(site, plain_volume))
    sidecar = site.settings.volumes_dir / f"{made.volume_id}.json"
    assert not sidecar.exists()

    fill_volume(site, made.volume_id)

    assert sidecar.exists()
    assert stored_bytes(made) == stored_bytes(plain_volume)


def test_what_was_changed_meanwhile_stays(site: Site, snapshot: Snapshot) -> None:
    """A change through the core before the filler comes is not overwritten, and the rest of its block is there."""
    made = lazy(site, snapshot)
    path = fill_path(site.settings, made.volume_id)
    with path.open("r+b") as missing, Path(made.backing).open("r+b") as file:
        device = Device(
            file.fileno(), size=made.size, data_offset=luks2.DATA_OFFSET, fill_file=missing.fileno(), fill_patience=0.1
        )
        device.write_zeroes(0, BLOCK_SIZE)
        with pytest.raises(OSError, match="Input/output error"):
            device.pread(512, 3 * BLOCK_SIZE)
        device.close()

    fill_volume(site, made.volume_id)

    assert stored_bytes(made) == bytes(BLOCK_SIZE) + snapshot_bytes(site, snapshot)[BLOCK_SIZE:]


def test_the_snapshot_may_be_deleted(site: Site, snapshot: Snapshot) -> None:
    """Its blocks stay until the volume has them, and not longer."""
    made = lazy(site, snapshot)
    expected = snapshot_bytes(site, snapshot)
    delete_snapshot(site, snapshot.snapshot_id)
    age(site)
    sweep_store(site, "local")

    fill_volume(site, made.volume_id)

    assert stored_bytes(made) == expected
    sweep_store(site, "local")
    sweep_store(site, "local")
    assert block_files(site) == []


def test_deleting_it_lets_the_blocks_go(site: Site, snapshot: Snapshot) -> None:
    """A volume that is not whole can be deleted; nothing is left of it, and nothing pinned."""
    made = lazy(site, snapshot)

    delete_volume(site, made.volume_id)

    assert unreleased_pins(site) == set()
    assert not is_filling(site.settings, made.volume_id)
    assert not fill_path(site.settings, made.volume_id).exists()
    fill_volume(site, made.volume_id)
    assert not Path(made.backing).exists()


def test_what_needs_all_blocks_waits(site: Site, snapshot: Snapshot) -> None:
    """Resizing, snapshots, re-encryption and conversion are refused with what to wait for."""
    made = lazy(site, snapshot)
    other = create_volume(site, VolumeRequest(size=made.size)).volume_id
    for refused in (
        lambda: resize_volume(site, made.volume_id, 16 * MIB),
        lambda: create_snapshot(site, made.volume_id),
        lambda: reencrypt_volume(site, made.volume_id),
        lambda: convert_volume(site, made.volume_id, other),
        lambda: convert_volume(site, other, made.volume_id),
    ):
        with pytest.raises(StateError, match=r"it has 0 % of its snapshot's blocks") as raised:
            refused()
        assert made.volume_id in str(raised.value.hint)
    fill_volume(site, made.volume_id)

    assert stored_bytes(made) == snapshot_bytes(site, snapshot)


def test_a_lost_block_is_named_and_the_others_come(site: Site, snapshot: Snapshot) -> None:
    """The volume stays half, and says so; once the store has the block again the next filler ends it well."""
    made = lazy(site, snapshot)
    lost = max(block_files(site))
    aside = lost.with_name("aside")
    lost.rename(aside)

    with pytest.raises(BlockMissing):
        fill_volume(site, made.volume_id)

    assert progress(site.settings, made.volume_id) == (2, 3)
    assert header_of(made).filling
    aside.rename(lost)
    fill_volume(site, made.volume_id)
    assert stored_bytes(made) == snapshot_bytes(site, snapshot)


def test_a_filler_that_died_is_started_again(site: Site, snapshot: Snapshot, started: list[str]) -> None:
    """By any command, as long as there is something to do: none passes it over as nothing to settle."""
    made = lazy(site, snapshot)
    started.clear()
    with Site(site.settings) as command:
        assert not is_settled(command)

    recover(site)
    assert started == [made.volume_id]

    fill_volume(site, made.volume_id)
    recover(site)
    assert started == [made.volume_id]
    with Site(site.settings) as command:
        assert is_settled(command)


def test_the_event_is_not_told_twice(site: Site, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filler that dies right after its event leaves the rest to the next one, which tells nothing again."""
    made = lazy(site, snapshot)
    with monkeypatch.context() as patch:
        patch.setattr(fill_job, "release", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fill_volume(site, made.volume_id)

    fill_volume(site, made.volume_id)

    assert events_of(site, made) == ["createVolume available", "initializeVolume succeeded"]
    assert not is_filling(site.settings, made.volume_id)


def test_lazy_is_for_volumes_from_snapshots_in_our_own_files(site: Site, snapshot: Snapshot, tmp_path: Path) -> None:
    """Anything else is refused before something is made."""
    with pytest.raises(InvalidParameter, match="made from a snapshot"):
        create_volume(site, VolumeRequest(size=8 * MIB, lazy=True))
    with pytest.raises(InvalidParameter, match="in a file of our own"):
        lazy(site, snapshot, backing=str(tmp_path / "x"))


def test_a_failed_creation_leaves_nothing(site: Site, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job, no fill file, no pin."""
    with monkeypatch.context() as patch:
        patch.setattr(luks2, "format_header", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(Exception, match="No space left"):
            lazy(site, snapshot)
    assert unreleased_pins(site) == set()
    assert list((Path(site.settings.paths.state) / "fills").iterdir()) == []

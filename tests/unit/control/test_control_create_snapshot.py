"""`create_snapshot`: what is in a snapshot of a detached volume, what it costs, and what is refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.config import StoreSettings
from ebscrypt.control import headers
from ebscrypt.control.backing import claimed
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.locks import held
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.control.storing import COMMAND, settle_snapshot
from ebscrypt.errors import (
    BackingInUse,
    InvalidParameter,
    SnapshotLimit,
    StateError,
    StoreError,
    VolumeNotFound,
)
from ebscrypt.model import MIB, TIB, SnapshotState, Volume, VolumeState, data_encryption_key_id, new_volume_id
from ebscrypt.stores.names import BLOCK_SIZE
from tests.unit.control import storing_inline
from tests.unit.control.storing_inline import Started, block, block_files, snapshot_bytes, stored_bytes, write_blocks


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


@pytest.fixture(params=["encrypted", "plain"])
def either_volume(request: pytest.FixtureRequest, site: Site) -> Volume:
    return create_volume(site, VolumeRequest(size=8 * MIB, encrypted=request.param == "encrypted"))


def test_a_snapshot_has_the_volume_to_the_byte(site: Site, either_volume: Volume) -> None:
    """Data, holes and blocks of zeros; of an encrypted volume ciphertext, and nothing of its header."""
    write_blocks(either_volume, {0: block(1), 3: bytes(BLOCK_SIZE), 5: block(2)[:100], 15: block(3)})

    snapshot = storing_inline.take(site, either_volume)

    assert snapshot.state is SnapshotState.COMPLETED
    assert snapshot_bytes(site, snapshot) == stored_bytes(either_volume)
    assert [index for index, _ in storing_inline.manifest_of(site, snapshot).blocks] == [0, 5, 15]


def test_the_instant_is_that_of_the_call(site: Site, volume: Volume, started: Started) -> None:
    """It is pending when the call returns, and a process was started for it."""
    snapshot = create_snapshot(site, volume.volume_id, description="nightly", tags={"Name": "a"})

    assert (snapshot.state, snapshot.description, snapshot.tags) == (SnapshotState.PENDING, "nightly", {"Name": "a"})
    assert site.catalog.snapshots.get(snapshot.snapshot_id) == snapshot
    assert started.snapshot_ids == [snapshot.snapshot_id]


def test_the_manifest_has_the_wrapped_key_of_the_volume(site: Site, volume: Volume) -> None:
    """As KMS gave it, with the context of the source volume (facts §1.2), and the lineage that the header names."""
    snapshot = storing_inline.take(site, volume)

    header, token = storing_inline.manifest_of(site, snapshot).header, headers.read(volume).header.token()
    assert header.encryption is not None
    assert header.encryption.wrapped_key == token.wrapped_key
    assert header.encryption.encryption_context == {"aws:ebs:id": volume.volume_id}
    assert header.encryption.data_encryption_key_id == token.data_encryption_key_id == snapshot.data_encryption_key_id
    assert (header.start_time, header.volume_size) == (snapshot.start_time, volume.size)


def test_a_header_without_a_lineage_gets_one_that_stays(site: Site, volume: Volume) -> None:
    """Volumes of older versions: every snapshot has the same name of the data key, and it is no other volume's."""
    with headers.writable(volume) as descriptor:
        header = luks2.read_header(descriptor).header
        token = header.token()
        metadata = msgspec.json.decode(msgspec.json.encode(header.metadata))
        [item] = [one for one in metadata["tokens"].values() if one["type"] == "ebscrypt-kms"]
        del item["data_encryption_key_id"]
        luks2.write_header(descriptor, msgspec.structs.replace(header, metadata=metadata))
    assert token.data_encryption_key_id is not None
    assert headers.read(volume).header.token().data_encryption_key_id is None

    first, second = (storing_inline.take(site, volume).data_encryption_key_id for _ in range(2))

    assert first == second == data_encryption_key_id(volume.volume_id, None)
    assert first != data_encryption_key_id(new_volume_id(), None)


def test_a_disabled_kms_key_is_in_nobodys_way(site: Site, volume: Volume) -> None:
    """No key is needed to move ciphertext: KMS is not even asked."""
    write_blocks(volume, {2: block(1)})
    assert volume.kms_key_arn is not None
    key = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    other = create_volume(site, VolumeRequest(size=8 * MIB, kms_key_id=key))
    site.kms.call("DisableKey", KeyId=key)

    def no_call(*_: object, **__: object) -> None:
        raise AssertionError("KMS was asked")

    site.kms.call = no_call  # type: ignore[method-assign,assignment]
    assert storing_inline.take(site, other).state is SnapshotState.COMPLETED


def test_a_second_snapshot_stores_what_is_new(site: Site, volume: Volume) -> None:
    """Blocks that the store has are not written again; the first one is the parent; both are whole."""
    write_blocks(volume, {index: block(index) for index in range(8)})
    first = storing_inline.take(site, volume)
    before = {path: path.stat().st_ino for path in block_files(site)}
    old = stored_bytes(volume)
    write_blocks(volume, {3: block(100)})

    second = storing_inline.take(site, volume)

    after = {path: path.stat().st_ino for path in block_files(site)}
    assert (len(before), len(after)) == (8, 9)
    assert before.items() <= after.items()
    assert (first.parent, second.parent) == (None, first.snapshot_id)
    assert snapshot_bytes(site, first) == old
    assert snapshot_bytes(site, second) == stored_bytes(volume)


@pytest.fixture
def vast_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system whose files may have more than ext4's 16 TiB."""
    mountpoint = tmp_path / "vast"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "none", mountpoint], check=True)
    yield mountpoint
    subprocess.run(["umount", mountpoint], check=True)


def test_holes_cost_nothing(site: Site, vast_disk: Path) -> None:
    """16 TiB with two blocks of data: two blocks are read and stored, wherever they lie."""
    volume = create_volume(site, VolumeRequest(size=16 * TIB, backing=str(vast_disk / "backing")))
    last = 16 * TIB // BLOCK_SIZE - 1
    write_blocks(volume, {0: block(1), last: block(2)})

    snapshot = storing_inline.take(site, volume)

    assert snapshot.bytes_done == snapshot.bytes_total == 2 * BLOCK_SIZE
    assert [index for index, _ in storing_inline.manifest_of(site, snapshot).blocks] == [0, last]
    assert len(block_files(site)) == 2


def test_a_device_that_tells_of_no_holes_is_read_whole(site: Site, make_loop: object) -> None:
    """Zeros are not stored all the same, and the last block may be short."""
    assert callable(make_loop)
    device = make_loop(luks2.DATA_OFFSET + 2 * MIB + 4096)
    volume = create_volume(site, VolumeRequest(backing=device))
    write_blocks(volume, {4: block(1)[:4096]})

    snapshot = storing_inline.take(site, volume)

    assert snapshot.bytes_total == volume.size == 2 * MIB + 4096
    assert snapshot_bytes(site, snapshot) == stored_bytes(volume)
    assert [path.stat().st_size for path in block_files(site)] == [4096]


def test_the_end_is_one_event(site: Site, volume: Volume) -> None:
    """createSnapshot, succeeded, about this snapshot of this volume."""
    snapshot = storing_inline.take(site, volume)

    detail = site.catalog.events()[-1][1]["detail"]
    assert (detail["event"], detail["result"], detail["cause"]) == ("createSnapshot", "succeeded", "")
    assert detail["snapshot_id"] == f"arn:aws:ec2::eu-central-1:snapshot/{snapshot.snapshot_id}"
    assert detail["source"] == f"arn:aws:ec2::eu-central-1:volume/{volume.volume_id}"


def test_one_at_a_time_is_made_of_a_volume(site: Site, volume: Volume) -> None:
    """A second is refused, naming the first."""
    first = create_snapshot(site, volume.volume_id)

    with pytest.raises(SnapshotLimit, match=first.snapshot_id):
        create_snapshot(site, volume.volume_id)


def test_a_volume_whose_daemon_died_is_refused(site: Site, volume: Volume) -> None:
    """Nobody keeps its instant; it is to be attached again, or detached, first."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    with pytest.raises(StateError, match="has died"):
        create_snapshot(site, volume.volume_id)


def test_a_backing_that_somebody_writes_to_is_refused(site: Site, volume: Volume) -> None:
    """Whoever claims it as an attachment does is in the way; nothing has been made then."""
    with claimed(volume.backing, volume.backing_kind), pytest.raises(BackingInUse):
        create_snapshot(site, volume.volume_id)
    assert site.catalog.snapshots.list() == []


@pytest.mark.parametrize("store", ["file:///proc/nowhere", "s3://no-such-bucket?endpoint=http://127.0.0.1:1"])
def test_a_store_that_cannot_be_opened_is_told_at_once(site: Site, volume: Volume, store: str) -> None:
    """Before anything exists."""
    quick = msgspec.structs.replace(site.settings, stores=StoreSettings(timeout=0.5, attempts=1))
    with Site(quick) as hasty, pytest.raises(StoreError):
        create_snapshot(hasty, volume.volume_id, store=store)
    assert site.catalog.snapshots.list() == []


def test_what_is_no_volume_is_told(site: Site) -> None:
    """By the same errors as everywhere."""
    with pytest.raises(InvalidParameter):
        create_snapshot(site, "vol-1")
    with pytest.raises(VolumeNotFound):
        create_snapshot(site, new_volume_id())


@pytest.mark.parametrize("text", ["x" * 256, "two\nlines"])
def test_a_description_is_one_short_line(site: Site, volume: Volume, text: str) -> None:
    """EC2's 255 characters, and nothing that a terminal would obey."""
    with pytest.raises(InvalidParameter, match="description"):
        create_snapshot(site, volume.volume_id, description=text)


def test_a_backing_that_was_written_to_ends_in_error(site: Site, volume: Volume) -> None:
    """Unsure is an error, with an event and the volume free again: never a snapshot of two instants."""
    write_blocks(volume, {0: block(1)})
    snapshot = create_snapshot(site, volume.volume_id)
    write_blocks(volume, {0: block(2)})
    os.utime(volume.backing)

    settle_snapshot(site, snapshot.snapshot_id)

    failed = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert failed.state is SnapshotState.ERROR
    assert failed.state_message is not None
    assert "written to" in failed.state_message
    detail = site.catalog.events()[-1][1]["detail"]
    assert (detail["event"], detail["result"]) == ("createSnapshot", "failed")
    assert storing_inline.take(site, volume).state is SnapshotState.COMPLETED


def test_only_one_process_stores(site: Site, volume: Volume) -> None:
    """A second ends at once and changes nothing."""
    snapshot = create_snapshot(site, volume.volume_id)
    with held(site.settings, snapshot.snapshot_id, COMMAND):
        settle_snapshot(site, snapshot.snapshot_id)
    assert site.catalog.snapshots.get(snapshot.snapshot_id) == snapshot

"""`create_volume` from a snapshot: contents, size, sectors, holes, the header, and the events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.control import data_key, headers
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.site import Site
from ebscrypt.model import GIB, KIB, MIB, TIB, Snapshot, Volume, VolumeState, data_encryption_key_id, encryption_context
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import SIZE, UnwrapsHere

pytestmark = pytest.mark.usefixtures("unwraps_here")


def allocated(path: str) -> int:
    """Bytes of a file that take room."""
    return Path(path).stat().st_blocks * 512


def test_under_the_same_key_the_data_key_stays_and_nobody_unwraps_it(
    site: Site, source: Snapshot, unwraps_here: UnwrapsHere
) -> None:
    """ReEncrypt binds it to the new volume; the header waits for its first attachment; stored bytes are the same."""
    asked = len(unwraps_here.asked)

    volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))

    assert len(unwraps_here.asked) == asked
    token = headers.read(volume).header.token()
    assert token.encryption_context == encryption_context(volume.volume_id)
    assert not token.sealed
    assert data_encryption_key_id(volume.volume_id, token.data_encryption_key_id) == source.data_encryption_key_id
    original = site.catalog.volume(source.volume_id)
    before, after = (Path(one.backing).read_bytes()[luks2.DATA_OFFSET :] for one in (original, volume))
    assert after == before
    assert contents.read(site, volume) == contents.expected()


def test_under_another_key_it_has_a_data_key_of_its_own_and_is_sealed(
    site: Site, source: Snapshot, new_key: str
) -> None:
    """The header's digest is that of the new data key, so a wrong one is known at the first attachment already."""
    volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id, kms_key_id=new_key))

    header = headers.read(volume).header
    assert header.token().sealed
    assert header.token().kms_key_arn == volume.kms_key_arn == new_key
    assert header.token().data_encryption_key_id not in (None, source.data_encryption_key_id)
    with data_key.unwrapped(site, header.token()) as key:
        assert data_key.matches(key, header.digest())
    assert contents.read(site, volume) == contents.expected()
    findings = check_volume(site, volume.volume_id, unwrap=True)
    assert {finding.result for finding in findings} == {Result.OK}, findings


def test_the_row_and_the_events_say_what_was_made(site: Site, source: Snapshot) -> None:
    """Size and snapshot are in the row; `createVolume` and EBS's `initializeVolume` with its completion time follow."""
    volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))

    assert volume == site.catalog.volume(volume.volume_id)
    assert (volume.state, volume.size, volume.snapshot_id, volume.kms_key_arn) == (
        VolumeState.AVAILABLE,
        SIZE,
        source.snapshot_id,
        source.kms_key_arn,
    )
    created, initialized = (event for _, event in site.catalog.events()[-2:])
    assert (created["detail"]["event"], created["detail"]["result"]) == ("createVolume", "available")
    assert initialized["detail"]["request-id"] != ""
    assert initialized["detail"] | {"request-id": ""} == {
        "event": "initializeVolume",
        "result": "succeeded",
        "cause": "",
        "request-id": "",
        "completionTime": initialized["time"],
    }
    assert initialized["resources"] == created["resources"]
    assert contents.pins_in(site) == []


def test_an_empty_volume_is_not_initialized(site: Site) -> None:
    """The event belongs to volumes from snapshots."""
    create_volume(site, VolumeRequest(size=8 * MIB))

    assert [event["detail"]["event"] for _, event in site.catalog.events()] == ["createVolume"]


@pytest.mark.parametrize("key", ["none", "same", "other"])
def test_a_volume_may_be_larger_than_its_snapshot(site: Site, source: Snapshot, new_key: str, key: str) -> None:
    """What is behind the snapshot's data reads as zeros; a short last block is where it was."""
    keys = {"none": None, "same": source.kms_key_arn, "other": new_key}
    larger = VolumeRequest(snapshot_id=source.snapshot_id, size=8 * MIB, kms_key_id=keys[key])

    volume = create_volume(site, larger)

    assert volume.size == headers.read(volume).header.segment().size == 8 * MIB
    assert contents.read(site, volume) == contents.expected(8 * MIB)


@pytest.mark.parametrize("key", ["plain", "same", "other"])
def test_a_thin_volume_stays_thin(site: Site, new_key: str, key: str) -> None:
    """No more room is taken than the data needs, down to a page; and 16 TiB with little in it are quickly there."""
    mine = None if key == "plain" else "alias/aws/ebs"
    pieces = {0: contents.noise(4 * KIB), TIB + 100 * KIB: contents.noise(8 * KIB, 2)}
    thin = create_volume(site, VolumeRequest(size=16 * TIB, encrypted=mine is not None, kms_key_id=mine))
    contents.write(site, thin, pieces)
    snapshot = contents.snapshot_of(site, thin)

    restored = create_volume(
        site,
        VolumeRequest(
            snapshot_id=snapshot.snapshot_id,
            encrypted=mine is not None,
            kms_key_id=new_key if key == "other" else mine,
        ),
    )

    assert allocated(restored.backing) == allocated(thin.backing)
    with contents.opened(site, restored) as device:
        for offset, piece in pieces.items():
            assert device.pread(16 * KIB, offset) == piece.ljust(16 * KIB, b"\0")


def test_a_plain_snapshot_becomes_a_volume_with_sectors_of_512_bytes(site: Site, new_key: str) -> None:
    """What is in a plain volume counts in them, whatever its row says; 4096 is for who asks for it."""
    plain = contents.snapshot_of(site, contents.filled_volume(site, None))
    request = VolumeRequest(snapshot_id=plain.snapshot_id, kms_key_id=new_key)

    volume = create_volume(site, request)
    coarse = create_volume(site, VolumeRequest(snapshot_id=plain.snapshot_id, sector_size=4096))

    assert (volume.sector_size, headers.read(volume).header.segment().sector_size) == (512, 512)
    assert (coarse.sector_size, headers.read(coarse).header.segment().sector_size) == (4096, 4096)
    assert contents.read(site, volume) == contents.read(site, coarse) == contents.expected()


def test_small_sectors_stay_small(site: Site, new_key: str) -> None:
    """Under another key, too: a file system remembers them."""
    fine = contents.snapshot_of(site, contents.filled_volume(site, "alias/aws/ebs", sector_size=512))

    volume = create_volume(site, VolumeRequest(snapshot_id=fine.snapshot_id, kms_key_id=new_key))

    assert volume.sector_size == 512
    assert contents.read(site, volume) == contents.expected()


@pytest.mark.parametrize("key", ["plain", "same", "other"])
@pytest.mark.parametrize("kind", ["file", "block device"])
def test_old_bytes_of_a_backing_do_not_show_through(
    site: Site, make_loop: Callable[[int], str], tmp_path: Path, new_key: str, *, kind: str, key: str
) -> None:
    """Where the snapshot has holes, and behind its end, a backing that held something else reads as zeros."""
    mine = None if key == "plain" else "alias/aws/ebs"
    snapshot = contents.snapshot_of(site, contents.filled_volume(site, mine))
    path = make_loop(24 * MIB) if kind == "block device" else str(tmp_path / "mine")
    Path(path).write_bytes(b"x" * 24 * MIB)

    volume = create_volume(
        site,
        VolumeRequest(
            snapshot_id=snapshot.snapshot_id,
            encrypted=mine is not None,
            kms_key_id=new_key if key == "other" else mine,
            backing=path,
            force=True,
        ),
    )

    assert volume.size == (24 * MIB if key == "plain" else 8 * MIB)
    assert contents.read(site, volume) == contents.expected(volume.size)


def test_a_backing_file_that_is_not_there_is_made_as_large_as_the_snapshot(
    site: Site, source: Snapshot, tmp_path: Path
) -> None:
    """No size has to be given for it."""
    path = tmp_path / "mine"

    volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id, backing=str(path)))

    assert (volume.size, path.stat().st_size) == (SIZE, luks2.DATA_OFFSET + SIZE)
    assert contents.read(site, volume) == contents.expected()


def test_the_progress_is_told_in_bytes(site: Site, source: Snapshot) -> None:
    """At the end it has all that the snapshot holds: five blocks, one of them short."""
    told: list[tuple[int, int]] = []

    create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id), told=lambda *bytes_: told.append(bytes_))

    assert told[-1] == (contents.DATA, contents.DATA)


def test_a_restored_volume_can_be_the_source_of_a_snapshot(site: Site, source: Snapshot) -> None:
    """The lineage goes on, and equal blocks are kept once."""
    volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))
    before = contents.blocks_in(site)

    again = contents.snapshot_of(site, volume)

    assert again.data_encryption_key_id == source.data_encryption_key_id
    assert contents.blocks_in(site) == before
    assert contents.read_snapshot(site, again) == contents.expected()


def test_a_volume_outlives_its_snapshots_kms_key(site: Site, new_key: str) -> None:
    """Under another key it does not need the old one any more."""
    mine = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    snapshot = contents.snapshot_of(site, contents.filled_volume(site, mine))
    volume: Volume = create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id, kms_key_id=new_key))

    site.kms.call("DisableKey", KeyId=mine)

    assert contents.read(site, volume) == contents.expected()


def test_a_huge_volume_from_a_small_snapshot(site: Site, source: Snapshot) -> None:
    """Its size costs nothing."""
    volume = create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id, size=GIB * 1024))

    assert allocated(volume.backing) < 8 * MIB

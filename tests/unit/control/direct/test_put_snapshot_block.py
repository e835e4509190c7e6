"""Blocks put into a pending snapshot: what is stored, what is refused, what stays."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ebscrypt.control import faultpoints, locks, upload
from ebscrypt.control.direct import DirectAccess
from ebscrypt.control.put_snapshot_block import complete_snapshot, put_snapshot_block
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot, delete_snapshot, sweep_store
from ebscrypt.control.upload_puts import MOST_PARTS
from ebscrypt.errors import InvalidBlockRequest, SnapshotNotFound, StoreUnreachable
from ebscrypt.model import SnapshotState, Volume, encryption_context
from ebscrypt.stores.names import BLOCK_SIZE
from tests.unit.control.direct import uploads
from tests.unit.control.direct.uploads import LAST, ZEROS, data
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import At, UnwrapsHere
from tests.unit.control.storing_inline import age


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Have something happen at a fault point, once."""

    def register(point: str, action: Callable[[], object]) -> None:
        waiting = [action]

        def reach(name: str) -> None:
            if name == point and waiting:
                waiting.pop()()

        monkeypatch.setattr(faultpoints, "reach", reach)

    return register


def refused(site: Site, access: DirectAccess, snapshot_id: str, index: int = 0, **changes: Any) -> InvalidBlockRequest:
    content = changes.pop("content", data(1))
    with pytest.raises(InvalidBlockRequest) as caught:
        put_snapshot_block(
            site, access, snapshot_id, index, content, **({"checksum": uploads.checksum(content)} | changes)
        )
    return caught.value


def test_what_is_stored_is_aes_xts_of_the_data(site: Site, access: DirectAccess, unwraps_here: UnwrapsHere) -> None:
    """Stored blocks decipher, by another implementation and the key of the snapshot's own context, to what was put."""
    blocks = {0: data(1), 7: data(2), 8: data(1), LAST: data(3)}
    snapshot = uploads.uploaded(site, access, blocks, encrypted=True)
    assert snapshot.encrypted
    wrapping = contents.manifest_of(site, snapshot).header.encryption
    assert wrapping is not None
    assert wrapping.encryption_context == encryption_context(snapshot.snapshot_id)
    assert unwraps_here.asked == [encryption_context(snapshot.snapshot_id)]
    assert uploads.deciphered(site, snapshot) == blocks
    stored = uploads.stored_blocks(site, snapshot)
    assert stored[0] != stored[8]
    assert all(bytes(512) not in {part[at : at + 512] for at in range(0, BLOCK_SIZE, 512)} for part in stored.values())


def test_a_plain_snapshot_has_the_bytes_that_were_put(
    site: Site, access: DirectAccess, unwraps_here: UnwrapsHere
) -> None:
    """Without encryption blocks are stored as they are, and no key is asked for."""
    blocks = {3: data(1), 4: data(2)}
    snapshot = uploads.uploaded(site, access, blocks)
    assert uploads.stored_blocks(site, snapshot) == blocks
    assert unwraps_here.asked == []


def test_a_block_of_zeros_is_a_hole(site: Site, access: DirectAccess) -> None:
    """Zeros count as a changed block, cost nothing, and take the place of what was put there before."""
    snapshot = uploads.start(site, encrypted=True)
    for index, content in [(0, ZEROS), (1, data(1)), (2, data(2)), (2, ZEROS)]:
        uploads.put(site, access, snapshot.snapshot_id, index, content)
    done = uploads.complete(site, snapshot.snapshot_id, {0: ZEROS, 1: data(1), 2: ZEROS})
    assert uploads.deciphered(site, done) == {1: data(1)}


def test_the_last_of_several_blocks_at_one_index_counts(site: Site, access: DirectAccess) -> None:
    """Data at an index is overwritten, and counts once."""
    snapshot = uploads.start(site)
    for seed in (1, 2, 3):
        uploads.put(site, access, snapshot.snapshot_id, 5, data(seed))
    done = uploads.complete(site, snapshot.snapshot_id, {5: data(3)})
    assert uploads.stored_blocks(site, done) == {5: data(3)}


def test_other_data_for_a_block_that_is_under_way_is_refused(site: Site, access: DirectAccess, at: At) -> None:
    """Two contents for one index at the same moment: the second is a conflict, the same content is none."""
    snapshot_id = uploads.start(site).snapshot_id
    found: list[str] = []

    def meanwhile() -> None:
        found.append(refused(site, access, snapshot_id, content=data(2)).reason)
        with access.puts(snapshot_id).claimed(0, hashlib.sha256(data(1)).digest()):
            found.append("same")

    at("upload.put", meanwhile)
    uploads.put(site, access, snapshot_id, 0, data(1))
    assert found == ["CONFLICTING_BLOCK_UPDATE", "same"]
    uploads.put(site, access, snapshot_id, 0, data(2))


def test_many_clients_at_once_lose_nothing(site: Site, access: DirectAccess) -> None:
    """Eight threads put 64 blocks, each twice; every one is there."""
    snapshot = uploads.start(site, encrypted=True)
    blocks = {index: data(index % 9) for index in range(64)}
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda index: uploads.put(site, access, snapshot.snapshot_id, index, blocks[index]), [*blocks] * 2)
        )
    done = uploads.complete(site, snapshot.snapshot_id, blocks)
    assert uploads.downloaded(site, access, done.snapshot_id) == blocks


def test_those_who_wait_share_one_sync(site: Site, access: DirectAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one batch is made to stay, all that come are the next one."""
    snapshot_id = uploads.start(site).snapshot_id
    puts = access.puts(snapshot_id)
    entered, go_on, sizes = threading.Event(), threading.Event(), []
    make_stay = puts._make_stay

    def slowly(site: Site, store: Any, batch: list[Any]) -> None:
        sizes.append(len(batch))
        if len(sizes) == 1:
            entered.set()
            assert go_on.wait(30)
        make_stay(site, store, batch)

    monkeypatch.setattr(puts, "_make_stay", slowly)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(uploads.put, site, access, snapshot_id, 0, data(0))
        assert entered.wait(30)
        others = [pool.submit(uploads.put, site, access, snapshot_id, index, data(index)) for index in range(1, 9)]
        with puts._turn:
            assert puts._turn.wait_for(lambda: True)
        while len(puts._waiting) < 8:
            threading.Event().wait(0.01)
        go_on.set()
        for one in [first, *others]:
            one.result()
    assert sizes == [1, 8]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"content": bytes(BLOCK_SIZE - 1)}, "INVALID_BLOCK"),
        ({"content": bytes(BLOCK_SIZE + 1)}, "INVALID_BLOCK"),
        ({"checksum": uploads.checksum(b"other")}, "INVALID_BLOCK"),
        ({"checksum": "no base64"}, "INVALID_BLOCK"),
        ({"index": LAST + 1}, "INVALID_BLOCK"),
        ({"index": -1}, "INVALID_BLOCK"),
    ],
)
def test_a_wrong_block_is_refused_with_its_reason(
    site: Site, access: DirectAccess, changes: dict[str, Any], reason: str
) -> None:
    """Length, checksum and place are checked before anything is stored."""
    snapshot_id = uploads.start(site).snapshot_id
    assert refused(site, access, snapshot_id, **changes).reason == reason
    assert upload.log_of(site.settings, snapshot_id).records() == 0


def test_only_a_pending_upload_takes_blocks(site: Site, access: DirectAccess, volume: Volume) -> None:
    """Not one that is complete, nor one that is made of a volume, nor one that is deleted."""
    done = uploads.uploaded(site, access, {0: data(1)})
    assert refused(site, access, done.snapshot_id).reason == "INVALID_SNAPSHOT_ID"
    of_volume = create_snapshot(site, volume.volume_id)
    assert refused(site, access, of_volume.snapshot_id).reason == "INVALID_SNAPSHOT_ID"
    gone = uploads.start(site).snapshot_id
    delete_snapshot(site, gone)
    with pytest.raises(SnapshotNotFound):
        uploads.put(site, access, gone, 0, data(1))


def test_a_deletion_ends_an_upload_and_leaves_nothing(site: Site, access: DirectAccess) -> None:
    """Row, folder and pins go; a sweep has the blocks then."""
    snapshot = uploads.start(site)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    delete_snapshot(site, snapshot.snapshot_id)
    assert contents.pins_in(site) == []
    assert not upload.folder(site.settings, snapshot.snapshot_id).exists()
    age(site)
    sweep_store(site, "local")
    assert contents.blocks_in(site) == 0


def test_no_sweep_takes_a_block_that_was_acknowledged(site: Site, access: DirectAccess) -> None:
    """However old the blocks are, and though no manifest lists them: they are pinned."""
    snapshot = uploads.start(site)
    blocks = {index: data(index) for index in range(3)}
    for index, content in blocks.items():
        uploads.put(site, access, snapshot.snapshot_id, index, content)
        age(site)
        sweep_store(site, "local")
    done = uploads.complete(site, snapshot.snapshot_id, blocks)
    assert uploads.downloaded(site, access, done.snapshot_id) == blocks
    assert contents.pins_in(site) == []


def test_a_block_that_a_sweep_takes_on_the_way_is_put_again(site: Site, access: DirectAccess, at: At) -> None:
    """Between put and pin a sweep may take it; the data is still at hand then."""
    snapshot = uploads.start(site)

    def swept() -> None:
        access.store("local").sync()
        age(site)
        assert sweep_store(site, "local").freed == 1

    at("upload.put", swept)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    done = uploads.complete(site, snapshot.snapshot_id, {0: data(1)})
    assert uploads.stored_blocks(site, done) == {0: data(1)}


def test_many_small_parts_of_a_pin_are_joined(
    site: Site, access: DirectAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that puts one block after another does not leave a part for each; and still nothing is swept."""
    monkeypatch.setattr("ebscrypt.control.upload_puts.MOST_PARTS", 3)
    assert MOST_PARTS > 3
    snapshot = uploads.start(site)
    blocks = {index: data(index) for index in range(11)}
    for index, content in blocks.items():
        uploads.put(site, access, snapshot.snapshot_id, index, content)
    age(site)
    sweep_store(site, "local")
    parts = [part for _, _, part in access.store("local").list_pins() if part != "released"]
    assert len(parts) <= 3 + 11 // 3
    done = uploads.complete(site, snapshot.snapshot_id, blocks)
    assert uploads.stored_blocks(site, done) == blocks


def test_a_failing_store_is_told_and_the_block_can_be_put_again(
    site: Site, access: DirectAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not made to stay is not acknowledged, and nothing of it is in the log."""
    snapshot = uploads.start(site)

    def fail(*_: object) -> None:
        raise StoreUnreachable("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(access.store("local"), "put_pin", fail)
        with pytest.raises(StoreUnreachable):
            uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    uploads.put(site, access, snapshot.snapshot_id, 1, data(2))
    done = uploads.complete(site, snapshot.snapshot_id, {1: data(2)})
    assert uploads.stored_blocks(site, done) == {1: data(2)}


def test_another_server_goes_on_with_the_upload(site: Site, access: DirectAccess) -> None:
    """What one process acknowledged another finds, with nothing passed between them but the state directory."""
    snapshot = uploads.start(site, encrypted=True)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    with Site(site.settings) as other_site, DirectAccess(site.settings) as other:
        uploads.put(other_site, other, snapshot.snapshot_id, 1, data(2))
        done = uploads.complete(other_site, snapshot.snapshot_id, {0: data(1), 1: data(2)})
    assert uploads.deciphered(site, done) == {0: data(1), 1: data(2)}


def test_the_progress_is_told(site: Site, access: DirectAccess) -> None:
    """`show` says how much was uploaded."""
    snapshot = uploads.start(site)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    now = site.catalog.snapshots.get(snapshot.snapshot_id)
    assert (now.bytes_done, now.bytes_total) == (BLOCK_SIZE, 1 << 30)


def test_completing_compares_count_and_checksum(site: Site, access: DirectAccess) -> None:
    """A client that lost a block is told, and may put it and complete then."""
    snapshot = uploads.start(site)
    blocks = {9: data(1), 2: data(2)}
    uploads.put(site, access, snapshot.snapshot_id, 9, blocks[9])
    with pytest.raises(InvalidBlockRequest, match="ChangedBlocksCount is 2, and 1"):
        complete_snapshot(site, snapshot.snapshot_id, changed_blocks_count=2)
    uploads.put(site, access, snapshot.snapshot_id, 2, data(3))
    with pytest.raises(InvalidBlockRequest, match="aggregated checksum"):
        complete_snapshot(site, snapshot.snapshot_id, changed_blocks_count=2, checksum=uploads.linear(blocks))
    uploads.put(site, access, snapshot.snapshot_id, 2, blocks[2])
    uploads.complete(site, snapshot.snapshot_id, blocks)


def test_completing_again_gives_the_same(site: Site, access: DirectAccess) -> None:
    """A client whose answer was lost asks again; there is one event."""
    done = uploads.uploaded(site, access, {0: data(1)})
    assert complete_snapshot(site, done.snapshot_id, changed_blocks_count=1) == done
    events = [event for _, event in site.catalog.events() if event["detail"]["event"] == "createSnapshot"]
    assert [event["detail"]["result"] for event in events] == ["succeeded"]
    assert events[0]["detail"]["snapshot_id"].endswith(done.snapshot_id)
    assert not upload.folder(site.settings, done.snapshot_id).exists()


def test_completing_while_another_does_says_pending(
    site: Site, access: DirectAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, and no work is done twice."""
    monkeypatch.setattr("ebscrypt.control.put_snapshot_block._PATIENCE", 0.05)
    snapshot = uploads.start(site)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))
    with locks.held(site.settings, snapshot.snapshot_id, "snapshot complete"):
        answered = complete_snapshot(site, snapshot.snapshot_id, changed_blocks_count=1)
    assert answered.state is SnapshotState.PENDING
    uploads.complete(site, snapshot.snapshot_id, {0: data(1)})


def test_an_upload_of_nothing_is_an_empty_snapshot(site: Site, access: DirectAccess) -> None:
    """No block at all is a snapshot of zeros."""
    done = uploads.uploaded(site, access, {})
    assert uploads.downloaded(site, access, done.snapshot_id) == {}


class PowerCut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", ["upload.put", "upload.secured", "upload.logged"])
def test_a_put_that_was_killed_can_be_repeated(site: Site, access: DirectAccess, at: At, point: str) -> None:
    """Whichever step it reached: another server takes the same block, or another one in its place."""
    snapshot = uploads.start(site, encrypted=True)
    uploads.put(site, access, snapshot.snapshot_id, 0, data(1))

    def cut() -> None:
        raise PowerCut

    at(point, cut)
    with pytest.raises(PowerCut):
        uploads.put(site, access, snapshot.snapshot_id, 1, data(2))
    with DirectAccess(site.settings) as other:
        uploads.put(site, other, snapshot.snapshot_id, 1, data(3))
    done = uploads.complete(site, snapshot.snapshot_id, {0: data(1), 1: data(3)})
    assert uploads.deciphered(site, done) == {0: data(1), 1: data(3)}
    delete_snapshot(site, done.snapshot_id)
    age(site)
    sweep_store(site, "local")
    assert contents.blocks_in(site) == 0

"""Blocks of completed snapshots: listed, compared, read; and which snapshots are relatives."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ebscrypt.control import list_snapshot_blocks as reading
from ebscrypt.control.block_tokens import LIFETIME
from ebscrypt.control.copy_snapshot import CopyRequest, copy_snapshot
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.direct import DirectAccess
from ebscrypt.control.list_snapshot_blocks import get_snapshot_block, list_changed_blocks, list_snapshot_blocks
from ebscrypt.control.relatives import are_related
from ebscrypt.control.rewrap_snapshot import rewrap_snapshot
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot, sweep_store
from ebscrypt.errors import EbscryptError, InvalidBlockRequest, KmsKeyDisabled, SnapshotNotFound
from ebscrypt.model import GIB, Snapshot
from ebscrypt.stores.names import BLOCK_SIZE
from tests.unit.control.direct import uploads
from tests.unit.control.direct.uploads import ZEROS, data
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import UnwrapsHere
from tests.unit.control.storing_inline import age


def changed(
    site: Site, access: DirectAccess, first: Snapshot, second: Snapshot
) -> dict[int, tuple[bytes | None, bytes | None]]:
    """All changes between two snapshots, read."""
    found: dict[int, tuple[bytes | None, bytes | None]] = {}
    token = None
    while True:
        page = list_changed_blocks(
            site, access, second.snapshot_id, first_snapshot_id=first.snapshot_id, next_token=token, max_results=100
        )
        for block in page.changed:
            contents_of = [
                None
                if of is None
                else get_snapshot_block(site, access, snapshot.snapshot_id, block.block, block_token=of).content
                for snapshot, of in ((first, block.first_token), (second, block.second_token))
            ]
            found[block.block] = (contents_of[0], contents_of[1])
        token = page.next_token
        if token is None:
            return found


@pytest.mark.parametrize("key", ["alias/aws/ebs", None])
def test_a_snapshot_of_a_volume_reads_as_its_plaintext(site: Site, access: DirectAccess, key: str | None) -> None:
    """What its daemon would serve, filled up with zeros to the next GiB, which is the size that is told."""
    snapshot = contents.snapshot_of(site, contents.filled_volume(site, key))
    blocks = uploads.downloaded(site, access, snapshot.snapshot_id)
    assert {len(content) for content in blocks.values()} == {BLOCK_SIZE}
    found = bytearray(contents.SIZE + BLOCK_SIZE)
    for index, content in blocks.items():
        found[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE] = content
    assert found.rstrip(b"\0") == contents.expected().rstrip(b"\0")
    assert list_snapshot_blocks(site, access, snapshot.snapshot_id).volume_size == 1


def test_a_download_asks_kms_once_with_the_snapshots_context(
    site: Site, access: DirectAccess, unwraps_here: UnwrapsHere
) -> None:
    """Not for each block."""
    snapshot = uploads.uploaded(site, access, {index: data(index) for index in range(5)}, encrypted=True)
    unwraps_here.asked.clear()
    with DirectAccess(site.settings) as other:
        uploads.downloaded(site, other, snapshot.snapshot_id)
        uploads.downloaded(site, other, snapshot.snapshot_id)
    assert unwraps_here.asked == [{"aws:ebs:id": snapshot.snapshot_id}]


def test_a_listing_goes_on_page_by_page(site: Site, access: DirectAccess) -> None:
    """In order, none twice and none left out; a page has at most what was asked for."""
    blocks = {index: data(index % 3) for index in range(0, 450, 2)}
    snapshot = uploads.uploaded(site, access, blocks)
    sizes, found, token = [], [], None
    while True:
        page = list_snapshot_blocks(site, access, snapshot.snapshot_id, next_token=token, max_results=100)
        sizes.append(len(page.blocks))
        found += [block for block, _ in page.blocks]
        token = page.next_token
        if token is None:
            break
    assert found == list(blocks)
    assert sizes == [100, 100, 25]
    now = time.time()
    assert now + LIFETIME - 60 < page.expiry <= now + LIFETIME


def test_pages_end_with_their_range_and_may_be_empty(
    site: Site, access: DirectAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the volume is, an answer looks at a part of it only."""
    monkeypatch.setattr(reading, "RANGE", 512)
    first = uploads.uploaded(site, access, {0: data(1), 2000: data(2)})
    second = uploads.uploaded(site, access, {2000: data(3)}, parent_snapshot_id=first.snapshot_id)
    pages, token = [], None
    while True:
        page = list_changed_blocks(
            site, access, second.snapshot_id, first_snapshot_id=first.snapshot_id, next_token=token
        )
        pages.append([block.block for block in page.changed])
        token = page.next_token
        if token is None:
            break
    assert pages == [[], [], [], [2000]]
    listing = list_snapshot_blocks(site, access, first.snapshot_id, starting_block_index=600)
    assert listing.blocks == []
    assert listing.next_token is not None


def test_starting_block_index_is_where_a_listing_begins(site: Site, access: DirectAccess) -> None:
    """And a token rules it out, as EBS says."""
    snapshot = uploads.uploaded(site, access, {index: data(1) for index in range(300)})
    page = list_snapshot_blocks(site, access, snapshot.snapshot_id, starting_block_index=150, max_results=100)
    assert [block for block, _ in page.blocks] == list(range(150, 250))
    page = list_snapshot_blocks(
        site, access, snapshot.snapshot_id, starting_block_index=0, next_token=page.next_token, max_results=100
    )
    assert [block for block, _ in page.blocks] == list(range(250, 300))


@pytest.mark.parametrize("encrypted", [True, False])
def test_changed_blocks_are_those_that_differ(site: Site, access: DirectAccess, encrypted: bool) -> None:  # noqa: FBT001 - a case
    """A token is missing where the snapshot has a hole; blocks that were put with the same data are none."""
    first = uploads.uploaded(site, access, {0: data(1), 1: data(2), 2: data(3)}, encrypted=encrypted)
    changes = {0: data(1), 1: data(4), 2: ZEROS, 9: data(5)}
    second = uploads.uploaded(site, access, changes, parent_snapshot_id=first.snapshot_id)
    assert changed(site, access, first, second) == {1: (data(2), data(4)), 2: (data(3), None), 9: (None, data(5))}
    assert changed(site, access, second, second) == {}


def test_changes_between_snapshots_of_a_volume(site: Site, access: DirectAccess) -> None:
    """What was written between two snapshots is what is listed."""
    volume = contents.filled_volume(site, "alias/aws/ebs")
    before = contents.snapshot_of(site, volume)
    contents.write(site, volume, {3 * BLOCK_SIZE: data(9)})
    after = contents.snapshot_of(site, volume)
    assert changed(site, access, before, after) == {3: (None, data(9))}


def relatives(site: Site, access: DirectAccess, key: str | None) -> dict[str, Snapshot]:
    """Snapshots that come from one volume in all the ways there are; and one that does not."""
    volume = contents.filled_volume(site, key)
    first = contents.snapshot_of(site, volume)
    copy = copy_snapshot(
        site,
        CopyRequest(source_snapshot_id=first.snapshot_id, encrypted=True if key else None, kms_key_id=key),
    )
    made = create_volume(site, VolumeRequest(snapshot_id=copy.snapshot_id, encrypted=key is not None, kms_key_id=key))
    of_made = contents.snapshot_of(site, made)
    child = uploads.uploaded(site, access, {}, parent_snapshot_id=of_made.snapshot_id)
    return {
        "first": first,
        "copy": copy,
        "of made": of_made,
        "child": child,
        "stranger": contents.snapshot_of(site, contents.filled_volume(site, key)),
        "upload": uploads.uploaded(site, access, {}, encrypted=key is not None),
    }


@pytest.mark.parametrize("key", ["alias/aws/ebs", None])
def test_relatives_are_those_of_one_lineage(site: Site, access: DirectAccess, key: str | None) -> None:
    """Snapshots, copies under the same key, volumes made of them and their snapshots; nothing else."""
    found = relatives(site, access, key)
    family = ["first", "copy", "of made", "child"]
    for one in found:
        for other in found:
            expected = one == other or (one in family and other in family)
            assert are_related(site, found[one], found[other]) is expected, (one, other)


def test_snapshots_of_two_lineages_cannot_be_compared(site: Site, access: DirectAccess, new_key: str) -> None:
    """A copy under another KMS key has a data key of its own: every block would differ."""
    first = uploads.uploaded(site, access, {0: data(1)}, encrypted=True)
    copy = copy_snapshot(site, CopyRequest(source_snapshot_id=first.snapshot_id, encrypted=True, kms_key_id=new_key))
    plain = uploads.uploaded(site, access, {0: data(1)})
    for other in (copy, plain):
        with pytest.raises(InvalidBlockRequest, match="are not related") as caught:
            changed(site, access, first, other)
        assert caught.value.reason == "UNRELATED_SNAPSHOTS"


@pytest.mark.parametrize("max_results", [0, 99, 10_001])
def test_max_results_has_ebs_bounds(site: Site, access: DirectAccess, max_results: int) -> None:
    """100 to 10000."""
    snapshot = uploads.uploaded(site, access, {})
    with pytest.raises(InvalidBlockRequest):
        list_snapshot_blocks(site, access, snapshot.snapshot_id, max_results=max_results)


def test_only_completed_snapshots_can_be_read(site: Site, access: DirectAccess) -> None:
    """Pending ones are refused as such, failed and deleted ones as not there."""
    pending = uploads.start(site, timeout=10).snapshot_id
    with pytest.raises(InvalidBlockRequest) as caught:
        list_snapshot_blocks(site, access, pending)
    assert caught.value.reason == "INVALID_SNAPSHOT_ID"
    done = uploads.uploaded(site, access, {0: data(1)})
    delete_snapshot(site, done.snapshot_id)
    with pytest.raises(SnapshotNotFound):
        list_snapshot_blocks(site, access, done.snapshot_id)


def test_a_token_serves_no_other_block(site: Site, access: DirectAccess) -> None:
    """It is bound to its snapshot and block."""
    snapshot = uploads.uploaded(site, access, {0: data(1), 1: data(2)})
    token = list_snapshot_blocks(site, access, snapshot.snapshot_id).blocks[0].token
    with pytest.raises(InvalidBlockRequest) as caught:
        get_snapshot_block(site, access, snapshot.snapshot_id, 1, block_token=token)
    assert caught.value.reason == "INVALID_BLOCK_TOKEN"


def test_a_block_of_a_deleted_snapshot_is_gone_with_it(site: Site, access: DirectAccess) -> None:
    """A token that is still good opens nothing."""
    snapshot = uploads.uploaded(site, access, {0: data(1)}, encrypted=True)
    token = list_snapshot_blocks(site, access, snapshot.snapshot_id).blocks[0].token
    delete_snapshot(site, snapshot.snapshot_id)
    age(site)
    sweep_store(site, "local")
    with pytest.raises(SnapshotNotFound):
        get_snapshot_block(site, access, snapshot.snapshot_id, 0, block_token=token)


def test_a_disabled_key_ends_reading_when_the_kept_one_is_wiped(site: Site, access: DirectAccess, new_key: str) -> None:
    """Within the time that keys are kept; and it goes on when the key is enabled again."""
    snapshot = uploads.uploaded(site, access, {0: data(1)}, kms_key_arn=new_key)
    token = list_snapshot_blocks(site, access, snapshot.snapshot_id).blocks[0].token

    def get() -> bytes:
        return get_snapshot_block(site, access, snapshot.snapshot_id, 0, block_token=token).content

    assert get() == data(1)
    site.kms.call("DisableKey", KeyId=new_key)
    access.keys.close()
    with pytest.raises(KmsKeyDisabled):
        get()
    site.kms.call("EnableKey", KeyId=new_key)
    assert get() == data(1)


def test_a_rewrapped_snapshot_reads_on(site: Site, access: DirectAccess, new_key: str) -> None:
    """Its manifest is another one; tokens and blocks are the same."""
    snapshot = uploads.uploaded(site, access, {0: data(1)}, encrypted=True)
    token = list_snapshot_blocks(site, access, snapshot.snapshot_id).blocks[0].token
    rewrap_snapshot(site, snapshot.snapshot_id, new_key)
    assert get_snapshot_block(site, access, snapshot.snapshot_id, 0, block_token=token).content == data(1)
    assert uploads.downloaded(site, access, snapshot.snapshot_id) == {0: data(1)}


def test_a_volume_of_an_uploaded_snapshot_is_what_was_uploaded(site: Site, access: DirectAccess) -> None:
    """Encrypted under the snapshot's key: what a client puts is what a device shows."""
    blocks = {0: data(1), 5: data(2), uploads.LAST: data(3)}
    snapshot = uploads.uploaded(site, access, blocks, encrypted=True)
    volume = create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id))
    assert volume.encrypted
    with contents.opened(site, volume) as device:
        assert device.size == GIB
        for index in (0, 1, 5, uploads.LAST):
            assert device.pread(BLOCK_SIZE, index * BLOCK_SIZE) == blocks.get(index, ZEROS)


def _missing(site: Site, access: DirectAccess, token: str) -> Callable[[], object]:
    return lambda: get_snapshot_block(site, access, "snap-00000000000000000", 0, block_token=token)


def test_a_snapshot_that_never_was_is_not_found(site: Site, access: DirectAccess) -> None:
    """Whatever the token says."""
    with pytest.raises(EbscryptError) as caught:
        _missing(site, access, "AAAA")()
    assert isinstance(caught.value, SnapshotNotFound)

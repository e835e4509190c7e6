"""`copy_snapshot`: contents, keys, contexts, what moves and what does not, and what is left of a failure."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from ebscrypt.control.copy_snapshot import CopyRequest, copy_snapshot
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot
from ebscrypt.model import encryption_context
from ebscrypt.stores.addresses import open_store
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import UnwrapsHere

pytestmark = pytest.mark.usefixtures("unwraps_here")


def test_under_the_same_key_no_block_moves_and_the_wrapped_key_is_the_copys_own(
    site: Site, new_key: str, unwraps_here: UnwrapsHere
) -> None:
    """ReEncrypt binds the data key to the copy's id; nobody unwraps anything; the lineage stays."""
    source = contents.snapshot_of(site, contents.filled_volume(site, new_key))
    blocks, asked = contents.blocks_in(site), len(unwraps_here.asked)

    copy = copy_snapshot(
        site,
        CopyRequest(
            source_snapshot_id=source.snapshot_id,
            encrypted=True,
            kms_key_id=new_key,
            description="kept",
            tags={"team": "db"},
        ),
    )

    assert len(unwraps_here.asked) == asked
    assert contents.blocks_in(site) == blocks
    before, after = contents.manifest_of(site, source), contents.manifest_of(site, copy)
    assert after.blocks == before.blocks
    assert after.header.encryption is not None
    assert before.header.encryption is not None
    assert after.header.encryption.encryption_context == encryption_context(copy.snapshot_id)
    assert after.header.encryption.wrapped_key != before.header.encryption.wrapped_key
    assert copy.data_encryption_key_id == source.data_encryption_key_id
    assert copy == msgspec.structs.replace(
        source,
        snapshot_id=copy.snapshot_id,
        description="kept",
        tags={"team": "db"},
        copied_from=source.snapshot_id,
        parent=None,
        digest=copy.digest,
        completion_time=copy.completion_time,
        bytes_done=copy.bytes_done,
        bytes_total=copy.bytes_total,
    )
    assert contents.read_snapshot(site, copy) == contents.expected()
    assert contents.pins_in(site) == []


def test_under_another_key_every_block_is_another(site: Site, new_key: str) -> None:
    """Same plaintext, no name in common, holes where holes were, a data key of its own."""
    source = contents.snapshot_of(site, contents.filled_volume(site, "alias/aws/ebs"))

    copy = copy_snapshot(site, CopyRequest(source_snapshot_id=source.snapshot_id, encrypted=True, kms_key_id=new_key))

    before, after = contents.manifest_of(site, source), contents.manifest_of(site, copy)
    assert list(after.blocks.runs()) == list(before.blocks.runs())
    assert not after.blocks.names() & before.blocks.names()
    assert copy.kms_key_arn == new_key
    assert copy.data_encryption_key_id not in (None, source.data_encryption_key_id)
    assert contents.read_snapshot(site, copy) == contents.expected()
    assert contents.pins_in(site) == []


def test_a_copy_of_a_plain_snapshot_has_sectors_of_512_bytes(site: Site, new_key: str) -> None:
    """What is in a plain volume counts in them: partition tables and XFS would be lost with 4096."""
    source = contents.snapshot_of(site, contents.filled_volume(site, None))

    copy = copy_snapshot(site, CopyRequest(source_snapshot_id=source.snapshot_id, encrypted=True, kms_key_id=new_key))

    assert (copy.sector_size, contents.manifest_of(site, copy).header.sector_size) == (512, 512)
    assert contents.read_snapshot(site, copy) == contents.expected()


@pytest.mark.parametrize("key", [None, "alias/aws/ebs"], ids=["plain", "encrypted"])
def test_the_event_says_whether_it_was_incremental(site: Site, new_key: str, key: str | None) -> None:
    """EBS's `copySnapshot`, with the source snapshot's ARN, and the strings "true" and "false"."""
    source = contents.snapshot_of(site, contents.filled_volume(site, key))

    same = copy_snapshot(site, CopyRequest(source_snapshot_id=source.snapshot_id))
    kept = contents.last_event(site)
    other = copy_snapshot(site, CopyRequest(source_snapshot_id=source.snapshot_id, encrypted=True, kms_key_id=new_key))
    turned = contents.last_event(site)

    for copy, event, incremental in ((same, kept, "true"), (other, turned, "false")):
        assert event["resources"] == [f"arn:aws:ec2::eu-central-1:snapshot/{copy.snapshot_id}"]
        assert event["detail"] | {"startTime": "", "endTime": ""} == {
            "event": "copySnapshot",
            "result": "succeeded",
            "cause": "",
            "request-id": "",
            "snapshot_id": f"arn:aws:ec2::eu-central-1:snapshot/{copy.snapshot_id}",
            "source": f"arn:aws:ec2::eu-central-1:snapshot/{source.snapshot_id}",
            "startTime": "",
            "endTime": "",
            "incremental": incremental,
        }


@pytest.mark.parametrize("other_key", [False, True], ids=["same-key", "other-key"])
def test_a_copy_in_another_store_stands_alone(site: Site, new_key: str, tmp_path: Path, *, other_key: bool) -> None:
    """It is whole after its source and the source's blocks are gone; asked again, only what is missing moves."""
    source = contents.snapshot_of(site, contents.filled_volume(site, new_key))
    elsewhere = (tmp_path / "elsewhere").as_uri()
    key = "alias/aws/ebs" if other_key else new_key
    request = CopyRequest(source_snapshot_id=source.snapshot_id, encrypted=True, kms_key_id=key, store=elsewhere)
    moved: list[int] = []

    copy = copy_snapshot(site, request, told=lambda done, _: moved.append(done))
    assert moved[-1] == contents.DATA
    if not other_key:
        copy_snapshot(site, request, told=lambda done, _: moved.append(done))
        assert moved[-1] == 0
    delete_snapshot(site, source.snapshot_id)
    with contextlib.closing(open_store(site.settings, "local")) as store:
        store.delete_blocks([block.name for block in store.list_blocks()])

    assert copy.store == elsewhere
    assert contents.read_snapshot(site, copy) == contents.expected()
    assert contents.pins_in(site, elsewhere) == contents.pins_in(site) == []

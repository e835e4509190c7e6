"""What ebscrypt relies on in a store: one suite for a directory, for S3 by a real server, and for AWS where allowed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebscrypt import errors
from ebscrypt.stores.names import BLOCK_SIZE, block_name, block_path
from ebscrypt.stores.store import Store
from ebscrypt.stores.sweep import sweep
from ebscrypt.stores.transfer import transfer
from ebscrypt.stores.witness import Witness
from tests.contracts.store_implementations import Place, on_every_store
from tests.snapshot_samples import KEY, block, manifest_of, put_blocks, snapshot_id

WITNESS = Witness(keys=(KEY,))


def name(number: int) -> bytes:
    return block_name(block(number))


@on_every_store
@pytest.mark.parametrize("size", [1, 4095, BLOCK_SIZE])
def test_a_block_comes_back_as_it_was(store: Store, size: int) -> None:
    """Blocks of every size come back byte for byte, before and after a sync; the second put says that it was there."""
    content = os.urandom(size)

    assert store.put_block(block_name(content), content)
    assert store.get_block(block_name(content)) == content
    assert not store.put_block(block_name(content), memoryview(content))
    store.sync()
    assert store.get_block(block_name(content)) == content
    assert not store.put_block(block_name(content), bytearray(content))


@on_every_store
@pytest.mark.parametrize("size", [0, BLOCK_SIZE + 1])
def test_no_block_of_another_size(store: Store, size: int) -> None:
    """Empty blocks and those over 512 KiB are a caller's mistake."""
    with pytest.raises(ValueError, match="bytes"):
        store.put_block(bytes(32), bytes(size))


@on_every_store
def test_another_process_sees_what_was_synced(place: Place, store: Store) -> None:
    """A second opening of the store has the block after the first one's sync."""
    put_blocks(store, [1])
    store.sync()
    other = place.open(create=False)

    assert other.get_block(name(1)) == block(1)
    other.close()


@on_every_store
def test_missing_names_are_found_in_batches(store: Store) -> None:
    """Of 1200 names, spread and crowded, exactly those that were not put are missing."""
    put_blocks(store, range(0, 300, 2))
    asked = {name(number) for number in range(300)} | {bytes([7, number]) + bytes(30) for number in range(256)}
    asked |= {bytes([7, 255, number]) + bytes(29) for number in range(256)}

    assert store.missing(asked) == asked - {name(number) for number in range(0, 300, 2)}
    assert store.missing([name(0)]) == set()
    assert store.missing([]) == set()


@on_every_store
def test_a_listing_has_every_block_in_order(place: Place, store: Store) -> None:
    """Names in order, sizes and plausible times; a shard has its own only; foreign files are passed over."""
    put_blocks(store, range(50))
    store.sync()
    if place.name == "directory":
        place.file("blocks/ab").mkdir(exist_ok=True)
        place.file("blocks/ab/README").touch()
        place.file("blocks/thumbs.db").touch()

    listed = list(store.list_blocks())

    assert [found.name for found in listed] == sorted(name(number) for number in range(50))
    assert {found.name: found.size for found in listed} == {name(number): len(block(number)) for number in range(50)}
    assert max(found.modified for found in listed) - min(found.modified for found in listed) < 60
    shards = [found for shard in range(256) for found in store.list_blocks(shard)]
    assert shards == listed


@on_every_store
def test_deleting_is_idempotent(store: Store) -> None:
    """A deleted block is gone and can be put again; deleting what is not there is fine."""
    put_blocks(store, [1, 2])
    store.sync()

    store.delete_blocks([name(1), name(3)])
    store.delete_blocks([name(1)])

    assert store.missing([name(1), name(2)]) == {name(1)}
    assert store.put_block(name(1), block(1))


@on_every_store
@pytest.mark.parametrize("damage", ["bit", "cut", "longer", "empty"])
def test_a_damaged_block_is_named(place: Place, store: Store, damage: str) -> None:
    """Whatever happened to its bytes, the block is not given out, the error names it, and it can be put right."""
    content = os.urandom(BLOCK_SIZE)
    store.put_block(block_name(content), content)
    store.sync()
    damaged = {
        "bit": bytes([content[0] ^ 1]) + content[1:],
        "cut": content[:-1],
        "longer": content + b"x",
        "empty": b"",
    }
    place.file(block_path(block_name(content))).write_bytes(damaged[damage])

    with pytest.raises(errors.BlockDamaged, match=block_name(content).hex()):
        store.get_block(block_name(content))
    assert store.put_block(block_name(content), content, replace=True)
    store.sync()
    assert store.get_block(block_name(content)) == content


@on_every_store
def test_a_missing_block_is_named(store: Store) -> None:
    """A block that is not there is an error of its own kind."""
    with pytest.raises(errors.BlockMissing, match=name(1).hex()):
        store.get_block(name(1))


@on_every_store
def test_a_false_name_never_reads_as_good(store: Store) -> None:
    """Bytes put under another name are refused, at the latest when they are read."""

    def put_and_get() -> None:
        store.put_block(name(1), b"other bytes")
        store.get_block(name(1))

    with pytest.raises(errors.StoreError):
        put_and_get()


@on_every_store
def test_many_put_the_same_block(store: Store) -> None:
    """Eight threads that put one block at once all succeed, and it is whole."""
    content = os.urandom(BLOCK_SIZE)

    transfer(range(32), lambda _: store.put_block(block_name(content), content), workers=8)
    store.sync()

    assert store.get_block(block_name(content)) == content
    assert len(list(store.list_blocks())) == 1


@on_every_store
def test_manifests(store: Store) -> None:
    """A manifest is put once, again if it is the same, never replaced; it is listed until it is deleted."""
    raw = manifest_of(1, range(3))

    store.put_manifest(snapshot_id(1), raw)
    store.put_manifest(snapshot_id(1), raw)
    with pytest.raises(errors.ManifestExists, match=snapshot_id(1)):
        store.put_manifest(snapshot_id(1), manifest_of(1, range(4)))
    assert store.get_manifest(snapshot_id(1)) == raw
    assert list(store.list_manifests()) == [snapshot_id(1)]
    with pytest.raises(errors.ManifestDamaged, match="longer"):
        store.get_manifest(snapshot_id(1), largest=len(raw) - 1)
    store.delete_manifest(snapshot_id(1))
    store.delete_manifest(snapshot_id(1))
    assert list(store.list_manifests()) == []
    with pytest.raises(errors.SnapshotNotFound, match=snapshot_id(1)):
        store.get_manifest(snapshot_id(1))


@on_every_store
def test_a_manifest_is_replaced_whole(store: Store) -> None:
    """By who says so, as a rewrap does; it is the only one, and the next reader sees it."""
    store.put_manifest(snapshot_id(1), manifest_of(1, range(3)))
    newer = manifest_of(1, range(4))

    store.replace_manifest(snapshot_id(1), newer)

    assert store.get_manifest(snapshot_id(1)) == newer
    assert list(store.list_manifests()) == [snapshot_id(1)]


@on_every_store
def test_only_a_store_or_nothing_is_opened(place: Place, store: Store) -> None:
    """What is there must be a store of this version; an empty place becomes one only if that is allowed."""
    place.open().close()
    empty = Place(place.name, place.url.replace("store", "other").replace("/test-", "/none-"), place.settings, None)
    with pytest.raises(errors.StoreNotFound):
        empty.open(create=False)
    about = place.file("store.json").read_bytes()
    store.put_manifest(snapshot_id(1), manifest_of(1, range(3)))
    place.file("store.json").unlink()
    with pytest.raises(errors.StoreNotFound, match="something else"):
        place.open()
    place.file("store.json").write_bytes(about.replace(b'"Version":1', b'"Version":2'))
    with pytest.raises(errors.StoreUnsupported):
        place.open()


_PUTTING = """
import os, sys
from pathlib import Path
from tests.contracts.store_implementations import settings_at
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.names import block_name
store = open_store(settings_at(Path(sys.argv[1])), sys.argv[2])
for turn in range(100_000):
    content = os.urandom(524288)
    store.put_block(block_name(content), content)
    if turn % 4 == 3:
        store.sync()
        print("synced", flush=True)
"""


@on_every_store
def test_a_killed_writer_leaves_no_part_of_a_block(place: Place, tmp_path: Path) -> None:
    """After kill -9 in the midst of puts every block that is listed is whole, and a sweep removes the rest."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", _PUTTING, tmp_path / "state", place.url], stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        for _ in range(6):
            assert writer.stdout.readline() == b"synced\n"
        writer.send_signal(signal.SIGKILL)
    store = place.open(create=False)

    blocks = list(store.list_blocks())
    assert len(blocks) >= 24
    for found in blocks:
        assert len(store.get_block(found.name)) == BLOCK_SIZE
    assert sweep(store, grace=0).freed == len(blocks)
    store.close()
    if place.name == "directory":
        assert list(place.file("incoming").iterdir()) == []

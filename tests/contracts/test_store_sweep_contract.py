"""What snapshots rely on in every kind of store: what is needed stays, what is not goes, whatever happens at once."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from ebscrypt import errors
from ebscrypt.stores.manifest import decode
from ebscrypt.stores.names import block_name, manifest_path
from ebscrypt.stores.publish import Pin, hold, publish
from ebscrypt.stores.store import Store
from ebscrypt.stores.sweep import sweep
from ebscrypt.stores.transfer import transfer
from ebscrypt.stores.witness import UNCHECKED, Witness
from tests.contracts.store_implementations import Place, on_every_store
from tests.snapshot_samples import KEY, VOLUME_ID, block, blocks_of, manifest_of, put_blocks, snapshot_id

WITNESS = Witness(keys=(KEY,))


def name(number: int) -> bytes:
    return block_name(block(number))


def take(store: Store, number: int, numbers: range) -> None:
    """A snapshot with these blocks."""
    pin = Pin(store, snapshot_id(number))
    put_blocks(store, numbers)
    publish(
        store,
        snapshot_id(number),
        manifest_of(number, numbers),
        names=blocks_of(numbers).names(),
        pin=pin,
        put_again=lambda _: pytest.fail("nothing was swept"),
    )


@on_every_store
def test_a_sweep_frees_what_no_snapshot_needs(store: Store) -> None:
    """Deleting one of two snapshots frees its own blocks, and none that they share."""
    take(store, 1, range(20))
    take(store, 2, range(10, 30))
    put_blocks(store, [99])
    store.sync()

    first = sweep(store, grace=0)
    store.delete_manifest(snapshot_id(1))
    second = sweep(store, grace=0)

    assert (first.freed, first.needed, second.freed, second.needed) == (1, 30, 10, 20)
    assert second.freed_bytes == sum(len(block(number)) for number in range(10))
    manifest = decode(store.get_manifest(snapshot_id(2)), snapshot_id(2), WITNESS)
    assert {store.get_block(found) for _, found in manifest.blocks} == {block(number) for number in range(10, 30)}
    assert {found.name for found in store.list_blocks()} == {name(number) for number in range(10, 30)}
    assert list(store.list_pins()) == []
    assert store.list_markers() == []


@on_every_store
def test_young_and_pinned_blocks_are_spared(store: Store) -> None:
    """Within the grace period nothing goes, pinned blocks stay without it, and a release lets them go."""
    put_blocks(store, range(4))
    pin = Pin(store, VOLUME_ID)
    pin.add([name(0), name(1)])

    assert sweep(store, grace=3600).young == 2
    assert sweep(store, grace=0).freed == 2
    assert store.missing(name(number) for number in range(4)) == {name(2), name(3)}
    pin.release()
    swept = sweep(store, grace=0)

    assert (swept.freed, swept.pins_removed) == (2, 1)
    assert list(store.list_pins()) == []


@on_every_store
def test_a_held_snapshot_can_be_read_after_its_deletion(store: Store) -> None:
    """A restore goes on reading when the snapshot is deleted and swept; afterwards its blocks go."""
    take(store, 1, range(10))
    pin, manifest = hold(store, VOLUME_ID, snapshot_id(1), WITNESS)

    store.delete_manifest(snapshot_id(1))
    assert sweep(store, grace=0).freed == 0
    assert [store.get_block(found) for _, found in manifest.blocks] == [block(number) for number in range(10)]
    pin.release()
    assert sweep(store, grace=0).freed == 10


@on_every_store
@pytest.mark.parametrize("what", ["manifest", "pin"])
def test_a_sweep_does_not_guess(place: Place, store: Store, what: str) -> None:
    """A manifest or pin that cannot be read stops a sweep before anything is deleted."""
    take(store, 1, range(3))
    sweep(store, grace=0)
    pin = Pin(store, VOLUME_ID)
    pin.add([name(50)])
    put_blocks(store, [99])
    store.sync()
    path = manifest_path(snapshot_id(1)) if what == "manifest" else f"{next(store.list_pins())[0]}00000000"
    file = place.file(path)
    file.write_bytes(file.read_bytes()[:100] if what == "manifest" else bytes(64))

    with pytest.raises(errors.ManifestDamaged):
        sweep(store, grace=0)
    assert store.missing([name(99), name(0)]) == set()
    assert store.list_markers() == []


@on_every_store
def test_a_forged_manifest_is_told(store: Store) -> None:
    """A manifest that nothing vouches for is refused by readers, and costs a sweep nothing but space."""
    raw = bytearray(manifest_of(1, range(3)))
    raw[-1] ^= 1
    put_blocks(store, range(3))
    store.put_manifest(snapshot_id(1), bytes(raw))

    with pytest.raises(errors.ManifestNotAuthentic):
        hold(store, VOLUME_ID, snapshot_id(1), WITNESS)
    assert sweep(store, grace=0).freed == 0
    assert len(decode(store.get_manifest(snapshot_id(1)), snapshot_id(1), UNCHECKED).blocks) == 3


@on_every_store
def test_snapshots_come_and_go_beside_sweeps(place: Place, store: Store) -> None:
    """Three openings of one store make, read and delete snapshots that share blocks, while sweeps free all they may.

    Every snapshot that was not deleted is whole, every read of a held one succeeds, and one last sweep leaves nothing.
    """
    ended = threading.Event()

    def put(own: Store, numbers: range, absent: set[bytes]) -> None:
        put_blocks(own, (index for index in numbers if name(index) in absent))

    def make(worker: int) -> int:
        own = place.open()
        for turn in range(5):
            number, numbers = 10 * worker + turn, range(turn, turn + 6)
            wanted = {name(index) for index in numbers}
            pin = Pin(own, snapshot_id(number))
            put_blocks(own, numbers)
            raw = manifest_of(number, numbers)
            publish(own, snapshot_id(number), raw, names=wanted, pin=pin, put_again=partial(put, own, numbers))
            held, manifest = hold(own, VOLUME_ID, snapshot_id(number), WITNESS)
            if turn < 4:
                own.delete_manifest(snapshot_id(number))
            assert [own.get_block(found) for _, found in manifest.blocks] == [block(index) for index in numbers]
            held.release()
        own.close()
        return 0

    def sweep_on(_: int) -> int:
        own = place.open()
        while not ended.is_set():
            sweep(own, grace=0)
        own.close()
        return 0

    sweeper = threading.Thread(target=transfer, args=(range(1), sweep_on), kwargs={"workers": 1})
    sweeper.start()
    try:
        transfer(range(1, 4), make, workers=3)
    finally:
        ended.set()
        sweeper.join()

    sweep(store, grace=0)
    sweep(store, grace=0)
    assert set(store.list_manifests()) == {snapshot_id(10 * worker + 4) for worker in (1, 2, 3)}
    assert {found.name for found in store.list_blocks()} == {name(index) for index in range(4, 10)}
    assert list(store.list_pins()) == []

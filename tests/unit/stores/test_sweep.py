import threading
from pathlib import Path

import pytest

from ebscrypt import errors
from ebscrypt.stores import sweep as sweeping
from ebscrypt.stores.names import SWEEPS, block_name
from ebscrypt.stores.publish import Pin, publish, wait_for_sweeps
from ebscrypt.stores.store import Store
from ebscrypt.stores.sweep import sweep
from ebscrypt.stores.witness import KEY_SIZE, ManifestKey, load_manifest_key
from tests.snapshot_samples import VOLUME_ID, block, manifest_of, put_blocks, snapshot_id
from tests.unit.stores.memory_objects import Memory


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def store(memory: Memory) -> Store:
    return Store(memory)


class Clock:
    """A clock that moves when it is told, and by ``each`` whenever it is looked at."""

    def __init__(self, each: float = 0.0) -> None:
        self.now, self.each = 0.0, each

    def __call__(self) -> float:
        self.now += self.each
        return self.now


def snapshot(store: Store, number: int, numbers: range) -> None:
    put_blocks(store, numbers)
    store.put_manifest(snapshot_id(number), manifest_of(number, numbers))


@pytest.mark.parametrize("most_live", [1, 7, 50, 1000])
def test_a_large_store_is_swept_in_passes(store: Store, most_live: int) -> None:
    """However few names fit into memory, the same blocks go and the same stay."""
    snapshot(store, 1, range(100))
    snapshot(store, 2, range(50, 200))
    put_blocks(store, range(300, 400))
    Pin(store, VOLUME_ID).add(block_name(block(number)) for number in range(300, 310))

    swept = sweep(store, grace=0, most_live=most_live)

    assert (swept.freed, swept.needed) == (90, 210)
    assert {found.name for found in store.list_blocks()} == {
        block_name(block(number)) for number in [*range(200), *range(300, 310)]
    }


def test_a_sweep_works_in_rounds(memory: Memory, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a round's time is up, another one looks anew: what was pinned in between stays."""
    monkeypatch.setattr(sweeping, "_BATCH", 1)
    put_blocks(store, range(20))
    last = max(found.name for found in store.list_blocks())
    markers: set[str] = set()

    def changed() -> None:
        before = len(markers)
        markers.update(path for path in memory.objects if path.startswith(SWEEPS))
        if before < 5 <= len(markers):
            Pin(store, VOLUME_ID).add([last])

    memory.changed = changed
    swept = sweep(store, grace=0, clock=Clock(each=6.0))

    assert len(markers) > 5
    assert {found.name for found in store.list_blocks()} == {last}
    assert (swept.freed, swept.needed) == (19, 1)
    assert store.list_markers() == []


def test_a_sweep_that_does_not_keep_up_gives_up(store: Store) -> None:
    """If looking always takes longer than a round may, nothing is deleted, and it says so."""
    put_blocks(store, range(3))
    with pytest.raises(errors.SweepLost, match="keep up"):
        sweep(store, grace=0, clock=Clock(each=100.0))
    assert len(list(store.list_blocks())) == 3
    assert store.list_markers() == []


def test_a_sweep_that_was_taken_for_dead_deletes_nothing_more(memory: Memory, store: Store) -> None:
    """A writer who removed its marker can rely on it: the sweep stops before its next deletion."""
    put_blocks(store, range(3))
    markers: set[str] = set()

    def changed() -> None:
        markers.update(path for path in memory.objects if path.startswith(SWEEPS))
        if len(markers) == 2:  # the first one only tells the time
            for path in markers:
                memory.objects.pop(path, None)

    memory.changed = changed
    with pytest.raises(errors.SweepLost, match="took it for dead"):
        sweep(store, grace=0, clock=lambda: 0.0)
    assert len(list(store.list_blocks())) == 3


def test_cancelling_a_sweep(store: Store) -> None:
    """It stops, and leaves no marker."""
    snapshot(store, 1, range(3))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(errors.TransferCancelled):
        sweep(store, grace=0, cancel=cancel)
    assert store.list_markers() == []


def test_a_writer_waits_for_the_living_and_not_for_the_dead(store: Store) -> None:
    """He waits while a marker stands, not for those that came later, and removes one that stands too long."""
    clock = Clock()
    store.put_marker(f"{SWEEPS}{'a' * 32}")
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds
        store.put_marker(f"{SWEEPS}{'b' * 32}")
        if len(waits) == 3:
            store.remove_marker(f"{SWEEPS}{'a' * 32}")

    wait_for_sweeps(store, clock=clock, pause=pause)
    assert len(waits) == 3
    wait_for_sweeps(store, patience=10, clock=clock, pause=pause)
    assert store.list_markers() == []
    wait_for_sweeps(store, clock=clock, pause=lambda _: pytest.fail("nobody is there"))


def test_a_store_that_loses_blocks_is_told(store: Store) -> None:
    """When blocks do not stay although no sweep can have taken them, no manifest is put."""
    with pytest.raises(errors.BlockMissing, match="do not stay"):
        publish(
            store,
            snapshot_id(1),
            manifest_of(1, range(3)),
            names={block_name(block(1))},
            pin=Pin(store, snapshot_id(1)),
            put_again=lambda _: None,
        )
    assert list(store.list_manifests()) == []


def test_markers_of_the_long_dead_are_removed(memory: Memory, store: Store) -> None:
    """A marker an hour older than the store's now is swept up with the rest; a younger one stays."""
    store.put_marker(f"{SWEEPS}{'a' * 32}")
    store.put_marker(f"{SWEEPS}{'b' * 32}")
    memory._time = 3602
    sweep(store, grace=0, clock=lambda: 0.0)
    assert [entry.path for entry in store.list_markers()] == [f"{SWEEPS}{'b' * 32}"]


def test_the_manifest_key_is_made_once(tmp_path: Path) -> None:
    """Everybody gets the same key, it is private, does not show itself, and a damaged one is refused."""
    path = tmp_path / "state" / "manifest.key"
    keys: list[ManifestKey] = []
    threads = [threading.Thread(target=lambda: keys.append(load_manifest_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({key.secret for key in keys}) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(keys[0].secret) == KEY_SIZE
    assert repr(keys[0]) == "ManifestKey()"
    path.write_bytes(b"short")
    with pytest.raises(errors.StoreError, match="5 bytes"):
        load_manifest_key(path)

"""Commands that run at the same time: of two that want the same change, one gets it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.errors import StateError
from ebscrypt.model import Volume, VolumeState

RACERS = 6


def run_at_once(work: Callable[[int], None]) -> list[BaseException | None]:
    """Call ``work`` in as many threads as there are racers, at one moment; what each raised."""
    outcomes: list[BaseException | None] = [None] * RACERS
    start = threading.Barrier(RACERS)

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - the caller looks at it
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_one_of_many_gets_the_volume(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    """Each racer has a connection of its own, as a command has; one wins, the others are refused by type."""
    path = tmp_path / "catalog.db"
    volume = make_volume(state=VolumeState.AVAILABLE)
    with Catalog(path) as catalog:
        catalog.add(volume)

    def attach(_: int) -> None:
        with Catalog(path) as own:
            own.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    outcomes = run_at_once(attach)

    assert outcomes.count(None) == 1
    assert all(isinstance(outcome, StateError) for outcome in outcomes if outcome is not None)


def test_no_change_of_tags_is_lost(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    """Read and write are one transaction: what all racers added is there in the end."""
    path = tmp_path / "catalog.db"
    volume = make_volume()
    with Catalog(path) as catalog:
        catalog.add(volume)

    def with_key(key: str) -> Callable[[Mapping[str, str]], Mapping[str, str]]:
        return lambda old: {**old, key: ""}

    def tag(number: int) -> None:
        with Catalog(path) as own:
            for step in range(5):
                own.change_tags(volume.volume_id, with_key(f"{number}-{step}"))

    outcomes = run_at_once(tag)

    assert outcomes == [None] * RACERS
    with Catalog(path) as catalog:
        assert len(catalog.volume(volume.volume_id).tags) == RACERS * 5

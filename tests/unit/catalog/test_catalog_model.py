"""The catalog against a model: whatever commands do in whatever order, it says what a dictionary would."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import VolumeEvent, volume_event
from ebscrypt.errors import BackingInUse, StateError
from ebscrypt.model import VOLUME_TRANSITIONS, BackingKind, Volume, VolumeState, new_volume_id, utc_now

BACKINGS = st.sampled_from([f"/dev/sd{letter}" for letter in "abc"])
STATES = st.sampled_from([state for state in VolumeState if state is not VolumeState.DELETED])
TAGS = st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3)


class CatalogModel(RuleBasedStateMachine):
    """``volumes`` and ``events`` are what the catalog must hold; ``claims`` says whose backing is whose."""

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.catalog = Catalog(Path(self.directory.name) / "catalog.db")
        self.volumes: dict[str, Volume] = {}
        self.claims: dict[str, str] = {}
        self.events: list[str] = []

    def teardown(self) -> None:
        self.catalog.close()
        self.directory.cleanup()

    def event(self, volume_id: str) -> dict[str, object]:
        made = volume_event(VolumeEvent.CREATE, "available", volume_id=volume_id, region="r", account="0" * 12)
        return dict(made)

    @rule(target=known, backing=BACKINGS, tags=TAGS)
    def add(self, backing: str, tags: dict[str, str]) -> str:
        volume = Volume(
            volume_id=new_volume_id(),
            state=VolumeState.CREATING,
            size=4096,
            backing=backing,
            backing_kind=BackingKind.BLOCK,
            backing_owned=False,
            encrypted=True,
            create_time=utc_now(),
            tags=tags,
        )
        try:
            self.catalog.add(volume)
        except BackingInUse:
            assert backing in self.claims.values()
        else:
            assert backing not in self.claims.values()
            self.volumes[volume.volume_id] = volume
            self.claims[volume.volume_id] = backing
        return volume.volume_id

    @precondition(lambda self: self.volumes)
    @rule(volume_id=known, expected=STATES, new=STATES)
    def change_state(self, volume_id: str, expected: VolumeState, new: VolumeState) -> None:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return
        event = self.event(volume_id)
        allowed = new in VOLUME_TRANSITIONS[expected] and volume.state is expected
        try:
            self.catalog.change_state(volume_id, expected, new, event)
        except StateError:
            assert not allowed
        else:
            assert allowed
            self.volumes[volume_id] = msgspec.structs.replace(volume, state=new)
            self.events.append(str(event["id"]))
            if new is VolumeState.ERROR:
                del self.claims[volume_id]

    @rule(volume_id=consumes(known))
    def remove(self, volume_id: str) -> None:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return
        try:
            self.catalog.remove(volume_id)
        except StateError:
            assert volume.state is not VolumeState.DELETING
        else:
            assert volume.state is VolumeState.DELETING
            del self.volumes[volume_id]
            self.claims.pop(volume_id, None)

    @rule(volume_id=known, tags=TAGS)
    def change_tags(self, volume_id: str, tags: dict[str, str]) -> None:
        if volume_id in self.volumes:
            self.catalog.change_tags(volume_id, lambda _: tags)
            self.volumes[volume_id] = msgspec.structs.replace(self.volumes[volume_id], tags=tags)

    @rule()
    def reopen(self) -> None:
        self.catalog.close()
        self.catalog = Catalog(Path(self.directory.name) / "catalog.db")

    @invariant()
    def they_agree(self) -> None:
        assert {volume.volume_id: volume for volume in self.catalog.volumes()} == self.volumes
        assert [str(event["id"]) for _, event in self.catalog.events()] == self.events


CatalogModel.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_the_catalog_agrees_with_its_model = CatalogModel.TestCase

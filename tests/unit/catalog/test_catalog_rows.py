"""What `Catalog` keeps and gives back, and which changes of state it lets through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.errors import BackingInUse, StateError, VolumeNotFound
from ebscrypt.model import MAX_VOLUME_SIZE, BackingKind, Volume, VolumeState, new_volume_id

MakeVolume = Callable[..., Volume]
KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def test_a_volume_comes_back_as_it_was_entered(catalog: Catalog, make_volume: MakeVolume) -> None:
    """Every field survives the way through the database, the time with its zone and milliseconds."""
    volume = make_volume(
        size=MAX_VOLUME_SIZE,
        kms_key_arn=KEY_ARN,
        sector_size=512,
        volume_type="io2",
        snapshot_id="snap-0123456789abcdef0",
        tags={"Name": "mail", "Ключ": "", "empty": ""},
    )

    catalog.add(volume)

    assert catalog.volume(volume.volume_id) == volume


def test_a_plain_volume_on_a_block_device_comes_back(catalog: Catalog, make_volume: MakeVolume) -> None:
    """The booleans and kinds are not all the default's."""
    volume = make_volume(encrypted=False, backing="/dev/sdx", backing_kind=BackingKind.BLOCK, backing_owned=False)

    catalog.add(volume)

    assert catalog.volume(volume.volume_id) == volume


def test_an_unknown_volume_is_not_found(catalog: Catalog) -> None:
    """The error says which id, and where to look."""
    volume_id = new_volume_id()

    with pytest.raises(VolumeNotFound, match=volume_id) as caught:
        catalog.volume(volume_id)

    assert caught.value.hint is not None
    assert "ebscrypt ls" in caught.value.hint


def test_volumes_come_oldest_first_and_by_state(catalog: Catalog, make_volume: MakeVolume) -> None:
    """`volumes()` gives all, `volumes(state…)` those in one of the states, each with its own tags."""
    first = make_volume(tags={"n": "1"})
    second = make_volume(tags={"n": "2"}, state=VolumeState.AVAILABLE)
    second = msgspec.structs.replace(second, create_time=first.create_time.replace(year=first.create_time.year + 1))
    catalog.add(second)
    catalog.add(first)

    assert catalog.volumes() == [first, second]
    assert catalog.volumes(VolumeState.AVAILABLE, VolumeState.IN_USE) == [second]
    assert catalog.volumes(VolumeState.DELETING) == []


def test_one_backing_has_one_volume(catalog: Catalog, make_volume: MakeVolume) -> None:
    """The second volume on a backing is refused, and told whose it is."""
    owner = make_volume(backing="/dev/sdx")
    catalog.add(owner)

    with pytest.raises(BackingInUse, match=owner.volume_id):
        catalog.add(make_volume(backing="/dev/sdx"))

    assert [volume.volume_id for volume in catalog.volumes()] == [owner.volume_id]


def test_a_failed_creation_gives_its_backing_free(catalog: Catalog, make_volume: MakeVolume) -> None:
    """After `error` another volume may have the backing, and the failed one can still be deleted."""
    failed = make_volume(backing="/dev/sdx")
    catalog.add(failed)
    catalog.change_state(failed.volume_id, VolumeState.CREATING, VolumeState.ERROR, state_message="KMS said no")

    catalog.add(make_volume(backing="/dev/sdx"))

    assert catalog.volume(failed.volume_id).state_message == "KMS said no"
    catalog.change_state(failed.volume_id, VolumeState.ERROR, VolumeState.DELETING)
    catalog.remove(failed.volume_id)


def test_the_same_id_twice_is_refused(catalog: Catalog, make_volume: MakeVolume) -> None:
    """A rebuild that finds two copies of one volume cannot enter both."""
    volume = make_volume()
    catalog.add(volume)

    with pytest.raises(StateError, match="already"):
        catalog.add(make_volume(volume_id=volume.volume_id, backing="/elsewhere"))


def test_a_change_needs_the_expected_state(catalog: Catalog, make_volume: MakeVolume) -> None:
    """Compare and set: who expects a state that is past is refused, and nothing changes."""
    volume = make_volume(state=VolumeState.AVAILABLE)
    catalog.add(volume)
    catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    with pytest.raises(StateError, match="is in-use, not available"):
        catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)

    assert catalog.volume(volume.volume_id).state is VolumeState.IN_USE


def test_a_change_outside_of_the_table_is_refused(catalog: Catalog, make_volume: MakeVolume) -> None:
    """The table of transitions rules even where the expected state is right."""
    volume = make_volume()
    catalog.add(volume)

    with pytest.raises(StateError, match="cannot become in-use"):
        catalog.change_state(volume.volume_id, VolumeState.CREATING, VolumeState.IN_USE)


def test_only_a_volume_in_deleting_can_be_removed(catalog: Catalog, make_volume: MakeVolume) -> None:
    """Removal is the last step of a deletion and of nothing else; the tags go with the row."""
    volume = make_volume(state=VolumeState.AVAILABLE, tags={"a": "b"})
    catalog.add(volume)
    with pytest.raises(StateError, match="is available, not deleting"):
        catalog.remove(volume.volume_id)
    catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)

    catalog.remove(volume.volume_id)

    with pytest.raises(VolumeNotFound):
        catalog.volume(volume.volume_id)
    again = make_volume(volume_id=volume.volume_id)
    catalog.add(again)
    assert catalog.volume(volume.volume_id).tags == {}


def test_tags_are_changed_as_a_whole(catalog: Catalog, make_volume: MakeVolume) -> None:
    """The change sees the present tags, and what it returns replaces them."""
    volume = make_volume(tags={"keep": "1", "drop": "2"})
    catalog.add(volume)

    def change(old: Mapping[str, str]) -> Mapping[str, str]:
        assert old == {"keep": "1", "drop": "2"}
        return {"keep": old["keep"], "new": "3"}

    assert catalog.change_tags(volume.volume_id, change).tags == {"keep": "1", "new": "3"}


def test_a_change_of_tags_that_raises_changes_nothing(catalog: Catalog, make_volume: MakeVolume) -> None:
    """A refused tag leaves the old ones."""
    volume = make_volume(tags={"keep": "1"})
    catalog.add(volume)

    def refuse(old: Mapping[str, str]) -> Mapping[str, str]:
        raise ValueError(len(old))

    with pytest.raises(ValueError, match="1"):
        catalog.change_tags(volume.volume_id, refuse)
    assert catalog.volume(volume.volume_id).tags == {"keep": "1"}


def test_a_resize_is_noted_until_it_ends(catalog: Catalog, make_volume: MakeVolume) -> None:
    """The target is there from the first step to the last, and the size changes with the last."""
    volume = make_volume(state=VolumeState.AVAILABLE)
    catalog.add(volume)

    catalog.begin_resize(volume.volume_id, VolumeState.AVAILABLE, volume.size * 2)
    assert catalog.resizes() == {volume.volume_id: volume.size * 2}
    assert catalog.volume(volume.volume_id).size == volume.size
    catalog.end_resize(volume.volume_id, volume.size * 2)

    assert catalog.resizes() == {}
    assert catalog.volume(volume.volume_id).size == volume.size * 2


def test_a_row_can_be_corrected_but_not_its_state(catalog: Catalog, make_volume: MakeVolume) -> None:
    """A backing that moved takes its claim along; states change in one way only."""
    volume, other = make_volume(backing="/dev/sdx"), make_volume(backing="/dev/sdy")
    catalog.add(volume)
    catalog.add(other)

    with pytest.raises(BackingInUse, match=other.volume_id):
        catalog.correct(volume.volume_id, backing="/dev/sdy")
    assert catalog.correct(volume.volume_id, backing="/dev/sdz").backing == "/dev/sdz"
    catalog.add(make_volume(backing="/dev/sdx"))
    with pytest.raises(ValueError, match="change_state"):
        catalog.correct(volume.volume_id, state="available")

"""Tags under EC2's rules."""

from __future__ import annotations

import pytest

from ebscrypt.control.site import Site
from ebscrypt.control.tags import check_tags, tag_volume
from ebscrypt.errors import InvalidParameter, VolumeNotFound
from ebscrypt.model import Volume


@pytest.mark.parametrize(
    "tags",
    [
        {"": "x"},
        {"k" * 128: ""},
        {"k": "v" * 257},
        {"aws:name": ""},
        {"AWS:name": ""},
        {"k\n": ""},
        {"k": "\x1b[31m"},
        {f"k{number}": "" for number in range(51)},
    ],
)
def test_what_ec2_refuses_is_refused(tags: dict[str, str]) -> None:
    """Lengths, count, the reserved prefix, and characters that would spoil a terminal."""
    with pytest.raises(InvalidParameter):
        check_tags(tags)


def test_what_ec2_allows_is_allowed() -> None:
    """The longest key and value, the largest number, letters of every language."""
    tags = {f"k{number}": "" for number in range(49)} | {"Ж" * 127: "v" * 256}

    assert check_tags(tags) == tags


def test_tags_are_set_and_removed_together(site: Site, volume: Volume) -> None:
    """Others stay; to remove what is not there is no error."""
    tag_volume(site, volume.volume_id, {"a": "1", "b": "2"})

    assert tag_volume(site, volume.volume_id, {"b": "3", "c": ""}, remove=["a", "never"]).tags == {"b": "3", "c": ""}


def test_the_limit_counts_what_is_there(site: Site, volume: Volume) -> None:
    """50 in all, not 50 a command; a refused command changes nothing."""
    tag_volume(site, volume.volume_id, {f"k{number}": "" for number in range(50)})

    with pytest.raises(InvalidParameter, match="51 tags"):
        tag_volume(site, volume.volume_id, {"one": "more"})

    assert tag_volume(site, volume.volume_id, {"one": "more"}, remove=["k0"]).tags["one"] == "more"


def test_an_unknown_volume_is_not_found(site: Site) -> None:
    """The same error as everywhere."""
    with pytest.raises(VolumeNotFound):
        tag_volume(site, "vol-00000000000000000", {"a": "b"})

"""Tags of a volume, under EC2's own rules (facts §6.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ebscrypt.control.site import Site
from ebscrypt.errors import InvalidParameter
from ebscrypt.model import Volume

MOST_TAGS: Final = 50
LONGEST_KEY: Final = 127
LONGEST_VALUE: Final = 256
RESERVED: Final = "aws:"


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """A copy of ``tags`` if a volume may have them, else `InvalidParameter`. Lengths count characters, as EC2's do."""
    for key, value in tags.items():
        if not 1 <= len(key) <= LONGEST_KEY:
            raise InvalidParameter(f"the tag key {key[:40]!r} has {len(key)} characters, not 1 to {LONGEST_KEY}")
        if key.lower().startswith(RESERVED):
            raise InvalidParameter(f"the tag key {key!r} is reserved: keys that begin with {RESERVED} are AWS's own")
        if len(value) > LONGEST_VALUE:
            raise InvalidParameter(f"the value of tag {key!r} has {len(value)} characters, over {LONGEST_VALUE}")
        if not (key + value).isprintable():
            raise InvalidParameter(f"the tag {key!r} has a character that cannot be printed")
    if len(tags) > MOST_TAGS:
        raise InvalidParameter(f"{len(tags)} tags are over the {MOST_TAGS} that a volume may have")
    return dict(tags)


def tag_volume(site: Site, volume_id: str, tags: Mapping[str, str], *, remove: Iterable[str] = ()) -> Volume:
    """Set ``tags`` and remove the keys in ``remove``; other tags stay. To remove what is not there is no error.

    Raises `VolumeNotFound`, `InvalidParameter`. Two commands at once are both heard: the catalog merges in one
    transaction.
    """
    check_tags(tags)
    gone = frozenset(remove)

    def merge(old: Mapping[str, str]) -> dict[str, str]:
        return check_tags({key: value for key, value in old.items() if key not in gone} | dict(tags))

    return site.catalog.change_tags(volume_id, merge)

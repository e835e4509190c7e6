"""What every type of resource can do, and how its properties are read."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from ebscrypt.control.site import Site
from ebscrypt.errors import InvalidParameter

_Properties = TypeVar("_Properties")


class Made(NamedTuple):
    """A resource that is there: its id, which is what Ref gives, and what GetAtt gives."""

    physical_id: str
    attributes: dict[str, str]


class Update(Enum):
    """How a change of properties is made. Where a resource is replaced the old one goes first: see decision 0051."""

    IN_PLACE = auto()
    REPLACE = auto()


class Tag(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    key: str
    value: str


class Kind(Protocol):
    """One type of resource. Every method may be called again after a crash, and then ends like the first call.

    ``name`` is CloudFormation's. ``attributes`` are what GetAtt knows. ``has_snapshot``: it has the policy Snapshot.
    """

    name: str
    attributes: frozenset[str]
    has_snapshot: bool

    def check(self, site: Site, properties: Mapping[str, Any]) -> None:
        """Raise what is wrong with the properties, as far as they alone tell."""

    def plan(self, site: Site, properties: Mapping[str, Any]) -> str:
        """A name, to be noted before anything is made, by which `find` will know what this creation has made.

        Raises if something is there that a creation would collide with.
        """

    def create(self, site: Site, planned: str, properties: Mapping[str, Any], found: Made | None) -> Made:
        """Make it. ``found`` is what `find` found of an earlier call, which was cut off: that is finished."""

    def find(self, site: Site, planned: str, properties: Mapping[str, Any]) -> Made | None:
        """What a creation of that plan has made, whole or not; None for nothing."""

    def update_of(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Update:
        """How to get from one set of properties to the other. Raises `StackStateError` where there is no way."""

    def update(
        self, site: Site, physical_id: str, old: Mapping[str, Any], new: Mapping[str, Any], *, back: bool
    ) -> dict[str, str]:
        """Change it in place, and return its attributes. ``back``: this takes an update back that failed."""

    def snapshot(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Keep its content, since it is about to be removed. Only where ``has_snapshot``."""

    def remove(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Remove it. One that is not there is removed."""


def read_properties(properties: Mapping[str, Any], kind: type[_Properties]) -> _Properties:
    """The properties as a record; text that says a number or boolean is one, as in CloudFormation.

    Raises `InvalidParameter` for a property that there is not, or of another type.
    """
    try:
        return msgspec.convert(dict(properties), kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"Properties validation failed: {error}") from None


def tags_of(tags: list[Tag]) -> dict[str, str]:
    """Tags as a mapping. Raises `InvalidParameter` for a key given twice."""
    found = {tag.key: tag.value for tag in tags}
    if len(found) != len(tags):
        raise InvalidParameter("Properties validation failed: a tag key is there twice")
    return found


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """The names of the properties that differ."""
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}

"""The backing that a new volume was told to have, where there is something at that place already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ebscrypt.control import backing
from ebscrypt.errors import BackingInUse, BackingMissing
from ebscrypt.model import VolumeState

if TYPE_CHECKING:
    from ebscrypt.control.site import Site


class Taken(NamedTuple):
    """A backing that was there before, and the descriptor that keeps others from it."""

    found: backing.Backing
    descriptor: int


@contextmanager
def taken_backing(site: Site, named: str | None) -> Iterator[Taken | None]:
    """The backing that the user named, claimed; None where none was named or nothing is there.

    Raises `BackingInUse` for that of another volume and for what anything has mounted or open, `BackingMissing` for a
    device that is not there, and what `backing.claimed` raises.
    """
    path = None if named is None else backing.canonical(named)
    found = None if path is None else backing.find(path)
    if path is None or found is None:
        if path is not None and path.startswith("/dev/"):
            raise BackingMissing(f"there is no block device {path}", hint="see `lsblk` for those there are")
        yield None
        return
    for other in site.catalog.volumes():
        if other.state is not VolumeState.ERROR and backing.same(other.backing, path):
            raise BackingInUse(f"{path} is the backing of {other.volume_id}", hint="a backing holds one volume")
    backing.refuse_if_used(found)
    with backing.claimed(path, found.kind) as descriptor:
        yield Taken(found, descriptor)

"""Whether two snapshots are of one lineage, so that their blocks can be compared: what ListChangedBlocks asks for.

Encrypted ones are when they have the same data key: snapshots of one volume, copies under the same KMS key, and what
was made from them. A data key of one's own begins a lineage (see `lineage`). Plain ones are when they come from one
volume or snapshot, however many copies and volumes lie between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebscrypt.control.upload import NO_VOLUME
from ebscrypt.errors import NotFound

if TYPE_CHECKING:
    from ebscrypt.control.site import Site
    from ebscrypt.model import Snapshot


def are_related(site: Site, first: Snapshot, second: Snapshot) -> bool:
    """Whether the two share a lineage. What was deleted in between is known by name, but not what lay behind it."""
    if first.encrypted != second.encrypted:
        return False
    if first.encrypted:
        return first.data_encryption_key_id == second.data_encryption_key_id
    return not _ancestors(site, first).isdisjoint(_ancestors(site, second))


def _ancestors(site: Site, snapshot: Snapshot) -> set[str]:
    """The ids of a plain snapshot and all plain snapshots and volumes that it comes from."""
    found: set[str] = set()
    wanted = {snapshot.snapshot_id}
    while wanted:
        name = wanted.pop()
        found.add(name)
        wanted |= _parents(site, name) - found
    return found


def _parents(site: Site, name: str) -> set[str]:
    try:
        if name.startswith("snap-"):
            snapshot = site.catalog.snapshots.get(name)
            parents = {snapshot.volume_id, snapshot.parent, snapshot.copied_from}
        else:
            parents = {site.catalog.volume(name).snapshot_id}
    except NotFound:
        return set()
    return {parent for parent in parents if parent is not None and parent != NO_VOLUME}

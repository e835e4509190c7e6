"""`on_volume`: what every use case on one volume begins with. The volume exists, and nobody else is at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ebscrypt.control import filler, locks
from ebscrypt.control.site import Site
from ebscrypt.errors import VolumeNotFound
from ebscrypt.model import check_volume_id


@contextmanager
def on_volume(site: Site, volume_id: str, command: str, *, on_behalf_of: tuple[str, ...] = ()) -> Iterator[bool]:
    """Hold the lock of a volume that exists as ``command``; gives what `locks.held` gives.

    Raises `InvalidParameter` for what is no id, `VolumeNotFound`, and `StateError` when another command keeps the lock
    for too long. A volume that is not there, or that goes while we wait, leaves no lock file behind.
    """
    site.catalog.volume(check_volume_id(volume_id))
    with locks.held(site.settings, volume_id, command, on_behalf_of=on_behalf_of) as ours:
        try:
            site.catalog.volume(volume_id)
        except VolumeNotFound:
            if ours:
                locks.forget(site.settings, volume_id)
            raise
        if not ours:
            yield False
            return
        with filler.aside(site, volume_id):
            yield True

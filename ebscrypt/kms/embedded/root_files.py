"""The files of a root key while it is changed: what a crash leaves of a change, and who tidies it up.

While `rotate` (root_change.py) is at work there are two root keys, the file and ….new beside it. The fingerprint that
the store remembers says at every moment which of them is right; the other one is of no use. All of this is done under
the lock on the KMS's directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.errors import EbscryptError
from ebscrypt.kms.embedded import directory, root_key
from ebscrypt.kms.embedded.root_key import Kind, Place


def tidy(settings: Settings, fingerprint: Callable[[], str]) -> None:
    """Finish or undo a change that a crash interrupted. Leaves alone one that is under way in another process."""
    if any(_is_changing(place) for place in root_key.places(settings)):
        with directory.locked_if_free(settings.kms_dir) as mine:
            if mine:
                for place in root_key.places(settings):
                    finish(place, fingerprint())


def finish(place: Place, fingerprint: str) -> None:
    """Let the root key with that fingerprint be the one at ``place``, and the only one; where neither is, keep both."""
    if not _is_changing(place):
        return
    if holds(place.next, fingerprint):
        take_place(place)
    elif holds(place, fingerprint):
        erase(place.next)


def holds(place: Place, fingerprint: str) -> bool:
    """Whether the root key with that fingerprint can be read there."""
    try:
        return root_key.read(place).fingerprint == fingerprint
    except EbscryptError:
        return False


def is_erased(place: Place) -> bool:
    """Whether `erase` was interrupted there, before it could remove what it had overwritten."""
    return place.exists() and not place.path.read_bytes().strip(b"\n")


def take_place(place: Place) -> None:
    """Let the next root key be the one at ``place``; the old one is overwritten before."""
    _overwrite(place)
    place.next.path.replace(place.real)
    durable.sync_directory(place.real.parent)


def erase(place: Place) -> None:
    """Overwrite and remove what is at ``place``.

    That is the best a program can do, and no promise: flash and copy-on-write file systems write elsewhere, snapshots
    and backups have what they have.
    """
    real = place.real
    _overwrite(place)
    real.unlink(missing_ok=True)
    place.path.unlink(missing_ok=True)
    durable.sync_directory(real.parent)


def _is_changing(place: Place) -> bool:
    return place.kind is not Kind.CREDENTIAL and place.next.exists()


def _overwrite(place: Place) -> None:
    try:
        descriptor = os.open(place.real, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        os.pwrite(descriptor, b"\n" * os.fstat(descriptor).st_size, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

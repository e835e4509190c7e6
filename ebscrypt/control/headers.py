"""The header of an encrypted volume, for a command that holds the volume's lock, whether the volume is attached or not.

A daemon reads the header when it starts, and writes it then and when it lets the volume grow, which happens under the
same lock. So beside a daemon that serves, a command may write the header; beside one that starts it may not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ebscrypt import luks2
from ebscrypt.control import backing, runtime
from ebscrypt.control.site import Site
from ebscrypt.errors import StateError
from ebscrypt.model import AttachmentSpec, AttachmentState, Volume, VolumeState


def check_settled(site: Site, volume: Volume, wanted: str) -> None:
    """Raise `StateError` unless the volume has a header that nobody else may be about to write.

    ``wanted`` is what cannot be done, for the message. A plain volume has no header.
    """
    volume_id = volume.volume_id
    if not volume.encrypted:
        raise StateError(f"volume {volume_id} is not encrypted: {wanted} needs a data key")
    if volume.state is VolumeState.AVAILABLE:
        return
    if volume.state is not VolumeState.IN_USE:
        told = f": {volume.state_message}" if volume.state_message else ""
        raise StateError(f"volume {volume_id} is {volume.state}{told}", hint=f"see `ebscrypt show {volume_id}`")
    attached = runtime.attachment_state(site.settings, volume_id)
    if attached is None or attached.state is AttachmentState.LOST:
        raise StateError(
            f"the daemon of volume {volume_id} has died",
            hint=f"`ebscrypt attach {volume_id}` starts another, `ebscrypt detach {volume_id}` clears up",
        )
    if attached.state is not AttachmentState.ATTACHED:
        raise StateError(f"volume {volume_id} is {attached.state}", hint="wait for it, then try again")


def read(volume: Volume | AttachmentSpec) -> luks2.Reading:
    """The header that counts, of this very volume. Raises `HeaderError`, `BackingError`, `NotPermitted`."""
    with opened(volume, os.O_RDONLY) as (_, reading):
        return reading


@contextmanager
def opened(volume: Volume | AttachmentSpec, flags: int) -> Iterator[tuple[int, luks2.Reading]]:
    """A descriptor of the backing whose header was read through it; ``flags`` are those of open(2).

    For a program that shall work on this very header: the path may lead elsewhere by the time it is opened again.
    """
    with backing.translated(volume.backing, "read"):
        descriptor = os.open(volume.backing, flags | os.O_CLOEXEC)
        try:
            yield descriptor, luks2.read_header(descriptor, volume_id=volume.volume_id)
        finally:
            os.close(descriptor)


@contextmanager
def opened_anyhow(volume: Volume) -> Iterator[tuple[int, luks2.Reading]]:
    """The same for reading, also of a volume that is being re-encrypted (`luks2.reencryption`)."""
    with backing.translated(volume.backing, "read"):
        descriptor = os.open(volume.backing, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor, luks2.read_header(descriptor, volume_id=volume.volume_id, reencrypting=True)
        finally:
            os.close(descriptor)


def check_token(volume: Volume, token: luks2.KmsToken) -> None:
    """Raise `KeyMismatch` unless header and catalog agree: who can write to the backing must not choose the KMS key."""
    token.check_binding(volume.volume_id, volume.kms_key_arn)


@contextmanager
def writable(volume: Volume) -> Iterator[int]:
    """A descriptor for writing the header; errors of the operating system within become ours.

    The backing of a detached volume is claimed, as an attachment would. That of an attached one is its daemon's, which
    has nothing against an update of the header under cryptsetup's lock.
    """
    if volume.state is VolumeState.AVAILABLE:
        with backing.claimed(volume.backing, volume.backing_kind) as descriptor, _told(volume):
            yield descriptor
        return
    with _told(volume):
        descriptor = os.open(volume.backing, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def _told(volume: Volume) -> Iterator[None]:
    with backing.translated(volume.backing, "write the header of"):
        yield

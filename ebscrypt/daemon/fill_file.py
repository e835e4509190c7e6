"""The fill file of a volume whose blocks still come, as the attachment opens it. What is in it is the core's."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from ebscrypt.errors import StateError
from ebscrypt.model import AttachmentSpec


@contextlib.contextmanager
def fill_file(spec: AttachmentSpec, *, filling: bool) -> Iterator[int | None]:
    """The descriptor of the volume's fill file; None where the volume is whole, which with ``filling`` it is not.

    The core takes a duplicate. Raises `StateError` where the blocks that are missing cannot be known, and for a
    read-only attachment: what comes must be written.
    """
    if spec.fill_file is None:
        if filling:
            raise StateError(
                f"volume {spec.volume_id} does not have all blocks of its snapshot, and its fill file is gone",
                hint="make another volume from the snapshot, and delete this one",
            )
        yield None
        return
    if spec.read_only:
        raise StateError(
            f"volume {spec.volume_id} is still being filled: it cannot be attached read-only",
            hint=f"wait until it is whole (`ebscrypt show {spec.volume_id}`), or leave out --read-only",
        )
    try:
        descriptor = os.open(spec.fill_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StateError(
            f"the fill file of volume {spec.volume_id} cannot be opened: {error.strerror}", hint="attach it again"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def fill_file_told(spec: AttachmentSpec) -> Iterator[None]:
    """The core's refusals of a fill file, which come with those of a key otherwise, as ours."""
    try:
        yield
    except OSError as error:
        if spec.fill_file is None or error.errno != errno.EINVAL:
            raise
        raise StateError(
            f"the fill file of volume {spec.volume_id} cannot be used: {error.strerror}",
            hint="make another volume from the snapshot, and delete this one",
        ) from error

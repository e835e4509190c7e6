"""A volume without its data key: suspended, and brought back.

While a volume is suspended its requests wait, and neither this process nor whoever else has a descriptor of the key's
memory can read the volume: the round keys are wiped, and so is that memory, which holds zeros for everybody then.
"""

from __future__ import annotations

import errno

from ebscrypt.core import SecretMemory
from ebscrypt.daemon.volume import OpenVolume
from ebscrypt.errors import KeyMismatch
from ebscrypt.model import Access


def suspend(volume: OpenVolume) -> bool:
    """Let requests wait, make all durable, and wipe the data key with all that was made from it.

    Whether all is durable: where the flush failed the volume is suspended all the same. Raises OSError (ESHUTDOWN) once
    the volume is closed.
    """
    flushed = True
    try:
        volume.device.suspend(wipe=True)
    except OSError as error:
        if error.errno == errno.ESHUTDOWN:
            raise
        flushed = False
    if volume.key is not None:
        volume.key.wipe()
        volume.key = None
    return flushed


def resume(volume: OpenVolume, key: SecretMemory, *, keep: bool) -> None:
    """End a suspension with the data key in ``key``, which is taken over: the volume's with ``keep``, else wiped.

    Nothing happens where there is no suspension. The core takes only the very key that it was opened with: raises
    `KeyMismatch` for any other, and the volume stays suspended. Raises OSError.
    """
    used = False
    try:
        if volume.access is Access.SUSPENDED:
            volume.device.resume(key)
            used = keep
    except ValueError as error:
        raise KeyMismatch(f"the data key of volume {volume.spec.volume_id} cannot be one: {error}") from error
    except OSError as error:
        if error.errno != errno.EKEYREJECTED:
            raise
        raise KeyMismatch(
            f"this is not the data key of volume {volume.spec.volume_id}: its header is corrupted or tampered with",
            hint="bring the header back from a backup: `cryptsetup luksHeaderRestore`",
        ) from error
    finally:
        if used:
            volume.key = key
        else:
            key.wipe()

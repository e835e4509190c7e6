"""`convert_volume`: one volume's data onto another, from plain to encrypted, back, or from one key to another.

Both are detached, and opened as a daemon would open them: claimed, the data keys unwrapped by KMS and proved. The
source is only read. Nothing can make this one step: a target whose conversion was interrupted holds a part, and is
written again from the beginning. What is attached is converted by its user's own means, as in EBS: see docs/guide.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from ebscrypt.control import backing, faultpoints
from ebscrypt.control.fill_job import refuse_while_filling
from ebscrypt.control.operation import on_volume
from ebscrypt.control.site import Site
from ebscrypt.control.turning import data_runs
from ebscrypt.control.unfinished import refuse_while_read
from ebscrypt.errors import BackingNotEmpty, InvalidParameter, StateError, VolumeInUse
from ebscrypt.model import GIB, MIB, AttachmentSpec, Volume, VolumeState, format_size

if TYPE_CHECKING:
    from ebscrypt.core import Device, Extent
    from ebscrypt.daemon.volume import OpenVolume

_COMMAND: Final = "convert"
_PIECE: Final = 4 * MIB
"""Bytes that are read and written at once."""
_GRAIN: Final = 4096
"""Bytes that are left a hole where they are zero."""


def convert_volume(
    site: Site,
    volume_id: str,
    target_id: str,
    *,
    overwrite: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> Volume:
    """Write what ``volume_id`` holds onto ``target_id``, durably, and return the target; zeros behind a smaller source.

    ``told`` hears how many of the source's bytes are done. Raises `VolumeNotFound`, `StateError` and `VolumeInUse` for
    a volume that is not available, `InvalidParameter` for a target that is too small or whose sectors are too large,
    `BackingNotEmpty` for one that holds data unless ``overwrite``, `HeaderError`, `KmsError`; then nothing has changed.
    `BackingError` and `OutOfSpace` may come later: the target holds a part then.
    """
    if volume_id == target_id:
        raise InvalidParameter(f"volume {volume_id} cannot be converted onto itself", hint="make another: `create`")
    first, second = sorted((volume_id, target_id))
    with on_volume(site, first, _COMMAND), on_volume(site, second, _COMMAND):
        source, target = site.catalog.volume(volume_id), site.catalog.volume(target_id)
        for volume in (source, target):
            _check_state(volume)
            refuse_while_filling(site, volume.volume_id, "converted")
        _check_sizes(source, target)
        refuse_while_read(site, target, "written to")
        with _opened(site, source, read_only=True) as old, _opened(site, target, read_only=False) as new:
            _check_sectors(site, old, new)
            _empty(target, new.device, overwrite=overwrite)
            faultpoints.reach("convert.begun")
            _copy(old, new, told)
    return target


def _check_state(volume: Volume) -> None:
    if volume.state is VolumeState.IN_USE:
        raise VolumeInUse(
            f"volume {volume.volume_id} is attached, and detached volumes are converted",
            hint=f"detach it first: `ebscrypt detach {volume.volume_id}`",
        )
    if volume.state is not VolumeState.AVAILABLE:
        raise StateError(f"volume {volume.volume_id} is {volume.state}", hint=f"see `ebscrypt show {volume.volume_id}`")


def _check_sizes(source: Volume, target: Volume) -> None:
    if target.size < source.size:
        raise InvalidParameter(
            f"volume {target.volume_id} has {format_size(target.size)}, and {source.volume_id} "
            f"{format_size(source.size)}: it does not fit",
            hint=f"let it grow first: `ebscrypt resize {target.volume_id} --size {source.size}`",
        )


def _check_sectors(site: Site, old: OpenVolume, new: OpenVolume) -> None:
    """Partition tables and file systems count in the sectors that a device shows, and remember their size."""
    was, now = old.block_size, new.block_size
    if now > was:
        raise InvalidParameter(
            f"volume {new.spec.volume_id} shows sectors of {now} bytes, {old.spec.volume_id} of {was}: a file system "
            "that was made on these may not be found",
            hint=f"make the target with sectors of {was} bytes: `ebscrypt create --sector-size {was}`",
        )
    if now < was:
        site.notes.append(
            f"{new.spec.volume_id} shows sectors of {now} bytes, {old.spec.volume_id} of {was}: file systems do not "
            "mind, but a partition table is not found"
        )


@contextmanager
def _opened(site: Site, volume: Volume, *, read_only: bool) -> Iterator[OpenVolume]:
    from ebscrypt.daemon.volume import open_volume  # noqa: PLC0415 - with the compiled core, which few commands need

    spec = AttachmentSpec(
        volume_id=volume.volume_id,
        backing=volume.backing,
        backing_kind=volume.backing_kind,
        encrypted=volume.encrypted,
        size=volume.size,
        kms_key_arn=volume.kms_key_arn,
        read_only=read_only,
    )
    with ExitStack() as stack:
        yield stack.enter_context(open_volume(spec, site.settings, site.notes))


def _extents(device: Device) -> Iterator[Extent]:
    for offset in range(0, device.size, GIB):
        yield from device.extents(offset, min(GIB, device.size - offset))


def _empty(target: Volume, device: Device, *, overwrite: bool) -> None:
    """Let the target read as zeros, which it does where nothing was ever written to it."""
    with backing.translated(target.backing, "empty"):
        if all(extent.hole for extent in _extents(device)):
            return
        if not overwrite:
            raise BackingNotEmpty(
                f"volume {target.volume_id} holds data, or its backing cannot tell that it does not",
                hint="--overwrite replaces what it holds",
            )
        for offset in range(0, device.size, GIB):
            device.write_zeroes(offset, min(GIB, device.size - offset))


def _copy(old: OpenVolume, new: OpenVolume, told: Callable[[int, int], None] | None) -> None:
    size = old.device.size
    for extent in _extents(old.device):
        end = extent.offset + extent.length
        for offset in () if extent.hole else range(extent.offset, end, _PIECE):
            with backing.translated(old.spec.backing, "read"):
                content = old.device.pread(min(_PIECE, end - offset), offset)
            with backing.translated(new.spec.backing, "write to"):
                _write(new.device, offset, content)
            faultpoints.reach("convert.piece")
            if told is not None:
                told(offset, size)
        if told is not None:
            told(end, size)
    with backing.translated(new.spec.backing, "flush"):
        new.device.flush()


def _write(device: Device, offset: int, content: bytes) -> None:
    view = memoryview(content)
    for begin, end in data_runs(content, _GRAIN):
        device.pwrite(view[begin:end], offset + begin)

"""`create_volume`: from a wish to an available volume, or to nothing but a record of why not.

What can be refused is refused before anything exists. Then, in this order, each step leaving something that `recover`
can undo: the catalog's row (``creating``), the wrapped key from KMS, the backing, what a snapshot holds, the header
with both copies durable, and in one transaction the state ``available`` with its event. A failure takes it all back
and leaves the row in ``error``, so that its reason can be asked for; `delete` removes that row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

import msgspec

from ebscrypt import durable, luks2
from ebscrypt.catalog.events import VolumeEvent
from ebscrypt.control import backing, faultpoints, grants, locks, remains, sidecar
from ebscrypt.control.causes import event_cause, failure_text
from ebscrypt.control.key_mode import allowed_mode
from ebscrypt.control.site import Site
from ebscrypt.control.taken import Taken, taken_backing
from ebscrypt.control.volume_request import VOLUME_TYPES, VolumeRequest, check_room, decided
from ebscrypt.errors import BackingError, EbscryptError, InvalidParameter
from ebscrypt.model import (
    BackingKind,
    Volume,
    VolumeState,
    check_volume_size,
    encryption_context,
    format_size,
    new_data_encryption_key_id,
    new_volume_id,
    utc_now,
)

if TYPE_CHECKING:
    from ebscrypt.control.restore import Restoration
    from ebscrypt.control.snapshot_source import Told
    from ebscrypt.model import Snapshot

__all__ = ["VOLUME_TYPES", "VolumeRequest", "create_volume", "data_offset", "undo_creation"]

_UNSTABLE: Final = re.compile(r"/dev/(sd|hd|vd|xvd|nvme|mmcblk)")
"""Names that the kernel gives in the order in which it finds disks. A wrong disk is noticed at attach by its header."""


def create_volume(
    site: Site, request: VolumeRequest, *, volume_id: str | None = None, told: Told | None = None
) -> Volume:
    """Make a volume and return it, available. Raises a typed error, after which nothing but the record is left.

    ``volume_id`` is a fresh id that the caller has made a note of before, so that after a crash it can ask for it.
    ``told`` hears of the progress while the blocks of a snapshot come.
    """
    request, snapshot = decided(site, request)
    volume_id = volume_id or new_volume_id()
    with locks.held(site.settings, volume_id, "create"), taken_backing(site, request.backing) as taken:
        if snapshot is not None and request.size is None and taken is None:
            request = msgspec.structs.replace(request, size=snapshot.volume_size)
        volume = _planned(site, request, volume_id, taken)
        check_room(volume, snapshot)
        if taken is not None and not request.force:
            backing.refuse_unless_empty(taken.found, taken.descriptor)
        site.catalog.add(volume)
        if _UNSTABLE.match(volume.backing):
            site.notes.append(f"{volume.backing} may be another disk after a reboot; names in /dev/disk/by-id stay")
        faultpoints.reach("create.entered")
        return _Creation(site, request, volume, taken, snapshot=snapshot, told=told).run()


def _planned(site: Site, request: VolumeRequest, volume_id: str, taken: Taken | None) -> Volume:
    """The row of the volume to be, with its size and place settled."""
    suffix = ".luks" if request.encrypted else ".raw"
    own_path = site.settings.volumes_dir / f"{volume_id}{suffix}"
    return Volume(
        volume_id=volume_id,
        state=VolumeState.CREATING,
        size=_size(request, None if taken is None else taken.found),
        backing=str(own_path) if request.backing is None else backing.canonical(request.backing),
        backing_kind=BackingKind.FILE if taken is None else taken.found.kind,
        backing_owned=request.backing is None,
        encrypted=bool(request.encrypted),
        sector_size=request.sectors,
        volume_type=request.volume_type,
        snapshot_id=request.snapshot_id,
        on_key_unusable=allowed_mode(request.on_key_unusable, encrypted=bool(request.encrypted)),
        create_time=utc_now(),
        tags=request.tags,
    )


def _size(request: VolumeRequest, found: backing.Backing | None) -> int:
    offset = data_offset(encrypted=bool(request.encrypted))
    if found is None or (found.kind is BackingKind.FILE and request.size is not None):
        if request.size is None:
            raise InvalidParameter("a new backing file needs a size", hint="give --size, for example --size 10G")
        return request.size
    room = (found.size - offset) // request.sectors * request.sectors
    if room <= 0:
        raise BackingError(
            f"{found.path} has {format_size(found.size)}: no room for a volume and its {format_size(offset)} of header"
        )
    if request.size is not None and request.size > room:
        raise BackingError(
            f"{found.path} has room for a volume of {room} bytes, not of {request.size}",
            hint="leave out --size to use all of it",
        )
    return check_volume_size(room if request.size is None else request.size, request.sectors)


def data_offset(*, encrypted: bool) -> int:
    """Bytes before a new volume's data: an encrypted one has its header there."""
    return luks2.DATA_OFFSET if encrypted else 0


class _Creation:
    """One creation under way: what it made so far, and how to take that back."""

    def __init__(
        self,
        site: Site,
        request: VolumeRequest,
        volume: Volume,
        taken: Taken | None,
        *,
        snapshot: Snapshot | None,
        told: Told | None,
    ) -> None:
        self._site = site
        self._request = request
        self._volume = volume
        self._taken = taken
        self._snapshot = snapshot
        self._lazy = snapshot if request.lazy else None
        self._told = told
        self._made = False

    def run(self) -> Volume:
        try:
            made = self._make()
        except BaseException as error:
            self._undo(error)
            raise
        if self._lazy is not None:
            from ebscrypt.control.filler import start_again  # noqa: PLC0415 - most volumes are made empty

            start_again(self._site, made.volume_id)
        if made.encrypted:
            grants.retire_overdue(self._site)
        return made

    def _make(self) -> Volume:
        volume = self._volume
        with self._restoring() as restoration:
            header = None
            if volume.encrypted:
                header = self._header() if restoration is None else restoration.header()
            faultpoints.reach("create.wrapped")
            self._write(header, restoration)
        faultpoints.reach("create.described")
        events = [self._site.event(VolumeEvent.CREATE, "available", volume.volume_id)]
        if restoration is not None and self._lazy is None:
            events.append(restoration.event())
        made = self._site.catalog.change_state(
            volume.volume_id,
            VolumeState.CREATING,
            VolumeState.AVAILABLE,
            events,
            kms_key_arn=None if header is None else header.token().kms_key_arn,
        )
        faultpoints.reach("create.available")
        return made

    def _restoring(self) -> AbstractContextManager[Restoration | None]:
        """The snapshot's blocks and the new data key, for as long as the block lasts; None for an empty volume."""
        if self._snapshot is None:
            return nullcontext()
        from ebscrypt.control.restore import restoring  # noqa: PLC0415 - most volumes are made empty

        return restoring(self._site, self._volume, self._snapshot, self._request.kms_key_id, self._told)

    def _write(self, header: luks2.Header | None, restoration: Restoration | None) -> None:
        """Make the backing ready, put what is restored into it, and describe it last: then the volume is whole."""
        volume = self._volume
        length = data_offset(encrypted=volume.encrypted) + volume.size
        if self._taken is None:
            durable.make_directory(self._site.settings.volumes_dir)
            backing.make_file(volume.backing, length, preallocate=self._request.preallocate)
            self._made = True
            faultpoints.reach("create.backing")
            with backing.claimed(volume.backing, volume.backing_kind) as descriptor:
                if restoration is not None and self._lazy is not None:
                    restoration.begin(self._lazy)
                    faultpoints.reach("create.noted")
                elif restoration is not None:
                    restoration.fill(descriptor, used=False)
                self._describe(header, descriptor)
        else:
            self._fit(self._taken.descriptor, length)
            faultpoints.reach("create.backing")
            if restoration is not None:
                restoration.fill(self._taken.descriptor, used=True)
            self._describe(header, self._taken.descriptor)

    def _header(self) -> luks2.Header:
        """The header with the wrapped key of a data key that nobody has seen, bound to the volume by its context."""
        volume, kms = self._volume, self._site.kms
        key = kms.resolve_key(self._request.kms_key_id)
        context = encryption_context(volume.volume_id)
        wrapped = kms.generate_data_key_without_plaintext(key.arn, context)
        token = luks2.KmsToken(
            volume_id=volume.volume_id,
            kms_key_arn=wrapped.key_arn,
            wrapped_key=wrapped.blob,
            encryption_context=context,
            region=kms.region,
            sealed=False,
            data_encryption_key_id=new_data_encryption_key_id(),
        )
        return luks2.create_header(token, size=volume.size, sector_size=volume.sector_size)

    def _fit(self, descriptor: int, length: int) -> None:
        """Make the user's own file long enough. An encrypted volume starts empty: old bytes would decrypt to noise."""
        if self._volume.backing_kind is not BackingKind.FILE:
            return
        with backing.translated(self._volume.backing, "extend", length):
            if self._request.force and self._volume.encrypted:
                os.ftruncate(descriptor, 0)
            backing.extend(descriptor, length, preallocate=self._request.preallocate)

    def _describe(self, header: luks2.Header | None, descriptor: int) -> None:
        """Write the header on the backing, or the sidecar of a plain volume; durable either way."""
        if self._lazy is not None:
            # A volume that is not whole says so, or says nothing: cryptsetup and `rebuild-catalog` leave it alone.
            header = None if header is None else header.with_filling(filling=True)
            if header is None:
                return
        if header is None:
            sidecar.write_sidecar(self._site.settings, self._volume)
            return
        with backing.translated(self._volume.backing, "write the header of"):
            luks2.format_header(descriptor, header)

    def _undo(self, error: BaseException) -> None:
        """Take back what was made, by what this process knows of it: more than `undo_creation` can read later."""
        if self._taken is None:
            mine = msgspec.structs.replace(self._volume, backing_owned=self._volume.backing_owned or self._made)
            undo_creation(self._site, self._volume, error, lambda: remains.remove_traces(self._site, mine))
        else:
            undo_creation(self._site, self._volume, error, self._give_back)

    def _give_back(self) -> None:
        if self._taken is None:
            return
        found, descriptor = self._taken
        with backing.translated(found.path, "clean"):
            if self._volume.encrypted and remains.carries(descriptor, self._volume.volume_id):
                remains.overwrite(descriptor, luks2.DATA_OFFSET)
            if found.kind is BackingKind.FILE:
                if self._snapshot is not None:
                    os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, found.size)
        sidecar.remove_sidecar(self._site.settings, self._volume.volume_id)


def undo_creation(site: Site, volume: Volume, error: BaseException, clean: Callable[[], None] | None = None) -> None:
    """Take back a failed or interrupted creation, and keep the record with its reason.

    A volume that became available in the last moment stays: the interruption came too late.
    """
    if site.catalog.volume(volume.volume_id).state is not VolumeState.CREATING:
        return
    reason = failure_text(error, "the creation was interrupted")
    try:
        if clean is None:
            remains.remove_traces(site, volume)
        else:
            clean()
    except EbscryptError as failure:
        reason += f"; and {volume.backing} could not be cleaned: {failure.message}"
    if clean is None and volume.snapshot_id is not None:
        from ebscrypt.control.snapshot_source import let_go  # noqa: PLC0415 - most volumes are made empty

        let_go(site, volume.snapshot_id, volume.volume_id)
    faultpoints.reach("create.undone")
    site.catalog.change_state(
        volume.volume_id,
        VolumeState.CREATING,
        VolumeState.ERROR,
        site.event(VolumeEvent.CREATE, "failed", volume.volume_id, cause=event_cause(error)),
        state_message=reason,
    )
    faultpoints.reach("create.failed")

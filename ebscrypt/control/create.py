"""`create_volume`: from a wish to an available volume, or to nothing but a record of why not.

What can be refused is refused before anything exists. Then, in this order, each step leaving something that `recover`
can undo: the catalog's row (``creating``), the wrapped key from KMS, the backing, the header with both copies durable,
and in one transaction the state ``available`` with its event. A failure takes it all back and leaves the row in
``error``, so that its reason can be asked for; `delete` removes that row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec

from ebscrypt import durable, luks2
from ebscrypt.catalog.events import VolumeEvent
from ebscrypt.control import backing, faultpoints, locks, remains, sidecar
from ebscrypt.control.causes import event_cause
from ebscrypt.control.site import Site
from ebscrypt.control.tags import check_tags
from ebscrypt.errors import (
    BackingError,
    BackingInUse,
    BackingMissing,
    EbscryptError,
    InvalidParameter,
    MissingDependency,
)
from ebscrypt.kms.names import parse_key_name
from ebscrypt.model import (
    DEFAULT_SECTOR_SIZE,
    BackingKind,
    Volume,
    VolumeState,
    check_volume_size,
    encryption_context,
    format_size,
    new_volume_id,
    utc_now,
)

VOLUME_TYPES: Final = ("gp3", "gp2", "io1", "io2", "st1", "sc1", "standard")
"""EC2's volume types. Here a type is a label: the speed is that of the backing."""
_UNSTABLE: Final = re.compile(r"/dev/(sd|hd|vd|xvd|nvme|mmcblk)")
"""Names that the kernel gives in the order in which it finds disks. A wrong disk is noticed at attach by its header."""


class VolumeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `create_volume` is asked for. ``size`` in bytes; None takes all of an existing ``backing``.

    ``backing`` names a file or block device; without it a sparse file in the state directory is made. ``force`` takes a
    backing that is not empty, ``preallocate`` reserves a file's space at once.
    """

    size: int | None = None
    encrypted: bool = True
    kms_key_id: str | None = None
    volume_type: str = VOLUME_TYPES[0]
    sector_size: int = DEFAULT_SECTOR_SIZE
    backing: str | None = None
    force: bool = False
    preallocate: bool = False
    tags: dict[str, str] = {}


def create_volume(site: Site, request: VolumeRequest) -> Volume:
    """Make a volume and return it, available. Raises a typed error, after which nothing but the record is left."""
    _check(request)
    volume_id = new_volume_id()
    with locks.held(site.settings, volume_id, "create"), _existing(site, request) as taken:
        volume = _planned(site, request, volume_id, taken)
        if taken is not None and not request.force:
            backing.refuse_unless_empty(taken.found, taken.descriptor)
        site.catalog.add(volume)
        if _UNSTABLE.match(volume.backing):
            site.notes.append(f"{volume.backing} may be another disk after a reboot; names in /dev/disk/by-id stay")
        faultpoints.reach("create.entered")
        return _Creation(site, request, volume, taken).run()


def _check(request: VolumeRequest) -> None:
    """Everything about the request that needs nothing but the request."""
    if request.kms_key_id is not None and not request.encrypted:
        raise MissingDependency(
            "a KMS key needs an encrypted volume", hint="leave out --no-encrypted, or leave out --kms-key-id"
        )
    if request.volume_type not in VOLUME_TYPES:
        raise InvalidParameter(
            f"volume type {request.volume_type[:40]!r} is none of EC2's", hint=f"there are {', '.join(VOLUME_TYPES)}"
        )
    if request.kms_key_id is not None:
        parse_key_name(request.kms_key_id)
    check_tags(request.tags)
    if request.size is not None:
        check_volume_size(request.size, request.sector_size)
    elif request.backing is None:
        raise InvalidParameter("the volume's size is missing", hint="give --size, for example --size 10G")


class _Taken(NamedTuple):
    """A backing that was there before, and the descriptor that keeps others from it."""

    found: backing.Backing
    descriptor: int


@contextmanager
def _existing(site: Site, request: VolumeRequest) -> Iterator[_Taken | None]:
    """The backing that the user named, claimed, if it is there already."""
    path = None if request.backing is None else backing.canonical(request.backing)
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
        yield _Taken(found, descriptor)


def _planned(site: Site, request: VolumeRequest, volume_id: str, taken: _Taken | None) -> Volume:
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
        encrypted=request.encrypted,
        sector_size=request.sector_size,
        volume_type=request.volume_type,
        create_time=utc_now(),
        tags=request.tags,
    )


def _size(request: VolumeRequest, found: backing.Backing | None) -> int:
    offset = data_offset(encrypted=request.encrypted)
    if found is None or (found.kind is BackingKind.FILE and request.size is not None):
        if request.size is None:
            raise InvalidParameter("a new backing file needs a size", hint="give --size, for example --size 10G")
        return request.size
    room = (found.size - offset) // request.sector_size * request.sector_size
    if room <= 0:
        raise BackingError(
            f"{found.path} has {format_size(found.size)}: no room for a volume and its {format_size(offset)} of header"
        )
    if request.size is not None and request.size > room:
        raise BackingError(
            f"{found.path} has room for a volume of {room} bytes, not of {request.size}",
            hint="leave out --size to use all of it",
        )
    return check_volume_size(room if request.size is None else request.size, request.sector_size)


def data_offset(*, encrypted: bool) -> int:
    """Bytes before a new volume's data: an encrypted one has its header there."""
    return luks2.DATA_OFFSET if encrypted else 0


class _Creation:
    """One creation under way: what it made so far, and how to take that back."""

    def __init__(self, site: Site, request: VolumeRequest, volume: Volume, taken: _Taken | None) -> None:
        self._site = site
        self._request = request
        self._volume = volume
        self._taken = taken
        self._made = False

    def run(self) -> Volume:
        try:
            return self._make()
        except BaseException as error:
            self._undo(error)
            raise

    def _make(self) -> Volume:
        volume = self._volume
        header = self._header() if volume.encrypted else None
        faultpoints.reach("create.wrapped")
        length = data_offset(encrypted=volume.encrypted) + volume.size
        if self._taken is None:
            durable.make_directory(self._site.settings.volumes_dir)
            backing.make_file(volume.backing, length, preallocate=self._request.preallocate)
            self._made = True
            faultpoints.reach("create.backing")
            with backing.claimed(volume.backing, volume.backing_kind) as descriptor:
                self._describe(header, descriptor)
        else:
            self._fit(self._taken.descriptor, length)
            faultpoints.reach("create.backing")
            self._describe(header, self._taken.descriptor)
        faultpoints.reach("create.described")
        made = self._site.catalog.change_state(
            volume.volume_id,
            VolumeState.CREATING,
            VolumeState.AVAILABLE,
            self._site.event(VolumeEvent.CREATE, "available", volume.volume_id),
            kms_key_arn=None if header is None else header.token().kms_key_arn,
        )
        faultpoints.reach("create.available")
        return made

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
                os.ftruncate(descriptor, found.size)
        sidecar.remove_sidecar(self._site.settings, self._volume.volume_id)


def undo_creation(site: Site, volume: Volume, error: BaseException, clean: Callable[[], None] | None = None) -> None:
    """Take back a failed or interrupted creation, and keep the record with its reason.

    A volume that became available in the last moment stays: the interruption came too late.
    """
    if site.catalog.volume(volume.volume_id).state is not VolumeState.CREATING:
        return
    reason = error.message if isinstance(error, EbscryptError) else "the creation was interrupted"
    try:
        if clean is None:
            remains.remove_traces(site, volume)
        else:
            clean()
    except EbscryptError as failure:
        reason += f"; and {volume.backing} could not be cleaned: {failure.message}"
    faultpoints.reach("create.undone")
    site.catalog.change_state(
        volume.volume_id,
        VolumeState.CREATING,
        VolumeState.ERROR,
        site.event(VolumeEvent.CREATE, "failed", volume.volume_id, cause=event_cause(error)),
        state_message=reason,
    )
    faultpoints.reach("create.failed")

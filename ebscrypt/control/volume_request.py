"""What `create_volume` is asked for, and all about it that can be refused before anything exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from ebscrypt.control.defaults import decide_encryption
from ebscrypt.control.tags import check_tags
from ebscrypt.errors import InvalidParameter
from ebscrypt.kms.names import parse_key_name
from ebscrypt.model import DEFAULT_SECTOR_SIZE, OnKeyUnusable, Snapshot, Volume, check_volume_size, format_size

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

VOLUME_TYPES: Final = ("gp3", "gp2", "io1", "io2", "st1", "sc1", "standard")
"""EC2's volume types. Here a type is a label: the speed is that of the backing."""


class VolumeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for a volume. ``size`` in bytes; None takes all of an existing ``backing``, or what the snapshot has.

    ``encrypted`` None leaves it to the snapshot and to encryption by default. ``snapshot_id`` is what the volume begins
    with. ``sector_size`` None is the snapshot's, and 4096 for an empty volume. ``backing`` names a file or block
    device; without it a sparse file in the state directory is made. ``force`` takes a backing that is not empty,
    ``preallocate`` reserves a file's space at once. With ``lazy`` the volume is available before the snapshot's blocks
    are there: they come on first access and in the background.
    """

    size: int | None = None
    encrypted: bool | None = True
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    volume_type: str = VOLUME_TYPES[0]
    sector_size: int | None = None
    backing: str | None = None
    force: bool = False
    preallocate: bool = False
    lazy: bool = False
    on_key_unusable: OnKeyUnusable = OnKeyUnusable.IGNORE
    tags: dict[str, str] = {}

    @property
    def sectors(self) -> int:
        """The sector size in bytes."""
        return self.sector_size or DEFAULT_SECTOR_SIZE


def decided(site: Site, request: VolumeRequest) -> tuple[VolumeRequest, Snapshot | None]:
    """The request with all that it leaves to defaults and to a snapshot filled in; and that snapshot.

    Raises `UsageError` of the fitting kind, `SnapshotNotFound`, and `StateError` for a snapshot that is not whole.
    """
    _check(request)
    if request.snapshot_id is not None:
        # Imported when needed: most commands have nothing to do with stores.
        from ebscrypt.control import restore, snapshot_source  # noqa: PLC0415

        snapshot = snapshot_source.find_source(site, request.snapshot_id)
        return restore.fitted(restore.decide(site, request, snapshot), snapshot), snapshot
    if request.size is None and request.backing is None:
        raise InvalidParameter("the volume's size is missing", hint="give --size, for example --size 10G")
    encrypted, kms_key_id = decide_encryption(site, encrypted=request.encrypted, kms_key_id=request.kms_key_id)
    return msgspec.structs.replace(request, encrypted=encrypted, kms_key_id=kms_key_id), None


def check_room(volume: Volume, snapshot: Snapshot | None) -> None:
    """Raise `InvalidParameter` unless the volume, as large as its backing made it, can take the snapshot."""
    if snapshot is not None and volume.size < snapshot.volume_size:
        raise InvalidParameter(
            f"{volume.backing} has room for a volume of {format_size(volume.size)}, "
            f"and {snapshot.snapshot_id} has {format_size(snapshot.volume_size)}",
            hint="name a larger backing",
        )


def _check(request: VolumeRequest) -> None:
    """Everything about the request that needs nothing but the request."""
    if request.volume_type not in VOLUME_TYPES:
        raise InvalidParameter(
            f"volume type {request.volume_type[:40]!r} is none of EC2's", hint=f"there are {', '.join(VOLUME_TYPES)}"
        )
    if request.kms_key_id is not None:
        parse_key_name(request.kms_key_id)
    check_tags(request.tags)
    if request.lazy and (request.snapshot_id is None or request.backing is not None):
        raise InvalidParameter(
            "only a volume made from a snapshot, in a file of our own, can be used before its blocks are there",
            hint="leave out --lazy, or --backing",
        )
    if request.size is not None and request.snapshot_id is None:
        check_volume_size(request.size, request.sectors)

"""AWS::EC2::Volume (facts §7.1): a volume, encrypted as EC2 would, with its size in GiB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ebscrypt.control import faultpoints
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.describe import describe_snapshots
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.control.stacks.kinds.kind import Made, Tag, Update, changed, read_properties, tags_of
from ebscrypt.control.storing import wait_for_snapshot
from ebscrypt.control.tags import tag_volume
from ebscrypt.control.volume_request import VOLUME_TYPES
from ebscrypt.errors import (
    InvalidCombination,
    InvalidParameter,
    MissingDependency,
    StackStateError,
    VolumeNotFound,
)
from ebscrypt.model import GIB, SnapshotState, Volume, VolumeState, check_volume_size, new_volume_id

_FIXED: Final = frozenset(
    {"AvailabilityZone", "AvailabilityZoneId", "Encrypted", "KmsKeyId", "OutpostArn", "SnapshotId", "SourceVolumeId"}
)
_NOT_UPDATED: Final = (
    "Volume properties other than AutoEnableIO, type, size, and IOPS cannot be updated. Change the properties back to "
    "previous values and update the stack again."
)
"""EC2's own text (facts §7.1)."""


class VolumeProperties(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """The properties as CloudFormation names them. ``size`` in GiB."""

    availability_zone: str | None = None
    availability_zone_id: str | None = None
    encrypted: bool | None = None
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    size: int | None = None
    volume_type: str = VOLUME_TYPES[0]
    iops: int | None = None
    throughput: int | None = None
    auto_enable_io: bool | None = msgspec.field(default=None, name="AutoEnableIO")
    multi_attach_enabled: bool = False
    outpost_arn: str | None = None
    source_volume_id: str | None = None
    volume_initialization_rate: int | None = None
    tags: list[Tag] = []


class VolumeKind:
    """Its plan is the volume's id."""

    name = "AWS::EC2::Volume"
    attributes = frozenset({"VolumeId"})
    has_snapshot = True

    def check(self, site: Site, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the kinds' signature
        wanted = read_properties(properties, VolumeProperties)
        if wanted.availability_zone is None and wanted.availability_zone_id is None:
            raise InvalidParameter("Properties validation failed: required key [AvailabilityZone] not found")
        if wanted.kms_key_id is not None and not wanted.encrypted:
            raise MissingDependency("The parameter KmsKeyId requires the parameter Encrypted to be set.")
        if wanted.size is None and wanted.snapshot_id is None:
            raise InvalidCombination("A volume needs a Size or a SnapshotId.")
        for name in ("outpost_arn", "source_volume_id"):
            if getattr(wanted, name) is not None:
                raise InvalidParameter(f"{name.title().replace('_', '')} is for what AWS has and this machine has not")
        if wanted.multi_attach_enabled:
            raise InvalidParameter("MultiAttachEnabled is for several instances, and this machine is the only one")
        if wanted.size is not None:
            check_volume_size(wanted.size * GIB, 512)
        if wanted.volume_type not in VOLUME_TYPES:
            raise InvalidParameter(f"Unsupported volume type {wanted.volume_type[:40]!r} for volume creation.")
        tags_of(wanted.tags)

    def plan(self, site: Site, properties: Mapping[str, Any]) -> str:  # noqa: ARG002 - the kinds' signature
        return new_volume_id()

    def create(self, site: Site, planned: str, properties: Mapping[str, Any], found: Made | None) -> Made:
        if found is not None:
            if _state(site, planned) is not VolumeState.ERROR:
                return found
            delete_volume(site, planned)
        wanted = read_properties(properties, VolumeProperties)
        request = VolumeRequest(
            size=None if wanted.size is None else wanted.size * GIB,
            encrypted=wanted.encrypted,
            kms_key_id=wanted.kms_key_id,
            snapshot_id=wanted.snapshot_id,
            volume_type=wanted.volume_type,
            tags=tags_of(wanted.tags),
        )
        return _made(create_volume(site, request, volume_id=planned).volume_id)

    def find(self, site: Site, planned: str, properties: Mapping[str, Any]) -> Made | None:  # noqa: ARG002 - the same
        return None if _state(site, planned) is None else _made(planned)

    def update_of(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Update:
        if changed(old, new) & _FIXED:
            raise StackStateError(_NOT_UPDATED)
        return Update.IN_PLACE

    def update(
        self, site: Site, physical_id: str, old: Mapping[str, Any], new: Mapping[str, Any], *, back: bool
    ) -> dict[str, str]:
        wanted, before = read_properties(new, VolumeProperties), read_properties(old, VolumeProperties)
        if wanted.size is not None and wanted.size != before.size:
            _resize(site, site.catalog.volume(physical_id), wanted.size * GIB, back=back)
            faultpoints.reach("stack.resized")
        if wanted.volume_type != before.volume_type:
            site.catalog.correct(physical_id, volume_type=wanted.volume_type)
        tags = tags_of(wanted.tags)
        if tags != tags_of(before.tags):
            tag_volume(site, physical_id, tags, remove=set(tags_of(before.tags)) - set(tags))
        return _made(physical_id).attributes

    def snapshot(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the same
        """A snapshot with the volume's tags, and wait until it is whole. Nothing if the volume is gone."""
        if _state(site, physical_id) is None:
            return
        description = f"{physical_id}, taken before its stack deleted it"
        for made in describe_snapshots(site, volume_id=physical_id):
            if made.description == description and made.state is not SnapshotState.ERROR and not made.deleting:
                snapshot = made
                break
        else:
            tags = site.catalog.volume(physical_id).tags
            snapshot = create_snapshot(site, physical_id, description=description, tags=tags)
        faultpoints.reach("stack.snapshot")
        ended = wait_for_snapshot(site, snapshot.snapshot_id)
        if ended.state is not SnapshotState.COMPLETED:
            raise StackStateError(f"snapshot {ended.snapshot_id} of {physical_id} failed: {ended.state_message}")
        site.notes.append(f"{physical_id} is kept as {ended.snapshot_id}")

    def remove(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the same
        if _state(site, physical_id) is not None:
            delete_volume(site, physical_id)


def _made(volume_id: str) -> Made:
    return Made(volume_id, {"VolumeId": volume_id})


def _state(site: Site, volume_id: str) -> VolumeState | None:
    try:
        return site.catalog.volume(volume_id).state
    except VolumeNotFound:
        return None


def _resize(site: Site, volume: Volume, size: int, *, back: bool) -> None:
    if back and size < volume.size:
        site.notes.append(f"{volume.volume_id} keeps its new size: a volume never shrinks")
        return
    resize_volume(site, volume.volume_id, size)

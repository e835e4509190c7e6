"""CreateVolume and DeleteVolume.

A volume whose key cannot be used is the most copied mistake of EBS (facts §6.4): the answer is a volume in
``creating``, and then there is none. So it is here; the log and the event say why, and the command line, which waits
for KMS, says it at once.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ebscrypt.api.ec2 import places, tags, volume_notes, volume_tokens, volume_types, volumes_shown
from ebscrypt.api.errors import ApiError, invalid_combination, missing_parameter
from ebscrypt.control import create, delete, failed_creation
from ebscrypt.control.describe import VolumeDescription, describe_snapshot
from ebscrypt.control.volume_request import VolumeRequest
from ebscrypt.errors import InvalidParameter, KmsError, SnapshotNotFound, VolumeNotFound
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import GIB, SnapshotState, VolumeState, new_volume_id

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.model import Snapshot, Volume

_SNAPSHOT_ID: Final = re.compile(r"snap-([0-9a-f]{8}|[0-9a-f]{17})")
_ELSEWHERE: Final = ("OutpostArn", "VolumeInitializationRate", "Operator")
"""Parameters of what this machine does not have."""
_GONE: Final = (
    "The client token you have provided is associated with a resource that is already deleted. "
    "Please use a different client token."
)

_log = logging.getLogger(__name__)


class _Wanted(NamedTuple):
    """A request that can be done. ``size`` in GiB."""

    request: VolumeRequest
    size: int
    performance: volume_types.Performance


def create_volume(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """A volume, ``creating``; it is available when this is answered, or there is none if KMS refused its key."""
    wanted = _wanted(call, request)
    call.finish_dry_run(request)
    if "ClientToken" not in request:
        return _made(call, request, wanted, new_volume_id())
    with volume_tokens.held(call.site.settings, request["ClientToken"], request) as token:
        entry = token.entry()
        if entry is not None:
            there = _there(call, entry.volume_id)
            if there is not None:
                return volumes_shown.shown(call, there)
            if entry.done:
                raise ApiError("IdempotentParameterMismatch", _GONE)
            failed_creation.forget_failed(call.site, entry.volume_id)
        volume_id = new_volume_id()
        token.write(volume_id, done=False)
        try:
            answer = _made(call, request, wanted, volume_id)
        except Exception:
            token.forget()
            raise
        token.write(volume_id, done=True)
        return answer


def delete_volume(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The volume and its data are gone."""
    volume = volumes_shown.find(call, request["VolumeId"]).volume
    if volume.state is VolumeState.IN_USE:
        raise ApiError("VolumeInUse", f"Volume {volume.volume_id} is currently attached to {instance_id()}")
    call.finish_dry_run(request)
    try:
        delete.delete_volume(call.site, volume.volume_id)
    except VolumeNotFound:
        raise volumes_shown.missing(volume.volume_id) from None
    volume_notes.forget(call.site.settings, volume.volume_id)
    return {}


def _wanted(call: Call, request: dict[str, Any]) -> _Wanted:
    """The request, all of whose parameters have been checked; KMS has not been asked."""
    _check_zone(call, request)
    for name in _ELSEWHERE:
        if name in request:
            raise ApiError("UnsupportedOperation", f"The parameter {name} is not supported by this endpoint.")
    snapshot = _snapshot(call, request.get("SnapshotId"))
    size = request.get("Size")
    if size is None and snapshot is None:
        raise missing_parameter("size/snapshot")
    volume_type = request.get("VolumeType", volume_types.DEFAULT_TYPE)
    gib = size if size is not None else -(-(0 if snapshot is None else snapshot.volume_size) // GIB)
    iops, throughput = request.get("Iops"), request.get("Throughput")
    performance = volume_types.performance(volume_type, gib, iops=iops, throughput=throughput)
    if request.get("MultiAttachEnabled"):
        if volume_type not in ("io1", "io2"):
            raise invalid_combination(f"The parameter MultiAttachEnabled is not supported for {volume_type} volumes.")
        raise ApiError("UnsupportedOperation", "A volume can be attached once: there is one instance here.")
    wish = VolumeRequest(
        size=None if size is None else size * GIB,
        encrypted=request.get("Encrypted"),
        kms_key_id=request.get("KmsKeyId"),
        snapshot_id=request.get("SnapshotId"),
        volume_type=volume_type,
        # EBS's volumes can be used before all blocks of their snapshot are there.
        lazy=snapshot is not None,
        tags=tags.of_specifications(request.get("TagSpecifications", []), "volume"),
    )
    return _Wanted(wish, gib, performance)


def _check_zone(call: Call, request: dict[str, Any]) -> None:
    name, zone_id = request.get("AvailabilityZone"), request.get("AvailabilityZoneId")
    if name is None and zone_id is None:
        raise missing_parameter("zone")
    if name is not None and zone_id is not None:
        raise invalid_combination("AvailabilityZone and AvailabilityZoneId cannot be given together.")
    if name is not None:
        places.check_zone(call, name)
    elif zone_id != places.zone_id(call):
        raise ApiError("InvalidZone.NotFound", f"The zone '{str(zone_id)[:80]}' does not exist.")


def _snapshot(call: Call, snapshot_id: str | None) -> Snapshot | None:
    if snapshot_id is None:
        return None
    if not _SNAPSHOT_ID.fullmatch(snapshot_id):
        raise ApiError("InvalidSnapshotID.Malformed", f'Invalid id: "{snapshot_id[:80]}" (expecting "snap-...")')
    try:
        snapshot = describe_snapshot(call.site, snapshot_id)
    except (InvalidParameter, SnapshotNotFound):
        raise ApiError("InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist.") from None
    if snapshot.state is not SnapshotState.COMPLETED:
        raise ApiError("IncorrectState", f"Snapshot is in invalid state - {snapshot.state.value}")
    return snapshot


def _made(call: Call, request: dict[str, Any], wanted: _Wanted, volume_id: str) -> dict[str, Any]:
    """The answer, whether KMS let the volume be made or not."""
    try:
        volume = create.create_volume(call.site, wanted.request, volume_id=volume_id)
    except KmsError as error:
        failed_creation.forget_failed(call.site, volume_id)
        if error.retryable:
            raise
        _log.warning("%s: %s is not made: %s", call.request_id, volume_id, error.message)
        return _creating(call, request, wanted, volume_id)
    except Exception:
        failed_creation.forget_failed(call.site, volume_id)
        raise
    if "Iops" in request or "Throughput" in request:
        volume_notes.change(
            call.site.settings, volume_id, iops=request.get("Iops"), throughput=request.get("Throughput")
        )
    return _begun(request, volumes_shown.shown(call, VolumeDescription(volume, None)))


def _begun(request: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    """A new volume as EC2 answers it: the key is told where the request or its snapshot named it."""
    if "KmsKeyId" not in request and "SnapshotId" not in request:
        shown.pop("KmsKeyId", None)
    del shown["Attachments"]
    return shown | {"State": VolumeState.CREATING.value}


def _creating(call: Call, request: dict[str, Any], wanted: _Wanted, volume_id: str) -> dict[str, Any]:
    """What is answered of a volume that will not be there."""
    answer = {
        "VolumeId": volume_id,
        "Size": wanted.size,
        "SnapshotId": wanted.request.snapshot_id or "",
        "AvailabilityZone": places.zone_name(call),
        "AvailabilityZoneId": places.zone_id(call),
        "State": VolumeState.CREATING.value,
        "CreateTime": call.now,
        "Encrypted": True,
        "VolumeType": wanted.request.volume_type,
        "MultiAttachEnabled": False,
        "Tags": volumes_shown.tag_list(wanted.request.tags),
    }
    key = request.get("KmsKeyId", "")
    optional = {
        "KmsKeyId": key if key.startswith("arn:") and ":key/" in key else None,
        "Iops": wanted.performance.iops,
        "Throughput": wanted.performance.throughput,
    }
    return answer | {name: value for name, value in optional.items() if value is not None}


def _there(call: Call, volume_id: str) -> VolumeDescription | None:
    """The volume of a token, if it was made and is there still."""
    try:
        found = volumes_shown.find(call, volume_id)
    except ApiError:
        return None
    return found if _is_whole(found.volume) else None


def _is_whole(volume: Volume) -> bool:
    return volume.state in (VolumeState.AVAILABLE, VolumeState.IN_USE)

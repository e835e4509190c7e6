"""DescribeVolumes, DescribeVolumeStatus: volumes as EC2 shows them, and how the others find theirs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api.ec2 import filters, places, volume_notes, volume_types
from ebscrypt.api.errors import ApiError
from ebscrypt.api.pages import page
from ebscrypt.control.describe import VolumeDescription
from ebscrypt.control.describe import describe_volume as describe
from ebscrypt.control.describe import describe_volumes as describe_all
from ebscrypt.errors import InvalidParameter, VolumeNotFound
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import GIB, AttachmentState, Volume, VolumeState

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.control.runtime import Attached

_ID: Final = re.compile(r"vol-([0-9a-f]{8}|[0-9a-f]{17})")
_ATTACHMENT_STATES: Final = {AttachmentState.LOST: "busy"}
"""EC2's word where it has none of ours: the device is there, and its daemon is not."""


def find(call: Call, volume_id: str) -> VolumeDescription:
    """A volume and how it is attached. Raises `ApiError` in EC2's words where there is none."""
    if not _ID.fullmatch(volume_id):
        raise ApiError("InvalidVolumeID.Malformed", f'Invalid id: "{volume_id[:80]}" (expecting "vol-...")')
    try:
        found = describe(call.site, volume_id)
    except (InvalidParameter, VolumeNotFound):
        raise missing(volume_id) from None
    return found


def missing(volume_id: str) -> ApiError:
    return ApiError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")


def chosen(call: Call, request: dict[str, Any]) -> list[VolumeDescription]:
    """The volumes that VolumeIds names, else all."""
    wanted = request.get("VolumeIds")
    return [find(call, volume_id) for volume_id in dict.fromkeys(wanted)] if wanted else describe_all(call.site)


def size_in_gib(volume: Volume) -> int:
    """The size as EC2 shows it: rounded up, for a volume of the command line may have any."""
    return -(-volume.size // GIB)


def attachment_shown(volume_id: str, device: str, state: str, attached: Attached | None) -> dict[str, Any]:
    """An attachment, under the name that AttachVolume gave to the device."""
    shown = {
        "VolumeId": volume_id,
        "InstanceId": instance_id(),
        "Device": device,
        "State": state,
        "DeleteOnTermination": False,
    }
    if attached is not None and attached.attachment is not None:
        shown["AttachTime"] = attached.attachment.attach_time
    return shown


def attachments_of(call: Call, found: VolumeDescription) -> list[dict[str, Any]]:
    """The one attachment of a volume, or none. Its device is this machine's own where no AttachVolume named one."""
    if found.attached is None:
        return []
    note = volume_notes.read(call.site.settings, found.volume.volume_id)
    there = found.attached.attachment
    device = note.device or ("" if there is None else there.device)
    state = _ATTACHMENT_STATES.get(found.attached.state, found.attached.state.value)
    return [attachment_shown(found.volume.volume_id, device, state, found.attached)]


def shown(call: Call, found: VolumeDescription) -> dict[str, Any]:
    """A volume with its attachment, as DescribeVolumes has it."""
    volume = found.volume
    note = volume_notes.read(call.site.settings, volume.volume_id)
    size = size_in_gib(volume)
    iops, throughput = volume_types.present(volume.volume_type, size, iops=note.iops, throughput=note.throughput)
    answer = {
        "VolumeId": volume.volume_id,
        "Size": size,
        "SnapshotId": volume.snapshot_id or "",
        "AvailabilityZone": places.zone_name(call),
        "AvailabilityZoneId": places.zone_id(call),
        "State": volume.state.value,
        "CreateTime": volume.create_time,
        "Attachments": attachments_of(call, found),
        "Encrypted": volume.encrypted,
        "VolumeType": volume.volume_type,
        "MultiAttachEnabled": False,
        "Tags": tag_list(volume.tags),
    }
    optional = {"KmsKeyId": volume.kms_key_arn, "Iops": iops, "Throughput": throughput}
    return answer | {name: value for name, value in optional.items() if value is not None}


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tags_of(item: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item["Tags"]}


def _of_attachments(name: str) -> filters.Values[dict[str, Any]]:
    return lambda volume: [attachment.get(name) for attachment in volume["Attachments"]]


_FILTERS: Final[dict[str, filters.Values[dict[str, Any]]]] = {
    "attachment.attach-time": _of_attachments("AttachTime"),
    "attachment.delete-on-termination": _of_attachments("DeleteOnTermination"),
    "attachment.device": _of_attachments("Device"),
    "attachment.instance-id": _of_attachments("InstanceId"),
    "attachment.status": _of_attachments("State"),
    "availability-zone": lambda volume: [volume["AvailabilityZone"]],
    "availability-zone-id": lambda volume: [volume["AvailabilityZoneId"]],
    "create-time": lambda volume: [volume["CreateTime"]],
    "encrypted": lambda volume: [volume["Encrypted"]],
    "fast-restored": lambda _: [False],
    "multi-attach-enabled": lambda volume: [volume["MultiAttachEnabled"]],
    "operator.managed": lambda _: [False],
    "operator.principal": lambda _: [],
    "size": lambda volume: [volume["Size"]],
    "snapshot-id": lambda volume: [volume["SnapshotId"]],
    "status": lambda volume: [volume["State"]],
    "volume-id": lambda volume: [volume["VolumeId"]],
    "volume-type": lambda volume: [volume["VolumeType"]],
}


def describe_volumes(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Volumes with their attachments."""
    volumes = [shown(call, found) for found in chosen(call, request)]
    selected = filters.select(volumes, request.get("Filters", []), _FILTERS, tags_of)
    items, token = page("DescribeVolumes", request, selected, lambda volume: str(volume["VolumeId"]))
    call.finish_dry_run(request)
    return {"Volumes": items} | ({"NextToken": token} if token else {})


def _status(call: Call, found: VolumeDescription) -> dict[str, Any]:
    """The status of a volume: impaired where its daemon has died, so that its device only waits or gives errors."""
    lost = found.attached is not None and found.attached.state is AttachmentState.LOST
    attachments = [
        {"InstanceId": one["InstanceId"], "IoPerformance": "not-applicable"} for one in attachments_of(call, found)
    ]
    return {
        "VolumeId": found.volume.volume_id,
        "AvailabilityZone": places.zone_name(call),
        "AvailabilityZoneId": places.zone_id(call),
        "VolumeStatus": {
            "Status": "impaired" if lost else "ok",
            "Details": [
                {"Name": "io-enabled", "Status": "failed" if lost else "passed"},
                {"Name": "io-performance", "Status": "not-applicable"},
            ],
        },
        "Actions": [],
        "Events": [],
        "AttachmentStatuses": attachments,
    }


_STATUS_FILTERS: Final[dict[str, filters.Values[dict[str, Any]]]] = {
    "action.code": lambda _: [],
    "action.description": lambda _: [],
    "action.event-id": lambda _: [],
    "attachment-status.instance-id": lambda item: [one["InstanceId"] for one in item["AttachmentStatuses"]],
    "attachment-status.io-performance": lambda item: [one["IoPerformance"] for one in item["AttachmentStatuses"]],
    "availability-zone": lambda item: [item["AvailabilityZone"]],
    "event.description": lambda _: [],
    "event.event-id": lambda _: [],
    "event.event-type": lambda _: [],
    "event.not-after": lambda _: [],
    "event.not-before": lambda _: [],
    "volume-status.details-name": lambda item: [one["Name"] for one in item["VolumeStatus"]["Details"]],
    "volume-status.details-status": lambda item: [one["Status"] for one in item["VolumeStatus"]["Details"]],
    "volume-status.status": lambda item: [item["VolumeStatus"]["Status"]],
}


def describe_volume_status(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Whether volumes can be used."""
    usable = (VolumeState.AVAILABLE, VolumeState.IN_USE)
    statuses = [_status(call, found) for found in chosen(call, request) if found.volume.state in usable]
    selected = filters.select(statuses, request.get("Filters", []), _STATUS_FILTERS)
    items, token = page("DescribeVolumeStatus", request, selected, lambda item: str(item["VolumeId"]))
    call.finish_dry_run(request)
    return {"VolumeStatuses": items} | ({"NextToken": token} if token else {})

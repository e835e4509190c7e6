"""AttachVolume, DetachVolume and DescribeInstances: this machine is the one instance.

The name of the device is kept, and shown again. The device itself is /dev/disk/by-id/ebscrypt-<volume id>, whatever
name was asked for, as on instances whose disks are NVMe.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api.ec2 import filters, places, volume_notes, volumes_shown
from ebscrypt.api.errors import ApiError, invalid_value
from ebscrypt.api.pages import page
from ebscrypt.control import attach, detach, locks
from ebscrypt.control.runtime import Attached
from ebscrypt.model import AttachmentState, VolumeState

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.control.describe import VolumeDescription

_DEVICE: Final = re.compile(r"(?:/dev/)?((?:sd|xvd|hd)[a-z]{1,2}[0-9]{0,2})")
"""Names that EC2 knows for devices."""


def attach_volume(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The volume is attached when this is answered, although the answer says ``attaching``, as EC2's does."""
    volume_id, device, settings = request["VolumeId"], request["Device"], call.site.settings
    found = volumes_shown.find(call, volume_id)
    places.check_instance(request["InstanceId"])
    name = _device_name(device)
    if request.get("EbsCardIndex"):
        raise ApiError("UnsupportedOperation", "The parameter EbsCardIndex is not supported by this endpoint.")
    _refuse_attached(found)
    lock = f"device-{name}"
    with locks.held(settings, lock, "api serve"):
        try:
            _refuse_taken(call, volume_id, device)
            call.finish_dry_run(request)
            before = volume_notes.read(settings, volume_id).device
            volume_notes.change(settings, volume_id, device=device)
            try:
                attachment = attach.attach_volume(call.site, volume_id)
            except Exception:
                volume_notes.change(settings, volume_id, device=before)
                raise
        finally:
            locks.forget(settings, lock)
    attached = Attached(AttachmentState.ATTACHED, attachment)
    return volumes_shown.attachment_shown(volume_id, device, AttachmentState.ATTACHING.value, attached)


def detach_volume(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The volume is detached when this is answered. Force cuts off who uses it, as `ebscrypt detach --force` does."""
    volume_id = request["VolumeId"]
    found = volumes_shown.find(call, volume_id)
    if "InstanceId" in request:
        places.check_instance(request["InstanceId"])
    if found.volume.state is not VolumeState.IN_USE:
        raise _incorrect_state(found)
    shown = volumes_shown.attachments_of(call, found)
    device = shown[0]["Device"] if shown else ""
    if "Device" in request and _plain(request["Device"]) != _plain(device):
        raise ApiError(
            "InvalidAttachment.NotFound", f"The volume '{volume_id}' is not attached as '{request['Device'][:80]}'."
        )
    call.finish_dry_run(request)
    detach.detach_volume(call.site, volume_id, force=bool(request.get("Force")))
    if volume_notes.read(call.site.settings, volume_id).device is not None:
        # Should the command line attach it next, it has no name but the device's own.
        volume_notes.change(call.site.settings, volume_id, device=None)
    return volumes_shown.attachment_shown(volume_id, device, AttachmentState.DETACHING.value, found.attached)


_FILTERS: Final[dict[str, filters.Values[dict[str, Any]]]] = {
    "architecture": lambda one: [one["Architecture"]],
    "availability-zone": lambda one: [one["Placement"]["AvailabilityZone"]],
    "block-device-mapping.device-name": lambda one: [each["DeviceName"] for each in one["BlockDeviceMappings"]],
    "block-device-mapping.status": lambda one: [each["Ebs"]["Status"] for each in one["BlockDeviceMappings"]],
    "block-device-mapping.volume-id": lambda one: [each["Ebs"]["VolumeId"] for each in one["BlockDeviceMappings"]],
    "instance-id": lambda one: [one["InstanceId"]],
    "instance-state-code": lambda one: [one["State"]["Code"]],
    "instance-state-name": lambda one: [one["State"]["Name"]],
    "launch-time": lambda one: [one["LaunchTime"]],
    "private-dns-name": lambda one: [one["PrivateDnsName"]],
}


def describe_instances(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """This machine, with the volumes that are attached."""
    for instance in request.get("InstanceIds", ()):
        places.check_instance(instance)
    attached = [one for found in volumes_shown.chosen(call, {}) for one in volumes_shown.attachments_of(call, found)]
    instance = places.this_instance(call) | {"BlockDeviceMappings": [_mapping(one) for one in attached]}
    selected = filters.select([instance], request.get("Filters", []), _FILTERS, volumes_shown.tags_of)
    items, token = page("DescribeInstances", request, selected, lambda one: str(one["InstanceId"]))
    call.finish_dry_run(request)
    reservation = {"ReservationId": f"r-{instance['InstanceId'][2:]}", "OwnerId": call.account, "Groups": []}
    answer: dict[str, Any] = {"Reservations": [reservation | {"Instances": items}] if items else []}
    return answer | ({"NextToken": token} if token else {})


def _mapping(attachment: dict[str, Any]) -> dict[str, Any]:
    ebs = {"VolumeId": attachment["VolumeId"], "Status": attachment["State"], "DeleteOnTermination": False}
    if "AttachTime" in attachment:
        ebs["AttachTime"] = attachment["AttachTime"]
    # EC2 has no word here for an attachment whose daemon died; it is still in the way of others.
    if ebs["Status"] == "busy":
        ebs["Status"] = "attached"
    return {"DeviceName": attachment["Device"], "Ebs": ebs}


def _device_name(device: str) -> str:
    """The last part of a device's name. Raises `ApiError` for what is none."""
    match = _DEVICE.fullmatch(device)
    if match is None:
        shown = device[:80]
        raise invalid_value(f"Value ({shown}) for parameter device is invalid. {shown} is not a valid EBS device name.")
    return match[1]


def _plain(device: str) -> str:
    return device.removeprefix("/dev/")


def _refuse_attached(found: VolumeDescription) -> None:
    """An attachment whose daemon died is taken up again by another AttachVolume, as by `ebscrypt attach`."""
    lost = found.attached is not None and found.attached.state is AttachmentState.LOST
    if found.volume.state is VolumeState.IN_USE and not lost:
        raise ApiError("VolumeInUse", f"{found.volume.volume_id} is already attached to an instance")
    if found.volume.state not in (VolumeState.AVAILABLE, VolumeState.IN_USE):
        raise _incorrect_state(found)


def _incorrect_state(found: VolumeDescription) -> ApiError:
    volume = found.volume
    return ApiError("IncorrectState", f"Volume '{volume.volume_id}' is in the '{volume.state.value}' state.")


def _refuse_taken(call: Call, volume_id: str, device: str) -> None:
    """Raise `ApiError` if another volume is attached under that name."""
    for found in volumes_shown.chosen(call, {}):
        for one in volumes_shown.attachments_of(call, found):
            if one["VolumeId"] != volume_id and _plain(one["Device"]) == _plain(device):
                raise invalid_value(
                    f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
                )

"""ModifyVolume, DescribeVolumesModifications, and the attributes of a volume.

A modification is done when it is answered, though the answer says ``modifying``, as EC2's does. EC2's limit on how
often a volume may be modified is for its disks' sake, and there is none here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api.ec2 import filters, volume_notes, volume_types, volumes_shown
from ebscrypt.api.ec2.volume_notes import Modification, Values
from ebscrypt.api.errors import ApiError, invalid_combination, invalid_value
from ebscrypt.api.pages import page
from ebscrypt.control.resize import resize_volume
from ebscrypt.model import GIB, AttachmentState, VolumeState, utc_now

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.model import Volume

_CHANGEABLE: Final = ("Size", "VolumeType", "Iops", "Throughput")


def modify_volume(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The volume is larger, or of another type."""
    volume_id, settings = request["VolumeId"], call.site.settings
    volume = volumes_shown.find(call, volume_id).volume
    if request.get("MultiAttachEnabled"):
        raise ApiError("UnsupportedOperation", "A volume can be attached once: there is one instance here.")
    if volume.state not in (VolumeState.AVAILABLE, VolumeState.IN_USE):
        raise ApiError("IncorrectState", f"Volume '{volume_id}' is in the '{volume.state.value}' state.")
    if not any(name in request for name in _CHANGEABLE):
        raise invalid_combination(f"At least one of {', '.join(_CHANGEABLE)} has to be given.")
    note = volume_notes.read(settings, volume_id)
    original = _values(volume, volume.volume_type, volumes_shown.size_in_gib(volume), note.iops, note.throughput)
    if request.get("Size", original.size) < original.size:
        raise invalid_value("New size cannot be smaller than existing size")
    asked = _asked(request, volume, note)
    target = _checked(asked)
    call.finish_dry_run(request)
    start = utc_now()
    if "Size" in request:
        resize_volume(call.site, volume_id, asked.size * GIB)
    if target.volume_type != volume.volume_type:
        call.site.catalog.correct(volume_id, volume_type=target.volume_type)
    modification = Modification(original=original, target=target, start_time=start, end_time=utc_now())
    volume_notes.change(settings, volume_id, iops=asked.iops, throughput=asked.throughput, modification=modification)
    under_way = {"ModificationState": "modifying", "Progress": 0}
    shown = {name: value for name, value in _shown(volume_id, modification).items() if name != "EndTime"}
    return {"VolumeModification": shown | under_way}


def _asked(request: dict[str, Any], volume: Volume, note: volume_notes.Note) -> Values:
    """What the volume shall be; what another type has not is not taken along."""
    volume_type = request.get("VolumeType", volume.volume_type)
    same = volume_type == volume.volume_type
    return Values(
        size=request.get("Size", volumes_shown.size_in_gib(volume)),
        volume_type=volume_type,
        iops=request.get("Iops", note.iops if same else None),
        throughput=request.get("Throughput", note.throughput if same else None),
    )


def _checked(asked: Values) -> Values:
    found = volume_types.performance(asked.volume_type, asked.size, iops=asked.iops, throughput=asked.throughput)
    return Values(size=asked.size, volume_type=asked.volume_type, iops=found.iops, throughput=found.throughput)


def _values(volume: Volume, volume_type: str, size: int, iops: int | None, throughput: int | None) -> Values:
    found = volume_types.present(volume.volume_type, size, iops=iops, throughput=throughput)
    return Values(size=size, volume_type=volume_type, iops=found.iops, throughput=found.throughput)


def _shown(volume_id: str, modification: Modification) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "VolumeId": volume_id,
        "ModificationState": "completed",
        "Progress": 100,
        "StartTime": modification.start_time,
        "EndTime": modification.end_time,
    }
    for word, values in (("Original", modification.original), ("Target", modification.target)):
        shown |= {
            f"{word}Size": values.size,
            f"{word}VolumeType": values.volume_type,
            f"{word}MultiAttachEnabled": False,
        }
        optional = {f"{word}Iops": values.iops, f"{word}Throughput": values.throughput}
        shown |= {name: value for name, value in optional.items() if value is not None}
    return shown


def _member(name: str) -> filters.Values[dict[str, Any]]:
    return lambda item: [item.get(name)]


_FILTERS: Final[dict[str, filters.Values[dict[str, Any]]]] = {
    "modification-state": _member("ModificationState"),
    "original-iops": _member("OriginalIops"),
    "original-size": _member("OriginalSize"),
    "original-volume-type": _member("OriginalVolumeType"),
    "originalMultiAttachEnabled": _member("OriginalMultiAttachEnabled"),
    "start-time": _member("StartTime"),
    "target-iops": _member("TargetIops"),
    "target-size": _member("TargetSize"),
    "target-volume-type": _member("TargetVolumeType"),
    "targetMultiAttachEnabled": _member("TargetMultiAttachEnabled"),
    "volume-id": _member("VolumeId"),
}


def describe_volumes_modifications(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The last modification of each volume that had one."""
    listed = []
    for found in volumes_shown.chosen(call, request):
        volume_id = found.volume.volume_id
        modification = volume_notes.read(call.site.settings, volume_id).modification
        if modification is not None:
            listed.append(_shown(volume_id, modification))
        elif request.get("VolumeIds"):
            raise ApiError(
                "InvalidVolumeModification.NotFound", f"Modification for volume '{volume_id}' does not exist."
            )
    selected = filters.select(listed, request.get("Filters", []), _FILTERS)
    items, token = page(
        "DescribeVolumesModifications",
        request,
        selected,
        lambda item: str(item["VolumeId"]),
        smallest=1,
        largest=500,
    )
    call.finish_dry_run(request)
    return {"VolumesModifications": items} | ({"NextToken": token} if token else {})


def describe_volume_attribute(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """One attribute of a volume: ``autoEnableIO`` or ``productCodes``, of which there are none."""
    volume_id = volumes_shown.find(call, request["VolumeId"]).volume.volume_id
    call.finish_dry_run(request)
    if request["Attribute"] == "productCodes":
        return {"VolumeId": volume_id, "ProductCodes": []}
    enabled = volume_notes.read(call.site.settings, volume_id).auto_enable_io
    return {"VolumeId": volume_id, "AutoEnableIO": {"Value": enabled}}


def modify_volume_attribute(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """``autoEnableIO`` is kept and shown; I/O is never disabled here."""
    volume_id = volumes_shown.find(call, request["VolumeId"]).volume.volume_id
    if "Value" not in request.get("AutoEnableIO", {}):
        raise invalid_combination("No attributes specified.")
    call.finish_dry_run(request)
    volume_notes.change(call.site.settings, volume_id, auto_enable_io=request["AutoEnableIO"]["Value"])
    return {}


def enable_volume_io(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Nothing for a volume that works. One whose daemon died has to be attached again."""
    found = volumes_shown.find(call, request["VolumeId"])
    if found.attached is not None and found.attached.state is AttachmentState.LOST:
        raise ApiError("IncorrectState", f"Volume '{found.volume.volume_id}' is impaired: attach it again.")
    call.finish_dry_run(request)
    return {}

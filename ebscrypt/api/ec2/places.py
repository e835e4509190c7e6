"""Where things are: one Region, one availability zone in it, and this machine as the one instance there."""

from __future__ import annotations

import platform
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api.ec2 import filters
from ebscrypt.api.errors import ApiError
from ebscrypt.kms.principals import instance_id

if TYPE_CHECKING:
    from ebscrypt.api.call import Call

_ARCHITECTURES: Final = {"aarch64": "arm64", "x86_64": "x86_64"}


def zone_name(call: Call) -> str:
    """The one availability zone, which templates know by that name, too."""
    return f"{call.region}a"


def zone_id(call: Call) -> str:
    """The zone's id, in the form of AWS's: ``use1-az1`` for us-east-1. The number is always 1."""
    area, _, rest = call.region.partition("-")
    middle, _, number = rest.rpartition("-")
    short = "".join(part[0] for word in middle.split("-") for part in _directions(word))
    return f"{area}{short}{number}-az1"


def _directions(word: str) -> list[str]:
    for second in ("east", "west"):
        if word.endswith(second) and word != second:
            return [word.removesuffix(second), second]
    return [word]


def check_zone(call: Call, name: str) -> None:
    """Raise `ApiError` unless ``name`` is the one zone."""
    if name != zone_name(call):
        raise ApiError("InvalidZone.NotFound", f"The zone '{name[:80]}' does not exist.")


def check_instance(wanted: str) -> None:
    """Raise `ApiError` unless ``wanted`` is this machine's instance id."""
    if not wanted.startswith("i-") or not all(digit in "0123456789abcdef" for digit in wanted[2:]) or len(wanted) < 3:
        raise ApiError("InvalidInstanceID.Malformed", f'Invalid id: "{wanted[:80]}"')
    if wanted != instance_id():
        raise ApiError("InvalidInstanceID.NotFound", f"The instance ID '{wanted[:80]}' does not exist")


def describe_availability_zones(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The one zone."""
    for name in request.get("ZoneNames", ()):
        check_zone(call, name)
    for wanted in request.get("ZoneIds", ()):
        if wanted != zone_id(call):
            raise ApiError("InvalidZone.NotFound", f"The zone '{wanted[:80]}' does not exist.")
    call.finish_dry_run(request)
    zone = {
        "State": "available",
        "OptInStatus": "opt-in-not-required",
        "Messages": [],
        "RegionName": call.region,
        "ZoneName": zone_name(call),
        "ZoneId": zone_id(call),
        "GroupName": f"{call.region}-zg-1",
        "NetworkBorderGroup": call.region,
        "ZoneType": "availability-zone",
    }
    known = {
        "state": lambda z: [z["State"]],
        "opt-in-status": lambda z: [z["OptInStatus"]],
        "region-name": lambda z: [z["RegionName"]],
        "zone-name": lambda z: [z["ZoneName"]],
        "zone-id": lambda z: [z["ZoneId"]],
        "group-name": lambda z: [z["GroupName"]],
        "zone-type": lambda z: [z["ZoneType"]],
    }
    return {"AvailabilityZones": filters.select([zone], request.get("Filters", []), known)}


def describe_regions(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The one Region, of the settings; its endpoint is the name that AWS has for it."""
    for name in request.get("RegionNames", ()):
        if name != call.region:
            raise ApiError("InvalidParameterValue", f"Invalid region provided: {name[:80]}")
    call.finish_dry_run(request)
    region = {
        "RegionName": call.region,
        "Endpoint": f"ec2.{call.region}.amazonaws.com",
        "OptInStatus": "opt-in-not-required",
    }
    known = {
        "region-name": lambda r: [r["RegionName"]],
        "endpoint": lambda r: [r["Endpoint"]],
        "opt-in-status": lambda r: [r["OptInStatus"]],
    }
    return {"Regions": filters.select([region], request.get("Filters", []), known)}


def this_instance(call: Call) -> dict[str, Any]:
    """This machine as an instance, without what is attached to it."""
    machine = platform.machine()
    return {
        "InstanceId": instance_id(),
        "ImageId": "ami-00000000000000000",
        "State": {"Code": 16, "Name": "running"},
        "PrivateDnsName": socket.gethostname(),
        "LaunchTime": _boot_time(),
        "Placement": {"AvailabilityZone": zone_name(call), "AvailabilityZoneId": zone_id(call), "Tenancy": "host"},
        "Architecture": _ARCHITECTURES.get(machine, machine),
        "RootDeviceType": "ebs",
        "EbsOptimized": True,
        "Tags": [],
    }


def _boot_time() -> datetime:
    """When this machine started, from the kernel's own account of it."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return datetime.fromtimestamp(int(line.split()[1]), UTC)
    return datetime.fromtimestamp(0, UTC)

"""CreateTags, DeleteTags and DescribeTags, for volumes and snapshots; and tags that come with what is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api.ec2 import filters
from ebscrypt.api.errors import ApiError, invalid_value, missing_parameter
from ebscrypt.api.pages import page
from ebscrypt.control.tags import MOST_TAGS, RESERVED, check_tags
from ebscrypt.errors import SnapshotNotFound, VolumeNotFound

if TYPE_CHECKING:
    from ebscrypt.api.call import Call

_ID: Final = re.compile(r"(vol|snap)-[0-9a-f]{17}")
_MOST_RESOURCES: Final = 1000
_Change = Callable[[Mapping[str, str]], Mapping[str, str]]


def of_specifications(specifications: list[dict[str, Any]], resource_type: str) -> dict[str, str]:
    """The tags of a TagSpecification for what is to be made. Raises `ApiError`."""
    listed: list[dict[str, str]] = []
    for one in specifications:
        if one.get("ResourceType") is None:
            raise missing_parameter("TagSpecification.ResourceType")
        if one["ResourceType"] != resource_type:
            raise invalid_value(f"'{one['ResourceType']}' is not a valid taggable resource type for this operation.")
        listed += one.get("Tags", [])
    return _tags(listed)


def create_tags(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Tags for each of the resources, in the place of those with the same keys."""
    tags = _tags(request["Tags"])
    if not tags:
        raise missing_parameter("Tag")
    before = _resources(call, request["Resources"])
    for resource, present in before.items():
        _refuse_too_many(resource, present | tags)
    call.finish_dry_run(request)
    for resource in before:
        _change(call, resource, lambda present: check_tags(dict(present) | tags))
    return {}


def delete_tags(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The tags are gone: all where none is named, and with a value only those that have it."""
    gone = {tag["Key"]: tag.get("Value") for tag in request.get("Tags", []) if "Key" in tag}
    resources = _resources(call, request["Resources"])
    call.finish_dry_run(request)

    def keep(present: Mapping[str, str]) -> dict[str, str]:
        if not request.get("Tags"):
            return {}
        return {key: value for key, value in present.items() if key not in gone or gone[key] not in (None, value)}

    for resource in resources:
        _change(call, resource, keep)
    return {}


_FILTERS: Final[dict[str, filters.Values[dict[str, str]]]] = {
    "key": lambda tag: [tag["Key"]],
    "resource-id": lambda tag: [tag["ResourceId"]],
    "resource-type": lambda tag: [tag["ResourceType"]],
    "value": lambda tag: [tag["Value"]],
}


def describe_tags(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Tags of all volumes and snapshots."""
    tagged = [(volume.volume_id, "volume", volume.tags) for volume in call.site.reading.volumes()]
    tagged += [(one.snapshot_id, "snapshot", one.tags) for one in call.site.reading.snapshots.list()]
    listed = [
        {"ResourceId": resource, "ResourceType": kind, "Key": key, "Value": value}
        for resource, kind, tags in tagged
        for key, value in tags.items()
    ]
    selected = filters.select(listed, request.get("Filters", []), _FILTERS, lambda tag: {tag["Key"]: tag["Value"]})
    items, token = page("DescribeTags", request, selected, lambda tag: f"{tag['ResourceId']} {tag['Key']}")
    call.finish_dry_run(request)
    return {"Tags": items} | ({"NextToken": token} if token else {})


def _tags(listed: list[dict[str, str]]) -> dict[str, str]:
    """Tags by their keys, checked by EC2's rules."""
    tags: dict[str, str] = {}
    for tag in listed:
        key = tag.get("Key", "")
        if key in tags:
            raise invalid_value(f"Duplicate tag key '{key[:128]}' specified.")
        if key.lower().startswith(RESERVED):
            raise invalid_value(f"Tag keys starting with '{RESERVED}' are reserved for internal use")
        tags[key] = tag.get("Value", "")
    _refuse_too_many("The request", tags)
    return check_tags(tags)


def _refuse_too_many(resource: str, tags: Mapping[str, str]) -> None:
    if len(tags) > MOST_TAGS:
        raise ApiError("TagLimitExceeded", f"{resource} would have {len(tags)} tags; the maximum is {MOST_TAGS}.")


def _resources(call: Call, wanted: list[str]) -> dict[str, dict[str, str]]:
    """The resources with the tags that they have. Raises `ApiError` unless all are there."""
    if len(wanted) > _MOST_RESOURCES:
        raise invalid_value(f"A request can name {_MOST_RESOURCES} resources at most.")
    return {resource: _present(call, resource) for resource in wanted}


def _present(call: Call, resource: str) -> dict[str, str]:
    if not _ID.fullmatch(resource):
        raise ApiError("InvalidID", f"The ID '{resource[:80]}' is not valid")
    try:
        if resource.startswith("vol-"):
            return call.site.reading.volume(resource).tags
        return call.site.reading.snapshots.get(resource).tags
    except VolumeNotFound:
        raise ApiError("InvalidVolume.NotFound", f"The volume '{resource}' does not exist.") from None
    except SnapshotNotFound:
        raise ApiError("InvalidSnapshot.NotFound", f"The snapshot '{resource}' does not exist.") from None


def _change(call: Call, resource: str, change: _Change) -> None:
    if resource.startswith("vol-"):
        call.site.catalog.change_tags(resource, change)
    else:
        call.site.catalog.snapshots.change_tags(resource, change)

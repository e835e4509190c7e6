"""CreateSnapshot, CreateSnapshots, DeleteSnapshot.

A snapshot is answered ``pending``: its blocks are stored in a process of its own, which outlives this server.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ebscrypt.api.ec2 import places, snapshots_asked
from ebscrypt.api.errors import invalid_value
from ebscrypt.control import snapshots
from ebscrypt.control.tags import RESERVED
from ebscrypt.errors import EbscryptError
from ebscrypt.model import VolumeState

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.model import Snapshot, Volume

_OF_ONE_OF_SEVERAL = frozenset(
    {
        "Description",
        "Tags",
        "Encrypted",
        "VolumeId",
        "State",
        "VolumeSize",
        "StartTime",
        "Progress",
        "OwnerId",
        "SnapshotId",
        "SseType",
    }
)
"""What CreateSnapshots tells of each; the key is not among it (facts §6.2)."""


def create_snapshot(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """A snapshot of a volume as it is now, attached or not."""
    snapshots_asked.refuse_outposts(request, "OutpostArn", "Location")
    tags, description = snapshots_asked.tags_of(request), _description(request)
    volume = snapshots_asked.volume_of(call, request["VolumeId"])
    call.finish_dry_run(request)
    made = snapshots.create_snapshot(call.site, volume.volume_id, description=description, tags=tags)
    return snapshots_asked.shown(call, made)


def create_snapshots(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Snapshots of the volumes that are attached to this machine: of all of them, or of none.

    Each holds its own instant, one shortly after another. No volume here is the one to boot from, so
    ExcludeBootVolume leaves out none.
    """
    snapshots_asked.refuse_outposts(request, "OutpostArn", "Location")
    asked = request["InstanceSpecification"]
    places.check_instance(asked["InstanceId"])
    tags, description = snapshots_asked.tags_of(request), _description(request)
    volumes = _wanted(call, asked.get("ExcludeDataVolumeIds", []))
    call.finish_dry_run(request)
    made: list[Snapshot] = []
    try:
        for volume in volumes:
            own = _tags_to_copy(volume) if request.get("CopyTagsFromSource") else {}
            snapshot = snapshots.create_snapshot(call.site, volume.volume_id, description=description, tags=own | tags)
            made.append(snapshot)
    except EbscryptError:
        _take_back(call, made)
        raise
    shown = [snapshots_asked.shown(call, snapshot) for snapshot in made]
    return {"Snapshots": [{key: one[key] for key in one.keys() & _OF_ONE_OF_SEVERAL} for one in shown]}


def delete_snapshot(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Delete a snapshot; a pending one is given up. What was made from it loses nothing."""
    snapshot = snapshots_asked.snapshot_of(call.site, request["SnapshotId"])
    call.finish_dry_run(request)
    snapshots.delete_snapshot(call.site, snapshot.snapshot_id)
    return {}


def _description(request: dict[str, Any]) -> str:
    return snapshots.check_description(request.get("Description", ""))


def _wanted(call: Call, excluded: list[str]) -> list[Volume]:
    """The attached volumes without ``excluded``, which must be attached themselves. Raises `ApiError`."""
    attached = {volume.volume_id: volume for volume in call.site.catalog.volumes(VolumeState.IN_USE)}
    for volume_id in excluded:
        volume = snapshots_asked.volume_of(call, volume_id)
        if attached.pop(volume.volume_id, None) is None:
            raise invalid_value(f"The volume '{volume_id}' is not attached to the instance, or is named twice.")
    if not attached:
        raise invalid_value("The instance has no volume to make a snapshot of.")
    return list(attached.values())


def _tags_to_copy(volume: Volume) -> dict[str, str]:
    return {key: value for key, value in volume.tags.items() if not key.lower().startswith(RESERVED)}


def _take_back(call: Call, made: list[Snapshot]) -> None:
    """What cannot be deleted now has its deletion noted, and the next command finishes it."""
    for snapshot in made:
        with contextlib.suppress(EbscryptError):
            snapshots.delete_snapshot(call.site, snapshot.snapshot_id)

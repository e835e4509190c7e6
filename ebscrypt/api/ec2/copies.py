"""CopySnapshot: answered with an id at once, and made in a process of its own, which outlives this server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebscrypt.api.ec2 import snapshots_asked
from ebscrypt.api.errors import ApiError, invalid_value
from ebscrypt.control import regions
from ebscrypt.control.copy_snapshot import CopyRequest, plan_copy
from ebscrypt.control.start_copy import start_copy

if TYPE_CHECKING:
    from ebscrypt.api.call import Call


def copy_snapshot(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """A copy of a snapshot of this Region or another, made in this one.

    What a KMS key refuses is told by the copy, which ends in ``error`` (facts §1.7). PresignedUrl is of no use here:
    whoever may ask may copy.
    """
    _refuse_options(call, request)
    tags = snapshots_asked.tags_of(request)
    source_id = request["SourceSnapshotId"]
    asked = CopyRequest(
        source_snapshot_id=source_id,
        encrypted=request.get("Encrypted"),
        kms_key_id=request.get("KmsKeyId"),
        description=request.get("Description", ""),
        tags=tags,
    )
    with regions.site_of(call.site, request["SourceRegion"]) as source_site:
        snapshots_asked.snapshot_of(source_site, source_id)
        if request.get("DryRun"):
            plan_copy(call.site, source_site, asked)
        call.finish_dry_run(request)
        copy = start_copy(call.site, asked, source_site=source_site)
    return {"SnapshotId": copy.snapshot_id, "Tags": snapshots_asked.shown_tags(copy.tags)}


def _refuse_options(call: Call, request: dict[str, Any]) -> None:
    """Raise `ApiError` for what is not here. Clients name the destination, which is this Region, by themselves."""
    snapshots_asked.refuse_outposts(request, "DestinationOutpostArn", "DestinationAvailabilityZone")
    if "CompletionDurationMinutes" in request:
        raise ApiError("UnsupportedOperation", "CompletionDurationMinutes is not supported by this endpoint.")
    if request.get("DestinationRegion", call.region) != call.region:
        raise invalid_value(f"The destination is the Region of this endpoint: {call.region}.")

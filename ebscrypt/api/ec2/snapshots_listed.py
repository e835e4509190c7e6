"""DescribeSnapshots. Looking at a snapshot whose process died gives it another, as every command does.

But not at each look: a process needs a moment to begin, and clients look many times in it.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.api import pages
from ebscrypt.api.ec2 import filters, snapshots_asked
from ebscrypt.api.errors import ApiError
from ebscrypt.control.unfinished import settle_snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ebscrypt.api.call import Call
    from ebscrypt.control.site import Site

_SETTLE_EVERY: Final = 10.0
"""Seconds: longer than a process needs to begin, and less than a waiter of boto3 waits."""
_settled: dict[str, float] = {}
"""When this process last looked for snapshots that nobody works on, by state directory."""
_settling = threading.Lock()
_ALIASES: Final = frozenset({"amazon", "aws-marketplace"})
"""Owners who have nothing here."""
_ACCOUNT: Final = re.compile(r"[0-9]{12}")


def _of(member: str) -> Callable[[dict[str, Any]], list[Any]]:
    return lambda snapshot: [snapshot.get(member)]


_FILTERS: Final[Mapping[str, Callable[[dict[str, Any]], list[Any]]]] = {
    "description": _of("Description"),
    "encrypted": _of("Encrypted"),
    "owner-alias": lambda _: [],
    "owner-id": _of("OwnerId"),
    "progress": _of("Progress"),
    "snapshot-id": _of("SnapshotId"),
    "start-time": _of("StartTime"),
    "status": _of("State"),
    "storage-tier": _of("StorageTier"),
    "transfer-type": _of("TransferType"),
    "volume-id": _of("VolumeId"),
    "volume-size": _of("VolumeSize"),
}
"""DescribeSnapshots' own (facts §6.6), beside those for tags."""


def describe_snapshots(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The snapshots that ids, owners and filters let through, page by page. All are this account's and private."""
    _settle(call.site)
    owners = [_account(call, owner) for owner in request.get("OwnerIds", ())]
    users = [_account(call, user) for user in request.get("RestorableByUserIds", ())]
    if request.get("SnapshotIds"):
        found = [
            snapshots_asked.snapshot_of(call.site, snapshot_id) for snapshot_id in dict.fromkeys(request["SnapshotIds"])
        ]
    else:
        found = [snapshot for snapshot in call.site.catalog.snapshots.list() if not snapshot.deleting]
    if any(wanted and call.account not in wanted for wanted in (owners, users)):
        found = []
    shown = [snapshots_asked.shown(call, snapshot) for snapshot in found]
    chosen = filters.select(shown, request.get("Filters", []), _FILTERS, _tags)
    call.finish_dry_run(request)
    listed, token = pages.page("DescribeSnapshots", request, chosen, lambda snapshot: str(snapshot["SnapshotId"]))
    return {"Snapshots": listed} | ({"NextToken": token} if token else {})


def _settle(site: Site) -> None:
    """Have the work of dead processes go on, unless somebody has just seen to that."""
    now, state = time.monotonic(), site.settings.paths.state
    with _settling:
        if now - _settled.get(state, -_SETTLE_EVERY) < _SETTLE_EVERY:
            return
        _settled[state] = now
    settle_snapshots(site)


def _account(call: Call, named: str) -> str:
    """The account that ``self``, an alias or a number stands for. Raises `ApiError` for anything else."""
    if named == "self":
        return call.account
    if named in _ALIASES or named == "all" or _ACCOUNT.fullmatch(named):
        return named
    raise ApiError("InvalidUserID.Malformed", f'Invalid user id: "{named[:80]}"')


def _tags(snapshot: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]}

"""Who may use a snapshot: DescribeSnapshotAttribute, ModifySnapshotAttribute, ResetSnapshotAttribute.

There is one account here. So nothing is ever shared, to take a permission back is done already, and to give one is
refused: by EC2's rules where it would refuse too (facts §1.8), else as what this endpoint does not have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ebscrypt.api.ec2 import snapshots_asked
from ebscrypt.api.errors import ApiError, invalid_combination, invalid_value, missing_parameter

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.model import Snapshot

_PERMISSION: Final = "createVolumePermission"
_EVERYBODY: Final = "all"
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_MOST_CHANGES: Final = 500
"""Permissions in one request (facts §6.2)."""


class _Changes(NamedTuple):
    """Accounts and groups that are to be given a permission, and those that are to lose it."""

    add: list[str]
    remove: list[str]


def describe_snapshot_attribute(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The permissions, or product codes, of a snapshot: none."""
    snapshot = snapshots_asked.snapshot_of(call.site, request["SnapshotId"])
    call.finish_dry_run(request)
    name = "CreateVolumePermissions" if request["Attribute"] == _PERMISSION else "ProductCodes"
    return {"SnapshotId": snapshot.snapshot_id, name: []}


def modify_snapshot_attribute(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Take permissions back, which nobody has. Raises `ApiError` where one is to be given."""
    _check_attribute(request.get("Attribute", _PERMISSION))
    changes = _changes(request)
    snapshot = snapshots_asked.snapshot_of(call.site, request["SnapshotId"])
    if changes.add:
        _refuse_sharing(call, snapshot, changes.add)
    call.finish_dry_run(request)
    return {}


def reset_snapshot_attribute(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Make a snapshot private, which it is."""
    _check_attribute(request["Attribute"])
    snapshots_asked.snapshot_of(call.site, request["SnapshotId"])
    call.finish_dry_run(request)
    return {}


def _check_attribute(name: str) -> None:
    if name != _PERMISSION:
        raise invalid_value(f"Value ({name}) for parameter attribute is invalid. Only {_PERMISSION} can be changed.")


def _changes(request: dict[str, Any]) -> _Changes:
    """What is asked for in either of the two forms. Raises `ApiError`."""
    structured = request.get("CreateVolumePermission", {})
    plain = request.get("UserIds", []) + request.get("GroupNames", [])
    if structured and (plain or "OperationType" in request):
        raise invalid_combination("CreateVolumePermission excludes OperationType, UserId and UserGroup.")
    if structured:
        changes = _Changes(_named(structured.get("Add", [])), _named(structured.get("Remove", [])))
    elif "OperationType" not in request:
        raise missing_parameter("OperationType")
    else:
        changes = _Changes(plain, []) if request["OperationType"] == "add" else _Changes([], plain)
    if changes.add and changes.remove:
        raise invalid_combination("Permissions cannot be added and removed in one request.")
    if not changes.add and not changes.remove:
        raise missing_parameter("UserId")
    if len(changes.add + changes.remove) > _MOST_CHANGES:
        raise invalid_value(f"More than {_MOST_CHANGES} permissions cannot be changed in one request.")
    for name in changes.add + changes.remove:
        if name != _EVERYBODY and not _ACCOUNT.fullmatch(name):
            raise ApiError("InvalidUserID.Malformed", f'Invalid user id: "{name[:80]}"')
    return changes


def _named(permissions: list[dict[str, str]]) -> list[str]:
    return [name for one in permissions for name in (one.get("UserId"), one.get("Group")) if name is not None]


def _refuse_sharing(call: Call, snapshot: Snapshot, names: list[str]) -> None:
    if snapshot.encrypted and snapshot.kms_key_arn is not None:
        if call.site.kms.describe_key(snapshot.kms_key_arn).manager == "AWS":
            raise ApiError("OperationNotPermitted", "Encrypted snapshots with EBS default key cannot be shared")
        if _EVERYBODY in names:
            raise ApiError("OperationNotPermitted", "Encrypted snapshots cannot be shared publicly")
    raise ApiError("UnsupportedOperation", "Sharing is not supported by this endpoint: it has one account.")

"""Which operation a key's state allows: the key-state table of the AWS documentation, as data (facts §5.4).

A row per operation, a column per state. An empty cell allows. Where AWS documents two types for one cell (pending
deletion: DisabledException or KMSInvalidStateException), KMSInvalidStateException is taken, which recordings show.
The embedded KMS itself brings keys into Enabled, Disabled, PendingDeletion and PendingImport only; the other columns
are complete all the same, so that what is added later meets the same table.

Some operations are for keys of one origin only. What origin and state both refuse, the origin refuses, except that a
key which is being created or updated is told so first, as the table has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ebscrypt.kms.embedded.faults import KmsFault


class KeyState(StrEnum):
    """AWS's key states, and one of ours: ``Deleted``, a key whose material is destroyed.

    Nobody is shown such a key. Its id is kept to say that it does not exist any more, and never to use that id again.
    """

    CREATING = "Creating"
    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"
    PENDING_REPLICA_DELETION = "PendingReplicaDeletion"
    PENDING_IMPORT = "PendingImport"
    UNAVAILABLE = "Unavailable"
    UPDATING = "Updating"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a state answers: the error type, and the text after the key's ARN."""

    kind: str
    text: str


_DISABLED: Final = Refusal("DisabledException", "is disabled.")
_DELETION: Final = Refusal("KMSInvalidStateException", "is pending deletion.")
_REPLICA_DELETION: Final = Refusal("KMSInvalidStateException", "is pending replica deletion.")
_NOT_DELETION: Final = Refusal("KMSInvalidStateException", "is not pending deletion.")
_IMPORT: Final = Refusal("KMSInvalidStateException", "is pending import.")
_UNAVAILABLE: Final = Refusal("KMSInvalidStateException", "is unavailable.")
_CREATING: Final = Refusal("KMSInvalidStateException", "is creating.")
_UPDATING: Final = Refusal("KMSInvalidStateException", "is updating.")

Row = dict[KeyState, Refusal]

_ANY_STATE: Final[Row] = {}
_NOT_PENDING: Final[Row] = {
    KeyState.PENDING_DELETION: _DELETION,
    KeyState.PENDING_REPLICA_DELETION: _REPLICA_DELETION,
}
_USE: Final[Row] = _NOT_PENDING | {
    KeyState.DISABLED: _DISABLED,
    KeyState.PENDING_IMPORT: _IMPORT,
    KeyState.UNAVAILABLE: _UNAVAILABLE,
    KeyState.CREATING: _CREATING,
}
_SWITCH: Final[Row] = _NOT_PENDING | {
    KeyState.PENDING_IMPORT: _IMPORT,
    KeyState.CREATING: _CREATING,
    KeyState.UPDATING: _UPDATING,
}
_ROTATION: Final[Row] = _USE | {
    # Only a key of a custom key store is ever unavailable, and such keys do not rotate ([7]).
    KeyState.UNAVAILABLE: Refusal(
        "UnsupportedOperationException", "is in a custom key store which is not valid for this operation."
    ),
}
_IMPORT_INTO: Final[Row] = _NOT_PENDING | {
    KeyState.UNAVAILABLE: _UNAVAILABLE,
    KeyState.CREATING: _CREATING,
}
_CREATED: Final[Row] = {KeyState.CREATING: _CREATING}
_SCHEDULE: Final[Row] = _NOT_PENDING | {KeyState.UPDATING: _UPDATING}
_CANCEL: Final[Row] = {
    state: _NOT_DELETION
    for state in KeyState
    if state not in (KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION, KeyState.DELETED)
}

TABLE: Final[dict[str, Row]] = {
    "Encrypt": _USE,
    "Decrypt": _USE,
    "ReEncrypt": _USE,
    "GenerateDataKey": _USE,
    "GenerateDataKeyWithoutPlaintext": _USE,
    "DescribeKey": _ANY_STATE,
    "ListAliases": _ANY_STATE,
    "DeleteAlias": _ANY_STATE,
    "CreateAlias": _NOT_PENDING,
    # Only the key that the alias shall name next: that the present one is pending deletion does not matter ([10]).
    "UpdateAlias": _NOT_PENDING,
    "EnableKey": _SWITCH,
    "DisableKey": _SWITCH,
    "ScheduleKeyDeletion": _SCHEDULE,
    "CancelKeyDeletion": _CANCEL,
    "UpdateKeyDescription": _NOT_PENDING,
    "CreateGrant": {state: refusal for state, refusal in _USE.items() if state is not KeyState.UNAVAILABLE},
    "ListGrants": _ANY_STATE,
    "RetireGrant": _ANY_STATE,
    "RevokeGrant": _ANY_STATE,
    "GetKeyPolicy": _ANY_STATE,
    "PutKeyPolicy": _ANY_STATE,
    "ListKeyPolicies": _ANY_STATE,
    "TagResource": _NOT_PENDING,
    "UntagResource": _NOT_PENDING,
    "ListResourceTags": _ANY_STATE,
    "EnableKeyRotation": _ROTATION,
    "DisableKeyRotation": _ROTATION,
    "RotateKeyOnDemand": _ROTATION,
    "GetKeyRotationStatus": _CREATED,
    "ListKeyRotations": _CREATED,
    "GetParametersForImport": _IMPORT_INTO | {KeyState.UPDATING: _UPDATING},
    "ImportKeyMaterial": _IMPORT_INTO,
    "DeleteImportedKeyMaterial": _CREATED | {KeyState.UPDATING: _UPDATING},
}
"""Operations that concern no key (CreateKey, ListKeys, GenerateRandom, ListRetirableGrants) have no row.

RotateKeyOnDemand, GetKeyRotationStatus and ListKeyRotations came after the table that the facts have; they follow the
texts of the API: what changes material is refused as the other rotation calls are, what only tells is not.
"""
ORIGINS: Final = {
    "EnableKeyRotation": "AWS_KMS",
    "DisableKeyRotation": "AWS_KMS",
    "GetParametersForImport": "EXTERNAL",
    "ImportKeyMaterial": "EXTERNAL",
    "DeleteImportedKeyMaterial": "EXTERNAL",
}
"""The origin that a key must have for an operation ([6], [7], [9])."""
_FIRST: Final = (KeyState.CREATING, KeyState.UPDATING)


def check_state(operation: str, state: KeyState, origin: str, arn: str) -> None:
    """Raise the fault of the table's cell, if it has one, or of the key's origin."""
    refusal = TABLE[operation].get(state)
    if ORIGINS.get(operation, origin) != origin and not (refusal and state in _FIRST):
        raise KmsFault(
            "UnsupportedOperationException", f"{arn} origin is {origin} which is not valid for this operation."
        )
    if refusal:
        raise KmsFault(refusal.kind, f"{arn} {refusal.text}")

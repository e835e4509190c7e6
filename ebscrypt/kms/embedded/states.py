"""Which operation a key's state allows: the key-state table of the AWS documentation, as data (facts §5.4).

A row per operation, a column per state. An empty cell allows. Where AWS documents two types for one cell (pending
deletion: DisabledException or KMSInvalidStateException), KMSInvalidStateException is taken, which recordings show.
The embedded KMS itself brings keys into Enabled, Disabled, PendingDeletion and PendingImport only; the other columns
are complete all the same, so that what is added later meets the same table.
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
}
"""Operations that concern no key (CreateKey, ListKeys, GenerateRandom) have no row."""


def check_state(operation: str, state: KeyState, arn: str) -> None:
    """Raise the fault of the table's cell, if it has one."""
    if refusal := TABLE[operation].get(state):
        raise KmsFault(refusal.kind, f"{arn} {refusal.text}")

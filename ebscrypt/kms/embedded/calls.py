"""What each operation is given, and how it finds the key that a request names."""

from __future__ import annotations

import base64
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from ebscrypt.errors import InvalidParameter
from ebscrypt.kms.embedded import authority, faults, rows
from ebscrypt.kms.embedded.authority import Asker
from ebscrypt.kms.embedded.rows import KeyRow, Scope
from ebscrypt.kms.embedded.states import check_state
from ebscrypt.kms.embedded.store import Store
from ebscrypt.kms.names import KeyName, arn, parse_key_name, partition_of

_MARKER: Final = "ebscrypt-1:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One checked request: its parameters, who asks and when, for which account and Region, and the store.

    ``principal`` is None for the account's root; see authority.py.
    """

    operation: str
    parameters: dict[str, Any]
    may_say_invalid_arn: bool
    scope: Scope
    now: float
    store: Store
    principal: str | None = None

    def arn(self, resource: str) -> str:
        """The ARN of ``key/…`` or ``alias/…`` here."""
        return arn(self.scope.region, self.scope.account, resource)

    @property
    def root_arn(self) -> str:
        """The ARN of the account's root."""
        return f"arn:{partition_of(self.scope.region)}:iam::{self.scope.account}:root"

    @property
    def asker(self) -> Asker:
        """Who asks, with the grant tokens of the request."""
        tokens = tuple(self.parameters.get("GrantTokens", ()))
        return Asker(scope=self.scope, principal=self.principal, tokens=tokens)

    @property
    def shown_resource(self) -> str:
        """What an error names as the thing that the request is about: a key's ARN, or * for none and for aliases."""
        try:
            name = parse_key_name(self.parameters.get("KeyId", ""))
        except InvalidParameter:
            return "*"
        return self.arn(f"key/{name.name}") if name.kind == "key" else "*"

    def key_name(self, text: str) -> KeyName:
        """The name in ``text``, if it can be one of this account and Region."""
        try:
            name = parse_key_name(text)
        except InvalidParameter:
            raise self._malformed(text) from None
        if name.region not in (None, self.scope.region):
            raise faults.KmsFault("NotFoundException", f"Invalid arn {name.region}")
        if name.account not in (None, self.scope.account):
            raise faults.alias_not_found(text) if name.kind == "alias" else faults.key_not_found(text)
        return name

    def _malformed(self, text: str) -> faults.KmsFault:
        if text.startswith("arn:") and self.may_say_invalid_arn:
            return faults.KmsFault("InvalidArnException", f"Invalid arn {text}")
        return faults.KmsFault("NotFoundException", f"Invalid keyId '{text}'")

    def find_key(self, db: sqlite3.Connection, text: str, *, alias_too: bool = True) -> KeyRow:
        """The key that ``text`` names, or the fault that AWS answers with."""
        name = self.key_name(text)
        if name.kind == "key":
            return self.key(db, name.name)
        if not alias_too:
            raise faults.KmsFault("NotFoundException", f"Invalid keyId '{text}'")
        alias = rows.alias(db, self.scope, name.name)
        if alias is None:
            raise faults.alias_not_found(self.arn(name.name))
        return self.key(db, alias.key_id)

    def key(self, db: sqlite3.Connection, key_id: str) -> KeyRow:
        """The key of that id, or NotFoundException."""
        found = rows.key(db, self.scope, key_id)
        if found is None:
            raise faults.key_not_found(self.arn(f"key/{key_id}"))
        return found

    def check_state(self, key: KeyRow) -> None:
        """Raise the fault that the key's state, or its origin, has for this operation."""
        check_state(self.operation, key.state, key.origin, key.arn)

    def check_allowed(
        self,
        db: sqlite3.Connection,
        key: KeyRow,
        *,
        action: str | None = None,
        context: dict[str, str] | None = None,
    ) -> None:
        """Raise AccessDeniedException unless who asks may do this; ``action`` where it is not the operation's name."""
        authority.check(db, self.asker, key, action=action or self.operation, context=context or {})

    def check_customer_managed(self, key: KeyRow) -> None:
        """Raise AccessDeniedException for an AWS managed key: its policy lets nobody change it (facts §1.4)."""
        if key.manager == "AWS":
            raise faults.KmsFault(
                "AccessDeniedException",
                f"{key.arn} is an AWS managed key: its key policy does not allow kms:{self.operation}",
            )

    def finish_dry_run(self) -> None:
        """To be called when all checks are done: a DryRun ends here, by AWS's way with an error that means success."""
        if self.parameters.get("DryRun"):
            raise faults.KmsFault(
                "DryRunOperationException", "The request would have succeeded, but the DryRun option is set."
            )

    def page(self, default: int, largest: int) -> tuple[str, int]:
        """Where a listing starts and how many it may return: Marker and Limit (facts §5.1)."""
        limit = self.parameters.get("Limit", default)
        if limit > largest:
            raise faults.validation(
                f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: "
                f"Member must have value less than or equal to {largest}"
            )
        return _position(self.parameters.get("Marker")), limit


def _position(marker: str | None) -> str:
    """What a marker of `paged` says: the last item that was shown; "" for no marker."""
    if marker is None:
        return ""
    try:
        text = base64.b64decode(marker, validate=True).decode()
    except ValueError:
        raise _invalid_marker() from None
    if not text.startswith(_MARKER):
        raise _invalid_marker()
    return text.removeprefix(_MARKER)


def _invalid_marker() -> faults.KmsFault:
    return faults.KmsFault("InvalidMarkerException", "The marker is not one that this KMS gave.")


def paged(member: str, found: list[dict[str, Any]], limit: int, *, by: str) -> dict[str, Any]:
    """A listing's answer. ``found`` holds one item more than ``limit`` if there are more; it is sorted ``by``."""
    answer: dict[str, Any] = {member: found[:limit], "Truncated": len(found) > limit}
    if answer["Truncated"]:
        last = str(found[limit - 1][by])
        answer["NextMarker"] = base64.b64encode((_MARKER + last).encode()).decode()
    return answer

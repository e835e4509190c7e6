"""`audit_records`: the requests that were made to KMS, as their records tell (ebscrypt/kms/audit.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ebscrypt.kms.audit_file import Reader
from ebscrypt.model import CONTEXT_NAME

_CONTEXTS: Final = ("encryptionContext", "destinationEncryptionContext", "sourceEncryptionContext")
DRY_RUN: Final = "DryRunOperationException"
"""By this error KMS says that a request would have succeeded (facts §5.2)."""


@dataclass(kw_only=True)
class AuditQuery:
    """Which records are wanted; what is None or false asks for nothing. Times are aware of their zone.

    ``key`` is an ARN, the id in it, or an alias as the request named it. A grant's volume is remembered from the record
    of its making, since the one of its end does not tell it: so one query goes with one reading.
    """

    resource_id: str | None = None
    key: str | None = None
    event_name: str | None = None
    failed: bool = False
    since: datetime | None = None
    until: datetime | None = None
    _grants: dict[str, str] = field(default_factory=dict, repr=False)

    def wants(self, record: dict[str, Any]) -> bool:
        """Whether a record is one of those."""
        resource = self.resource_of(record)
        return (
            (self.resource_id is None or self.resource_id == resource)
            and (self.key is None or self._has_key(record, self.key))
            and (self.event_name is None or str(record.get("eventName")).lower() == self.event_name.lower())
            and not (self.failed and not is_failure(record))
            and self._in_time(record)
        )

    def resource_of(self, record: dict[str, Any]) -> str | None:
        """The volume or snapshot whose key a record is about, by its encryption context."""
        grant = _part(record, "responseElements").get("grantId") or _part(record, "additionalEventData").get("grantId")
        request = _part(record, "requestParameters")
        limits = _part(request, "constraints")
        contexts = [_part(request, name) for name in _CONTEXTS]
        contexts += [_part(limits, name) for name in ("encryptionContextSubset", "encryptionContextEquals")]
        named = next((context[CONTEXT_NAME] for context in contexts if context.get(CONTEXT_NAME)), None)
        if named is not None and isinstance(grant, str):
            self._grants[grant] = str(named)
        return str(named) if named is not None else self._grants.get(str(grant))

    def _has_key(self, record: dict[str, Any], key: str) -> bool:
        request = _part(record, "requestParameters")
        named = [request.get(name) for name in ("keyId", "sourceKeyId", "destinationKeyId", "targetKeyId", "aliasName")]
        return key in named or any(arn == key or arn.endswith(f"/{key}") for arn in keys_of(record))

    def _in_time(self, record: dict[str, Any]) -> bool:
        if self.since is None and self.until is None:
            return True
        try:
            time = datetime.fromisoformat(str(record.get("eventTime")))
        except ValueError:
            return False
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        return (self.since is None or time >= self.since) and (self.until is None or time <= self.until)


def audit_records(reader: Reader, query: AuditQuery) -> Iterator[dict[str, Any]]:
    """The records that ``query`` wants and ``reader`` has not given yet, oldest first."""
    return (record for record in reader.read() if query.wants(record))


def is_failure(record: dict[str, Any]) -> bool:
    """Whether KMS refused, or did not answer. A DryRun's success has an error code too."""
    return record.get("errorCode") not in (None, DRY_RUN)


def keys_of(record: dict[str, Any]) -> list[str]:
    """The ARNs of the keys that a record is about."""
    resources = record.get("resources")
    listed = resources if isinstance(resources, list) else []
    return [str(one["ARN"]) for one in listed if isinstance(one, dict) and isinstance(one.get("ARN"), str)]


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    part = record.get(name)
    return part if isinstance(part, dict) else {}

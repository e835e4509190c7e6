"""One audit record in CloudTrail's form (facts §4), and the allow-list of what it shows.

CloudTrail writes the members of a request with a small first letter (`keyId`). Names that are not in the tables below
are left out, whatever they hold, and so is every value that is bytes; long texts are cut, so that a record stays small.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.kms.names import is_key_arn, parse_key_name

if TYPE_CHECKING:
    from ebscrypt.config import Settings

EVENT_VERSION: Final = "1.11"
_LONGEST_TEXT: Final = 2048
_MOST_ITEMS: Final = 64
_NOT_LOGGED_IN: Final = 2**32 - 1
"""What the kernel says where nobody logged in, such as in a service."""

_CONTEXT: Final = ("EncryptionContext", "EncryptionAlgorithm", "DryRun")
_NAMED: Final = ("KeyId",)
REQUEST_MEMBERS: Final[dict[str, tuple[str, ...]]] = {
    "GenerateDataKey": ("KeyId", "NumberOfBytes", "KeySpec", *_CONTEXT[::2]),
    "GenerateDataKeyWithoutPlaintext": ("KeyId", "NumberOfBytes", "KeySpec", *_CONTEXT[::2]),
    "Encrypt": ("KeyId", *_CONTEXT),
    "Decrypt": ("KeyId", *_CONTEXT),
    "ReEncrypt": (
        "SourceKeyId", "SourceEncryptionContext", "SourceEncryptionAlgorithm",
        "DestinationKeyId", "DestinationEncryptionContext", "DestinationEncryptionAlgorithm", "DryRun",
    ),
    "CreateGrant": (
        "KeyId", "GranteePrincipal", "RetiringPrincipal", "Operations", "Constraints", "Name", "DryRun",
    ),
    "RevokeGrant": ("KeyId", "GrantId", "DryRun"),
    "ListGrants": ("KeyId", "GrantId", "GranteePrincipal", "Limit"),
    "ListRetirableGrants": ("RetiringPrincipal", "Limit"),
    "CreateKey": ("Description", "KeyUsage", "KeySpec", "CustomerMasterKeySpec", "Origin", "MultiRegion", "Tags"),
    "ScheduleKeyDeletion": ("KeyId", "PendingWindowInDays"),
    "UpdateKeyDescription": ("KeyId", "Description"),
    "CreateAlias": ("AliasName", "TargetKeyId"),
    "UpdateAlias": ("AliasName", "TargetKeyId"),
    "DeleteAlias": ("AliasName",),
    "ListAliases": ("KeyId", "Limit"),
    "ListKeys": ("Limit",),
    "GetKeyPolicy": ("KeyId", "PolicyName"),
    "PutKeyPolicy": ("KeyId", "PolicyName", "BypassPolicyLockoutSafetyCheck"),
    "TagResource": ("KeyId", "Tags"),
    "UntagResource": ("KeyId", "TagKeys"),
    "EnableKeyRotation": ("KeyId", "RotationPeriodInDays"),
    "ListKeyRotations": ("KeyId", "IncludeKeyMaterial", "Limit"),
    "GetParametersForImport": ("KeyId", "WrappingAlgorithm", "WrappingKeySpec"),
    "ImportKeyMaterial": ("KeyId", "ExpirationModel", "ValidTo", "ImportType", "KeyMaterialId"),
    "DeleteImportedKeyMaterial": ("KeyId", "KeyMaterialId"),
    "GenerateRandom": ("NumberOfBytes",),
}  # fmt: skip
"""What is shown of each request; of an operation that is not here, the key. RetireGrant shows nothing, as in AWS."""
ANSWER_MEMBERS: Final[dict[str, tuple[str, ...]]] = {
    "CreateGrant": ("GrantId",),
    "CreateKey": ("KeyMetadata",),
    "ScheduleKeyDeletion": ("KeyId", "KeyState", "DeletionDate", "PendingWindowInDays"),
    "CancelKeyDeletion": _NAMED,
    "ImportKeyMaterial": ("KeyId", "KeyMaterialId"),
    "DeleteImportedKeyMaterial": ("KeyId", "KeyMaterialId"),
    "RotateKeyOnDemand": _NAMED,
}
"""What is shown of each answer. All others have responseElements null."""
_INNER: Final[dict[str, tuple[str, ...]]] = {
    "Constraints": ("EncryptionContextSubset", "EncryptionContextEquals", "SourceArn"),
    "Tags": ("TagKey", "TagValue"),
    "KeyMetadata": (
        "AWSAccountId", "KeyId", "Arn", "CreationDate", "Enabled", "Description", "KeyUsage", "KeyState", "Origin",
        "KeyManager", "KeySpec", "MultiRegion",
    ),
}  # fmt: skip
_MAPS: Final = frozenset(
    {
        "EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext",
        "EncryptionContextSubset", "EncryptionContextEquals",
    }
)  # fmt: skip
"""Members whose names are the caller's own, and stay as they are."""

_CHANGES_NOTHING: Final = re.compile("Decrypt|Derive|Describe|Encrypt|Generate|Get|List|ReEncrypt|Sign|Verify")
_SESSION: Final = re.compile(r"arn:(aws[a-z-]*):sts::(\d{12}):assumed-role/([^/]+)/(.+)")
_USER_OR_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):(user|role)/(?:.*/)?([^/]+)")
_INSTANCE: Final = re.compile(r"i-[0-9a-f]{17}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and how it ended. ``parameters`` and ``answer`` have KMS's member names; the answer may be empty.

    ``key`` is the key concerned where the request does not name it, ``principal`` whom the embedded KMS took the caller
    for (None: the account), ``source`` and ``agent`` whence and by what program the embedded KMS's server was asked
    (None: this program asked).
    """

    operation: str
    parameters: Mapping[str, Any] = field(repr=False)
    answer: Mapping[str, Any] = field(default_factory=dict, repr=False)
    key: str | None = None
    request_id: str | None = None
    error_code: str | None = None
    error_text: str | None = None
    principal: str | None = None
    source: str | None = None
    agent: str | None = None
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


def record_of(exchange: Exchange, settings: Settings) -> dict[str, Any]:
    """The exchange as CloudTrail would record it."""
    kms = settings.kms
    keys = _keys(exchange)
    embedded = kms.endpoint == "embedded" or exchange.source is not None
    record = {
        "eventVersion": EVENT_VERSION,
        "userIdentity": _identity(exchange.principal, settings) if embedded else {"type": "Unknown"},
        "eventTime": f"{exchange.time:%Y-%m-%dT%H:%M:%SZ}",
        "eventSource": "kms.amazonaws.com",
        "eventName": _text(exchange.operation),
        "awsRegion": kms.region,
        # By which address a request leaves this machine, only the network knows.
        "sourceIPAddress": _text(exchange.source or os.uname().nodename),
        "userAgent": _text(exchange.agent or "ebscrypt"),
        "requestParameters": _request(exchange),
        "responseElements": _response(exchange, keys),
        "additionalEventData": _additional(exchange),
        "requestID": exchange.request_id,
        "eventID": str(uuid.uuid4()),
        "readOnly": bool(_CHANGES_NOTHING.match(exchange.operation)),
        "resources": [{"accountId": _account_of([key]), "type": "AWS::KMS::Key", "ARN": key} for key in keys],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": kms.account if embedded else _account_of(keys),
        "eventCategory": "Management",
    }
    if exchange.error_code is not None:
        record |= {"errorCode": _text(exchange.error_code), "errorMessage": _text(exchange.error_text or "")}
    return record


def _request(exchange: Exchange) -> dict[str, Any] | None:
    if exchange.operation == "RetireGrant":
        return None
    return _shown(exchange.parameters, REQUEST_MEMBERS.get(exchange.operation, _NAMED)) or None


def _response(exchange: Exchange, keys: list[str]) -> dict[str, Any] | None:
    told = _shown(exchange.answer, ANSWER_MEMBERS.get(exchange.operation, ()))
    if exchange.operation == "CreateGrant" and told and keys:
        told["keyId"] = keys[-1]  # CloudTrail has it there, although KMS's answer has not
    return told or None


def _additional(exchange: Exchange) -> dict[str, Any]:
    """What CloudTrail tells besides, and which user of this machine it was, by the kernel's word."""
    answer = exchange.answer
    told: dict[str, Any] = {}
    for name in ("KeyMaterialId", "SourceKeyMaterialId", "DestinationKeyMaterialId"):
        if isinstance(answer.get(name), str):
            told[_camel(name)] = _text(answer[name])
    if exchange.operation == "RetireGrant" and isinstance(grant := exchange.parameters.get("GrantId"), str):
        told["grantId"] = _text(grant)
    if exchange.source is None:
        told |= _local_user()
    return told


def _local_user() -> dict[str, int]:
    told = {"processId": os.getpid(), "userId": os.getuid()}
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:  # noqa: PTH123 - one line of /proc
            login = int(file.read())
    except (OSError, ValueError):
        return told
    return told if login == _NOT_LOGGED_IN else told | {"loginUserId": login}


def _keys(exchange: Exchange) -> list[str]:
    """The ARNs of the keys concerned, the source before the destination."""
    metadata = exchange.answer.get("KeyMetadata")
    arn = metadata.get("Arn") if isinstance(metadata, Mapping) else None
    answered = [exchange.answer.get("SourceKeyId"), exchange.answer.get("KeyId"), arn]
    parameters = exchange.parameters
    asked = [parameters.get(name) for name in ("SourceKeyId", "DestinationKeyId", "KeyId", "TargetKeyId")]
    return list(dict.fromkeys(str(key) for key in [*answered, *asked, exchange.key] if is_key_arn(key)))


def _account_of(keys: list[str]) -> str | None:
    return parse_key_name(keys[-1]).account if keys else None


def _identity(principal: str | None, settings: Settings) -> dict[str, Any]:
    """Who asked the embedded KMS. Of any other KMS only the other side knows it."""
    kms = settings.kms
    if principal is None:
        return {
            "type": "Root",
            "principalId": kms.account,
            "arn": f"arn:aws:iam::{kms.account}:root",
            "accountId": kms.account,
        }
    principal = _text(principal)
    if session := _SESSION.fullmatch(principal):
        return _session(principal, session, kms.region)
    if match := _USER_OR_ROLE.fullmatch(principal):
        account, kind, name = match.groups()
        return {
            "type": "IAMUser" if kind == "user" else "Role",
            "principalId": name,
            "arn": principal,
            "accountId": account,
            "userName": name,
        }
    return (
        {"type": "AWSService", "invokedBy": principal}
        if ":" not in principal
        else {"type": "Unknown", "arn": principal}
    )


def _session(principal: str, session: re.Match[str], region: str) -> dict[str, Any]:
    partition, account, role, name = session.groups()
    identity: dict[str, Any] = {
        "type": "AssumedRole",
        "principalId": f"{account}:{role}:{name}",
        "arn": principal,
        "accountId": account,
        "sessionContext": {
            "sessionIssuer": {
                "type": "Role",
                "principalId": f"{account}:{role}",
                "arn": f"arn:{partition}:iam::{account}:role/{role}",
                "accountId": account,
                "userName": role,
            }
        },
    }
    if _INSTANCE.fullmatch(name):
        instance = f"arn:{partition}:ec2:{region}:{account}:instance/{name}"
        identity["inScopeOf"] = {"issuerType": "AWS::EC2::Instance", "credentialsIssuedTo": instance}
    return identity


def _shown(values: Mapping[str, Any], members: tuple[str, ...]) -> dict[str, Any]:
    """The members that may be shown, named as CloudTrail names them."""
    return {_camel(name): _plain(name, values[name]) for name in members if values.get(name) is not None}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if name in _MAPS:
            pairs = list(value.items())[:_MOST_ITEMS]
            return {_text(key): _text(text) for key, text in pairs}
        return _shown(value, _INNER.get(name, ()))
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value[:_MOST_ITEMS]]
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return _text(value) if isinstance(value, str) else None


def _text(value: Any) -> str:
    """A text that JSON can carry, cut where it is long; of anything else only its kind."""
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    whole = value.encode("utf-8", "replace").decode()
    return whole if len(whole) <= _LONGEST_TEXT else f"{whole[:_LONGEST_TEXT]}…"


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]

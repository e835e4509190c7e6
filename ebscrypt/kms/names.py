"""Names of KMS keys: id, key ARN, alias, alias ARN. Text in, a frozen value out; nothing is looked up.

Sources: facts §1.5 (the four forms), §5.1 (limits); the AWS documentation of KeyId.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal

import msgspec

from ebscrypt.errors import InvalidParameter

MANAGED_ALIAS: Final = "alias/aws/ebs"
"""The alias of the AWS managed key that EBS uses when no other was named (facts §1.6)."""
RESERVED_ALIASES: Final = "alias/aws/"

_LONGEST: Final = 2048
_KEY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
_ALIAS = re.compile(r"alias/[a-zA-Z0-9:/_-]{1,250}")
_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]{1,32}):(\d{12}):(.+)", re.DOTALL)


class KeyName(msgspec.Struct, frozen=True):
    """One parsed name. ``name`` is the bare key id or ``alias/…``; the other fields are None unless it was an ARN."""

    kind: Literal["key", "alias"]
    name: str
    partition: str | None = None
    region: str | None = None
    account: str | None = None

    @property
    def is_arn(self) -> bool:
        return self.region is not None


def parse_key_name(text: str, field: str = "KmsKeyId") -> KeyName:
    """The name in ``text``. Raises `InvalidParameter` naming ``field`` when it has none of the four forms."""
    if len(text) <= _LONGEST:
        if match := _ARN.fullmatch(text):
            partition, region, account, resource = match.groups()
            if (kind := _kind(resource.removeprefix("key/"))) and (kind == "alias") != resource.startswith("key/"):
                return KeyName(kind, resource.removeprefix("key/"), partition, region, account)
        elif kind := _kind(text):
            return KeyName(kind, text)
    shown = repr(text) if len(text) <= 80 else f"{text[:80]!r}… ({len(text)} characters)"
    raise InvalidParameter(
        f"{field} {shown} does not name a KMS key",
        hint="give a key id, a key ARN, an alias (alias/…) or an alias ARN: see `ebscrypt kms list-keys`",
    )


def _kind(name: str) -> Literal["key", "alias"] | None:
    if _KEY_ID.fullmatch(name):
        return "key"
    return "alias" if _ALIAS.fullmatch(name) else None


def is_key_arn(text: object) -> bool:
    """Whether this is the full ARN of a key, the only form that is ever stored."""
    if not isinstance(text, str):
        return False
    try:
        name = parse_key_name(text)
    except InvalidParameter:
        return False
    return name.is_arn and name.kind == "key"


def partition_of(region: str) -> str:
    """The partition that a Region's ARNs carry."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def arn(region: str, account: str, resource: str) -> str:
    """The ARN of ``key/…`` or ``alias/…`` in a Region and account."""
    return f"arn:{partition_of(region)}:kms:{region}:{account}:{resource}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine for certain, without asking any resolver."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

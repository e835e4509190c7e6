"""AWS::KMS::Alias (facts §7.4): a name of a key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ebscrypt.control.site import Site
from ebscrypt.control.stacks.kinds.kind import Made, Update, changed, read_properties
from ebscrypt.errors import InvalidParameter, KmsKeyNotFound, StackStateError

_NAME: Final = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}")


class AliasProperties(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """The properties as CloudFormation names them."""

    alias_name: str
    target_key_id: str


class AliasKind:
    """Its plan and id is its name."""

    name = "AWS::KMS::Alias"
    attributes: frozenset[str] = frozenset()
    has_snapshot = False

    def check(self, site: Site, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the kinds' signature
        wanted = read_properties(properties, AliasProperties)
        if not _NAME.fullmatch(wanted.alias_name) or wanted.alias_name.startswith("alias/aws/"):
            raise InvalidParameter(
                f"AliasName {wanted.alias_name[:80]!r} is not alias/ and letters, digits, /, _ or -",
                hint="alias/aws/… are AWS's own",
            )

    def plan(self, site: Site, properties: Mapping[str, Any]) -> str:
        wanted = read_properties(properties, AliasProperties)
        if _key_of(site, wanted.alias_name) is not None:
            raise StackStateError(f"{wanted.alias_name} already exists")
        return wanted.alias_name

    def create(self, site: Site, planned: str, properties: Mapping[str, Any], found: Made | None) -> Made:
        wanted = read_properties(properties, AliasProperties)
        if found is None:
            site.kms.call("CreateAlias", AliasName=planned, TargetKeyId=wanted.target_key_id)
        return Made(planned, {})

    def find(self, site: Site, planned: str, properties: Mapping[str, Any]) -> Made | None:
        wanted = read_properties(properties, AliasProperties)
        key_arn = _key_of(site, planned)
        ours = key_arn is not None and key_arn.endswith(wanted.target_key_id.rpartition("/")[2])
        return Made(planned, {}) if ours else None

    def update_of(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Update:
        return Update.REPLACE if "AliasName" in changed(old, new) else Update.IN_PLACE

    def update(
        self,
        site: Site,
        physical_id: str,
        old: Mapping[str, Any],  # noqa: ARG002 - the kinds' signature
        new: Mapping[str, Any],
        *,
        back: bool,  # noqa: ARG002 - the same
    ) -> dict[str, str]:
        wanted = read_properties(new, AliasProperties)
        site.kms.call("UpdateAlias", AliasName=physical_id, TargetKeyId=wanted.target_key_id)
        return {}

    def snapshot(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:
        raise NotImplementedError("an alias has no content")

    def remove(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the same
        if _key_of(site, physical_id) is not None:
            site.kms.call("DeleteAlias", AliasName=physical_id)


def _key_of(site: Site, alias: str) -> str | None:
    """The ARN of the key that an alias names; None where there is no such alias."""
    try:
        return site.kms.describe_key(alias).arn
    except KmsKeyNotFound:
        return None

"""AWS::KMS::Key (facts §7.3): a key in the configured KMS, the embedded one or AWS's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from ebscrypt.control import faultpoints
from ebscrypt.control.site import Site
from ebscrypt.control.stacks.kinds.kind import Made, Tag, Update, changed, read_properties, tags_of
from ebscrypt.errors import InvalidParameter, KmsError, KmsKeyInvalidState, KmsKeyNotFound, StackStateError

PLAN_TAG: Final = "ebscrypt:stack-resource"
"""A key has it so that one whose creation was interrupted is found again: KMS chooses ids itself."""
_FIXED: Final = frozenset({"KeySpec", "KeyUsage", "MultiRegion", "Origin"})
_GOING: Final = frozenset({"PendingDeletion", "PendingReplicaDeletion"})


class KeyProperties(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """The properties as CloudFormation names them."""

    key_policy: dict[str, Any] | str | None = None
    description: str = ""
    enabled: bool = True
    enable_key_rotation: bool = False
    rotation_period_in_days: int | None = None
    key_spec: str | None = None
    key_usage: str | None = None
    multi_region: bool | None = None
    origin: str | None = None
    pending_window_in_days: int = 30
    bypass_policy_lockout_safety_check: bool = False
    tags: list[Tag] = []


class KeyKind:
    """Its plan is the value of a tag, since KMS alone chooses a key's id."""

    name = "AWS::KMS::Key"
    attributes = frozenset({"Arn", "KeyId"})
    has_snapshot = False

    def check(self, site: Site, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the kinds' signature
        wanted = read_properties(properties, KeyProperties)
        if not 7 <= wanted.pending_window_in_days <= 30:
            raise InvalidParameter(f"PendingWindowInDays {wanted.pending_window_in_days} is not within 7 and 30")
        if wanted.rotation_period_in_days is not None and not wanted.enable_key_rotation:
            raise InvalidParameter("RotationPeriodInDays requires EnableKeyRotation to be true")
        if wanted.origin not in (None, "AWS_KMS", "EXTERNAL"):
            raise InvalidParameter(f"Origin {wanted.origin[:40]!r} is neither AWS_KMS nor EXTERNAL")
        if PLAN_TAG in tags_of(wanted.tags):
            raise InvalidParameter(f"the tag key {PLAN_TAG} is for stacks' own use")

    def plan(self, site: Site, properties: Mapping[str, Any]) -> str:  # noqa: ARG002 - the kinds' signature
        return str(uuid.uuid4())

    def create(self, site: Site, planned: str, properties: Mapping[str, Any], found: Made | None) -> Made:
        wanted, made = read_properties(properties, KeyProperties), found
        if made is None:
            answer = site.kms.call("CreateKey", **_creation(wanted, planned))["KeyMetadata"]
            made = Made(answer["KeyId"], {"Arn": answer["Arn"], "KeyId": answer["KeyId"]})
        faultpoints.reach("stack.key-created")
        _rotate(site, made.physical_id, wanted)
        if wanted.origin != "EXTERNAL" and not wanted.enabled:
            site.kms.call("DisableKey", KeyId=made.physical_id)
        return made

    def find(self, site: Site, planned: str, properties: Mapping[str, Any]) -> Made | None:  # noqa: ARG002 - the same
        for key in _listed(site, "ListKeys", "Keys"):
            try:
                tags = list(_listed(site, "ListResourceTags", "Tags", KeyId=key["KeyId"]))
                if {"TagKey": PLAN_TAG, "TagValue": planned} in tags and _state(site, key["KeyId"]) not in _GOING:
                    return Made(key["KeyId"], {"Arn": key["KeyArn"], "KeyId": key["KeyId"]})
            except KmsError:
                continue  # AWS's own key, or one that we may not look at: none of ours
        return None

    def update_of(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Update:
        if fixed := sorted(changed(old, new) & _FIXED):
            raise StackStateError(
                f"Updating {', '.join(fixed)} of a KMS key is not supported: it would need another key, and what this "
                "one encrypted could not be decrypted any more"
            )
        return Update.IN_PLACE

    def update(
        self,
        site: Site,
        physical_id: str,
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        *,
        back: bool,  # noqa: ARG002 - the kinds' signature
    ) -> dict[str, str]:
        wanted, before, differing = (
            read_properties(new, KeyProperties),
            read_properties(old, KeyProperties),
            changed(old, new),
        )
        kms, external = site.kms, wanted.origin == "EXTERNAL"
        if "Enabled" in differing and wanted.enabled and not external:
            kms.call("EnableKey", KeyId=physical_id)
        if "Description" in differing:
            kms.call("UpdateKeyDescription", KeyId=physical_id, Description=wanted.description)
        if "KeyPolicy" in differing and wanted.key_policy is not None:
            bypass = {"BypassPolicyLockoutSafetyCheck": True} if wanted.bypass_policy_lockout_safety_check else {}
            policy = _policy_text(wanted.key_policy)
            kms.call("PutKeyPolicy", KeyId=physical_id, PolicyName="default", Policy=policy, **bypass)
        if {"EnableKeyRotation", "RotationPeriodInDays"} & differing:
            _rotate(site, physical_id, wanted, before)
        _tag(site, physical_id, tags_of(before.tags), tags_of(wanted.tags))
        if "Enabled" in differing and not wanted.enabled and not external:
            kms.call("DisableKey", KeyId=physical_id)
        return {"Arn": kms.describe_key(physical_id).arn, "KeyId": physical_id}

    def snapshot(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:
        raise NotImplementedError("a key has no content")

    def remove(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:
        wanted = read_properties(properties, KeyProperties)
        try:
            if _state(site, physical_id) not in _GOING:
                days = wanted.pending_window_in_days
                site.kms.call("ScheduleKeyDeletion", KeyId=physical_id, PendingWindowInDays=days)
                site.notes.append(f"KMS key {physical_id} will be deleted in {days} days")
        except (KmsKeyNotFound, KmsKeyInvalidState):
            return


def _creation(wanted: KeyProperties, planned: str) -> dict[str, Any]:
    """The members of CreateKey's request: those that are said."""
    tags = tags_of(wanted.tags) | {PLAN_TAG: planned}
    request: dict[str, Any] = {
        "Description": wanted.description or None,
        "KeySpec": wanted.key_spec,
        "KeyUsage": wanted.key_usage,
        "MultiRegion": wanted.multi_region,
        "Origin": wanted.origin,
        "BypassPolicyLockoutSafetyCheck": wanted.bypass_policy_lockout_safety_check or None,
        "Policy": None if wanted.key_policy is None else _policy_text(wanted.key_policy),
        "Tags": [{"TagKey": key, "TagValue": value} for key, value in tags.items()],
    }
    return {name: value for name, value in request.items() if value is not None}


def _policy_text(policy: dict[str, Any] | str) -> str:
    return policy if isinstance(policy, str) else json.dumps(policy)


def _rotate(site: Site, key_id: str, wanted: KeyProperties, before: KeyProperties | None = None) -> None:
    if wanted.enable_key_rotation:
        period = wanted.rotation_period_in_days
        said = {} if period is None else {"RotationPeriodInDays": period}
        site.kms.call("EnableKeyRotation", KeyId=key_id, **said)
    elif before is not None and before.enable_key_rotation:
        site.kms.call("DisableKeyRotation", KeyId=key_id)


def _tag(site: Site, key_id: str, before: dict[str, str], tags: dict[str, str]) -> None:
    if gone := sorted(set(before) - set(tags)):
        site.kms.call("UntagResource", KeyId=key_id, TagKeys=gone)
    if tags and tags != before:
        listed = [{"TagKey": key, "TagValue": value} for key, value in tags.items()]
        site.kms.call("TagResource", KeyId=key_id, Tags=listed)


def _state(site: Site, key_id: str) -> str:
    return site.kms.describe_key(key_id).state


def _listed(site: Site, operation: str, member: str, **request: Any) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        answer = site.kms.call(operation, **request, **marker)
        yield from answer[member]
        if not answer.get("Truncated"):
            return
        marker = {"Marker": answer["NextMarker"]}

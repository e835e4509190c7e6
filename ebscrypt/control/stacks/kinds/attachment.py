"""AWS::EC2::VolumeAttachment (facts §7.2): a volume attached on this host, which is the one instance there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ebscrypt.control import runtime
from ebscrypt.control.attach import attach_volume, in_use
from ebscrypt.control.detach import detach_volume
from ebscrypt.control.site import Site
from ebscrypt.control.stacks.kinds.kind import Made, Update, changed, read_properties
from ebscrypt.errors import InvalidParameter, VolumeNotFound
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import AttachmentState, VolumeState, check_volume_id


class AttachmentProperties(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """The properties as CloudFormation names them. ``device`` is a label: devices here are named by their export."""

    instance_id: str
    volume_id: str
    device: str | None = None


class AttachmentKind:
    """Its plan and id is ``vol-…|i-…``."""

    name = "AWS::EC2::VolumeAttachment"
    attributes: frozenset[str] = frozenset()
    has_snapshot = False

    def check(self, site: Site, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the kinds' signature
        wanted = read_properties(properties, AttachmentProperties)
        if wanted.instance_id != instance_id():
            raise InvalidParameter(
                f"The instance ID '{wanted.instance_id[:80]}' does not exist",
                hint=f"this machine is the one instance: {instance_id()}",
            )
        check_volume_id(wanted.volume_id)

    def plan(self, site: Site, properties: Mapping[str, Any]) -> str:
        wanted = read_properties(properties, AttachmentProperties)
        if site.catalog.volume(wanted.volume_id).state is VolumeState.IN_USE:
            raise in_use(site, wanted.volume_id)
        return f"{wanted.volume_id}|{wanted.instance_id}"

    def create(
        self,
        site: Site,
        planned: str,
        properties: Mapping[str, Any],  # noqa: ARG002 - the same
        found: Made | None,  # noqa: ARG002 - whether its daemon lives is what counts
    ) -> Made:
        volume_id = _volume_id(planned)
        attached = runtime.attachment_state(site.settings, volume_id)
        if attached is None or attached.state is not AttachmentState.ATTACHED:
            attach_volume(site, volume_id)
        return Made(planned, {})

    def find(self, site: Site, planned: str, properties: Mapping[str, Any]) -> Made | None:  # noqa: ARG002 - the same
        return Made(planned, {}) if _is_attached(site, _volume_id(planned)) else None

    def update_of(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Update:
        return Update.REPLACE if changed(old, new) else Update.IN_PLACE

    def update(
        self,
        site: Site,  # noqa: ARG002 - the kinds' signature
        physical_id: str,  # noqa: ARG002 - the same
        old: Mapping[str, Any],  # noqa: ARG002 - the same
        new: Mapping[str, Any],  # noqa: ARG002 - the same
        *,
        back: bool,  # noqa: ARG002 - the same
    ) -> dict[str, str]:
        return {}

    def snapshot(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:
        raise NotImplementedError("an attachment has no content")

    def remove(self, site: Site, physical_id: str, properties: Mapping[str, Any]) -> None:  # noqa: ARG002 - the same
        if _is_attached(site, _volume_id(physical_id)):
            detach_volume(site, _volume_id(physical_id))


def _volume_id(physical_id: str) -> str:
    return physical_id.partition("|")[0]


def _is_attached(site: Site, volume_id: str) -> bool:
    try:
        return site.catalog.volume(volume_id).state is VolumeState.IN_USE
    except VolumeNotFound:
        return False

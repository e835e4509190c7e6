"""Stacks in the process of the test: templates as dicts, and what is left of everything afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ebscrypt.catalog.stack_records import Stack, StackStatus
from ebscrypt.control.site import Site
from ebscrypt.control.stacks import operations
from ebscrypt.errors import StackFailed
from ebscrypt.model import VolumeState

NAME = "mail"


def volume(**properties: Any) -> dict[str, Any]:
    """A volume of 1 GiB, with more properties."""
    return {
        "Type": "AWS::EC2::Volume",
        "Properties": {"AvailabilityZone": {"Fn::Select": [0, {"Fn::GetAZs": ""}]}, "Size": 1} | properties,
    }


def key(**properties: Any) -> dict[str, Any]:
    return {"Type": "AWS::KMS::Key", "Properties": {"PendingWindowInDays": 7} | properties}


def alias(name: str, target: str = "Key") -> dict[str, Any]:
    properties = {"AliasName": f"alias/{name}", "TargetKeyId": {"Ref": target}}
    return {"Type": "AWS::KMS::Alias", "Properties": properties}


FAILING = volume(SnapshotId="snap-00000000000000000")
"""Nothing tells before it is made that it cannot be."""


class Deployer:
    """Deploys to one stack of one site, and looks at what is there."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def deploy(self, resources: dict[str, Any], *, name: str = NAME, tags: Any = None, **sections: Any) -> Stack:
        """The stack after a deployment that succeeds. ``values`` are parameters."""
        values = sections.pop("values", {})
        text = json.dumps({"Resources": resources} | sections)
        return operations.deploy_stack(self.site, name, text, parameters=values, tags=tags).stack

    def fails(self, resources: dict[str, Any], **sections: Any) -> str:
        """What a deployment that fails says."""
        with pytest.raises(StackFailed) as caught:
            self.deploy(resources, **sections)
        return caught.value.message

    def delete(self, name: str = NAME) -> Stack:
        return operations.delete_stack(self.site, name)

    @property
    def stack(self) -> Stack:
        return self.site.catalog.stacks.get(NAME)

    def physical(self, logical_id: str) -> str:
        found = self.stack.resources[logical_id].physical_id
        assert found is not None
        return found

    def statuses(self, name: str = NAME) -> list[str]:
        """The stack's events, oldest first: ``Volume CREATE_COMPLETE``."""
        events = self.site.catalog.stacks.events(self.site.catalog.stacks.get(name).stack_id)
        return [f"{event.logical_id} {event.status}" for event in reversed(events)]

    def volumes(self) -> list[str]:
        """All volumes; each must be available."""
        there = self.site.catalog.volumes()
        assert all(one.state in (VolumeState.AVAILABLE, VolumeState.IN_USE) for one in there)
        return [one.volume_id for one in there]

    def keys(self) -> dict[str, str]:
        """Our keys' states, without AWS's own."""
        answer = self.site.kms.call("ListKeys")["Keys"]
        found = (self.site.kms.call("DescribeKey", KeyId=one["KeyId"])["KeyMetadata"] for one in answer)
        return {one["KeyId"]: one["KeyState"] for one in found if one["KeyManager"] == "CUSTOMER"}

    def aliases(self) -> dict[str, str]:
        """Alias → key id, without AWS's own."""
        answer = self.site.kms.call("ListAliases")["Aliases"]
        return {one["AliasName"]: one["TargetKeyId"] for one in answer if not one["AliasName"].startswith("alias/aws/")}

    def expect_nothing_left(self) -> None:
        """No volume, no alias, and of each key only that it waits for its deletion."""
        assert self.site.catalog.volumes() == []
        assert self.aliases() == {}
        assert set(self.keys().values()) <= {"PendingDeletion"}

    def expect_settled(self, status: StackStatus) -> None:
        assert self.stack.status is status
        assert self.stack.wanted is None
        assert all(one.touch == "none" and one.past is None for one in self.stack.resources.values())

"""Operations on stacks are killed after each step; the next command on the stack goes on, and nothing is lost or twice.

Only the stacks' own steps are struck at here: what lies between them is creations, resizes and deletions of volumes,
which have sweeps of their own, and calls of KMS, which has its own as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.stack_records import Stack, StackStatus
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.model import GIB, VolumeState
from tests.crash.sweep import KILLED, Killer

VOLUME: dict[str, Any] = {
    "Type": "AWS::EC2::Volume",
    "Properties": {
        "AvailabilityZone": "us-east-1a",
        "Size": 1,
        "Encrypted": True,
        "KmsKeyId": {"Fn::GetAtt": ["Key", "Arn"]},
    },
}
KEY: dict[str, Any] = {"Type": "AWS::KMS::Key", "Properties": {"PendingWindowInDays": 7}}


def alias(name: str) -> dict[str, Any]:
    properties = {"AliasName": f"alias/{name}", "TargetKeyId": {"Ref": "Key"}}
    return {"Type": "AWS::KMS::Alias", "Properties": properties}


def grown(**more: Any) -> dict[str, Any]:
    return VOLUME | {"Properties": VOLUME["Properties"] | {"Size": 2} | more}


FAILING = VOLUME | {
    "Properties": {"AvailabilityZone": "a", "SnapshotId": "snap-00000000000000000"},
    "DependsOn": ["Data", "Alias"],
}
FIRST = {"Key": KEY, "Alias": alias("one"), "Data": VOLUME, "Old": VOLUME}
SECOND = {"Key": KEY, "Alias": alias("two"), "Data": grown(), "New": VOLUME | {"DependsOn": "Data"}}


def sweep(killer: Killer, prepare: Callable[[], list[str]], verify: Callable[[], None], *, status: int = 0) -> int:
    """Kill the command that ``prepare`` gives after each step of a stack's own, and verify. The number of steps."""
    ran = killer.run(*prepare(), only="stack.")
    assert ran["status"] == status
    verify()
    points = ran["points"]
    for number, name in enumerate(points, 1):
        ran = killer.run(*prepare(), kill_at=number, only="stack.")
        assert ran["status"] == KILLED, (number, ran)
        try:
            verify()
        except BaseException as error:
            error.add_note(f"killed after {name}, point {number} of {len(points)}")
            raise
    return len(points)


class Stand:
    """Templates in files, and what is there in the end."""

    def __init__(self, killer: Killer, directory: Path) -> None:
        self.killer = killer
        self.directory = directory
        self.count = 0

    def deploy(self, resources: dict[str, Any]) -> list[str]:
        """The command that deploys these resources to the stack of the round."""
        path = self.directory / "template.json"
        path.write_text(json.dumps({"Resources": resources}))
        return ["stack", "deploy", str(path), "--name", self.name]

    @property
    def name(self) -> str:
        return f"s{self.count}"

    def fresh(self) -> None:
        """The next round: the last one's stack is deleted, and must leave nothing."""
        with Site(self.killer.settings) as site:
            there = site.catalog.stacks.find(self.name)
        if there is not None:
            self.killer.do("stack", "delete", self.name)
        self.expect_left([], [], enabled=0)
        self.count += 1

    def expect_left(self, sizes: list[int], aliases: list[str], *, enabled: int) -> Stack | None:
        """Volumes of these sizes (GiB), these aliases, so many keys enabled, and nothing else; the stack."""
        with Site(self.killer.settings) as site:
            recover(site)
            volumes = site.catalog.volumes()
            assert {one.state for one in volumes} <= {VolumeState.AVAILABLE}
            assert sorted(one.size // GIB for one in volumes) == sizes
            names = [one["AliasName"] for one in site.kms.call("ListAliases")["Aliases"]]
            assert sorted(name for name in names if not name.startswith("alias/aws/")) == aliases
            listed = [site.kms.describe_key(one["KeyId"]) for one in site.kms.call("ListKeys")["Keys"]]
            states = [one.state for one in listed if one.manager == "CUSTOMER"]
            assert states.count("Enabled") == enabled
            assert set(states) <= {"Enabled", "PendingDeletion"}
            return site.catalog.stacks.find(self.name)


@pytest.fixture
def stand(killer: Killer, tmp_path: Path) -> Stand:
    return Stand(killer, tmp_path)


@pytest.mark.slow
def test_create(killer: Killer, stand: Stand) -> None:
    """Deployed again, the stack is whole: each resource there once."""

    def prepare() -> list[str]:
        stand.fresh()
        return stand.deploy(FIRST)

    def verify() -> None:
        killer.do(*stand.deploy(FIRST))
        stack = stand.expect_left([1, 1], ["alias/one"], enabled=1)
        assert stack is not None
        assert stack.status is StackStatus.CREATE_COMPLETE

    assert sweep(killer, prepare, verify) >= 11


@pytest.mark.slow
def test_create_that_fails(killer: Killer, stand: Stand) -> None:
    """Whenever it is killed, going on with it ends in a rollback that leaves nothing."""
    wrong = FIRST | {"Zlast": FAILING}

    def prepare() -> list[str]:
        stand.fresh()
        return stand.deploy(wrong)

    def verify() -> None:
        killer.do(*stand.deploy(wrong), status=1)
        stack = stand.expect_left([], [], enabled=0)
        assert stack is not None
        assert stack.status is StackStatus.ROLLBACK_COMPLETE

    assert sweep(killer, prepare, verify, status=1) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_update(killer: Killer, stand: Stand, *, fails: bool) -> None:
    """It ends as what was wanted, or as what was before; a volume that has grown stays so."""
    wanted = SECOND | ({"Zlast": FAILING | {"DependsOn": ["New", "Alias"]}} if fails else {})

    def prepare() -> list[str]:
        stand.fresh()
        killer.do(*stand.deploy(FIRST))
        return stand.deploy(wanted)

    def verify() -> None:
        killer.do(*stand.deploy(wanted), status=int(fails))
        if fails:
            stack = stand.expect_left([1, 2], ["alias/one"], enabled=1)
        else:
            stack = stand.expect_left([1, 2], ["alias/two"], enabled=1)
        assert stack is not None
        assert set(stack.resources) == set(FIRST if fails else SECOND)
        done = StackStatus.UPDATE_ROLLBACK_COMPLETE if fails else StackStatus.UPDATE_COMPLETE
        assert stack.status is done

    assert sweep(killer, prepare, verify, status=int(fails)) >= 8


@pytest.mark.slow
def test_delete(killer: Killer, stand: Stand) -> None:
    """Deleted again, nothing is left; a volume with the policy Snapshot has exactly one snapshot."""
    resources = {"Key": KEY, "Alias": alias("one"), "Data": VOLUME | {"DeletionPolicy": "Snapshot"}}
    rounds = [0]

    def prepare() -> list[str]:
        stand.fresh()
        killer.do(*stand.deploy(resources))
        rounds[0] += 1
        return ["stack", "delete", stand.name]

    def verify() -> None:
        with Site(killer.settings) as site:
            there = site.catalog.stacks.find(stand.name)
        if there is not None:
            killer.do("stack", "delete", stand.name)
        assert stand.expect_left([], [], enabled=0) is None
        with Site(killer.settings) as site:
            assert len(site.catalog.snapshots.list()) == rounds[0]

    assert sweep(killer, prepare, verify) >= 8

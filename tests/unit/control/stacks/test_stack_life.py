"""Stacks are created, updated and deleted, and do what AWS documents for each property."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ebscrypt.catalog.stack_records import StackStatus
from ebscrypt.control.stacks import operations
from ebscrypt.errors import EbscryptError, InvalidParameter, InvalidTemplate, StackNotFound, StackStateError
from ebscrypt.model import GIB
from tests.unit.control.stacks.deploying import NAME, Deployer, alias, key, volume

ENCRYPTED = {
    "Key": key(),
    "Alias": alias("mail"),
    "Data": volume(Encrypted=True, KmsKeyId={"Fn::GetAtt": ["Key", "Arn"]}, Tags=[{"Key": "Name", "Value": "data"}]),
}
OUTPUTS = {"Id": {"Value": {"Ref": "Data"}}, "Arn": {"Value": {"Fn::Sub": "${Key.Arn}"}}}


def test_a_volume_under_a_key_of_its_own(stacks: Deployer) -> None:
    """The stack has what the template says, in the order of what needs what, and tells the outputs."""
    stack = stacks.deploy(ENCRYPTED, Outputs=OUTPUTS)

    assert stack.status is StackStatus.CREATE_COMPLETE
    made = stacks.site.catalog.volume(stacks.physical("Data"))
    assert (made.size, made.encrypted, made.tags) == (GIB, True, {"Name": "data"})
    assert made.kms_key_arn == stack.resources["Key"].attributes["Arn"]
    assert stacks.aliases() == {"alias/mail": stacks.physical("Key")}
    assert {one.name: one.value for one in stack.outputs} == {"Id": made.volume_id, "Arn": made.kms_key_arn}
    assert stacks.statuses() == [
        f"{NAME} CREATE_IN_PROGRESS",
        "Key CREATE_IN_PROGRESS",
        "Key CREATE_COMPLETE",
        "Alias CREATE_IN_PROGRESS",
        "Alias CREATE_COMPLETE",
        "Data CREATE_IN_PROGRESS",
        "Data CREATE_COMPLETE",
        f"{NAME} CREATE_COMPLETE",
    ]


def test_again_does_nothing(stacks: Deployer) -> None:
    """No event, no call of KMS, no change: "No updates are to be performed"."""
    stacks.deploy(ENCRYPTED, Outputs=OUTPUTS)
    before, events = stacks.stack, stacks.statuses()

    again = operations.deploy_stack(
        stacks.site, NAME, json.dumps({"Resources": ENCRYPTED, "Outputs": OUTPUTS}), parameters={}
    )

    assert not again.changed
    assert (stacks.stack, stacks.statuses()) == (before, events)


def test_a_volume_changes_in_place(stacks: Deployer) -> None:
    """It grows, gets another type and other tags, and stays the same volume with the same key."""
    stacks.deploy({"Data": volume(Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])})
    volume_id = stacks.physical("Data")

    stacks.deploy({"Data": volume(Size="3", VolumeType="io1", Iops=100, Tags=[{"Key": "b", "Value": "3"}])})

    now = stacks.site.catalog.volume(volume_id)
    assert (now.size, now.volume_type, now.tags) == (3 * GIB, "io1", {"b": "3"})
    assert stacks.volumes() == [volume_id]
    stacks.expect_settled(StackStatus.UPDATE_COMPLETE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AvailabilityZone", "eu-central-1b"),
        ("Encrypted", True),
        ("SnapshotId", "snap-0123456789abcdef0"),
    ],
)
def test_what_ec2_does_not_update_is_refused(stacks: Deployer, name: str, value: Any) -> None:
    """The update fails with EC2's own text, and the volume is as it was."""
    stacks.deploy({"Data": volume()})
    before = stacks.site.catalog.volume(stacks.physical("Data"))

    told = stacks.fails({"Data": volume(**{name: value})})

    assert "Volume properties other than AutoEnableIO, type, size, and IOPS cannot be updated." in told
    stacks.expect_settled(StackStatus.UPDATE_ROLLBACK_COMPLETE)
    assert stacks.site.catalog.volumes() == [before]


def test_a_volume_never_shrinks(stacks: Deployer) -> None:
    """Size grows only: a smaller one fails, and the stack can be deployed as it was."""
    stacks.deploy({"Data": volume(Size=2)})

    assert "cannot shrink" in stacks.fails({"Data": volume(Size=1)})
    stacks.deploy({"Data": volume(Size=2, Tags=[{"Key": "a", "Value": "b"}])})

    assert stacks.site.catalog.volume(stacks.physical("Data")).size == 2 * GIB


def test_a_key_changes_in_place(stacks: Deployer) -> None:
    """Description, policy, rotation, state and tags, each way."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "all",
                "Effect": "Allow",
                "Principal": {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    stacks.deploy({"Key": key(Description="one", Tags=[{"Key": "a", "Value": "1"}])})
    key_id, kms = stacks.physical("Key"), stacks.site.kms

    stacks.deploy({"Key": key(Description="two", KeyPolicy=policy, EnableKeyRotation=True, RotationPeriodInDays=90)})
    assert kms.describe_key(key_id).description == "two"
    assert '"all"' in kms.call("GetKeyPolicy", KeyId=key_id, PolicyName="default")["Policy"]
    rotation = kms.call("GetKeyRotationStatus", KeyId=key_id)
    assert (rotation["KeyRotationEnabled"], rotation["RotationPeriodInDays"]) == (True, 90)
    assert "a" not in {tag["TagKey"] for tag in kms.call("ListResourceTags", KeyId=key_id)["Tags"]}

    stacks.deploy({"Key": key(Description="two", KeyPolicy=policy, Enabled=False)})
    assert stacks.keys() == {key_id: "Disabled"}
    stacks.deploy({"Key": key(Description="two", KeyPolicy=policy)})
    assert stacks.keys() == {key_id: "Enabled"}


def test_a_key_begins_as_it_is_said(stacks: Deployer) -> None:
    """Disabled, or waiting for its material, which Enabled cannot change."""
    stacks.deploy(
        {"Off": key(Enabled="false", EnableKeyRotation="true"), "Mine": key(Origin="EXTERNAL", Enabled=False)}
    )

    assert stacks.keys() == {stacks.physical("Off"): "Disabled", stacks.physical("Mine"): "PendingImport"}


@pytest.mark.parametrize("change", [{"KeySpec": "HMAC_256"}, {"Origin": "EXTERNAL"}, {"KeyUsage": "SIGN_VERIFY"}])
def test_a_key_is_never_replaced(stacks: Deployer, change: dict[str, str]) -> None:
    """The update fails, since what the key encrypted would be lost; nothing was made."""
    stacks.deploy({"Key": key()})
    before = stacks.keys()

    assert "not supported" in stacks.fails({"Key": key(**change)})

    assert stacks.keys() == before
    stacks.expect_settled(StackStatus.UPDATE_ROLLBACK_COMPLETE)


def test_an_alias_moves_and_is_replaced(stacks: Deployer) -> None:
    """Another target is an update in place; another name is another alias, and the old one goes."""
    keys = {"Key": key(), "Other": key()}
    stacks.deploy(keys | {"Alias": alias("one")})

    stacks.deploy(keys | {"Alias": alias("one", "Other")})
    assert stacks.aliases() == {"alias/one": stacks.physical("Other")}
    stacks.deploy(keys | {"Alias": alias("two", "Other")})

    assert stacks.aliases() == {"alias/two": stacks.physical("Other")}
    assert stacks.physical("Alias") == "alias/two"


def test_a_replaced_alias_may_be_retained(stacks: Deployer) -> None:
    """UpdateReplacePolicy Retain leaves the old name on its key; the stack has the new one."""
    kept = {"UpdateReplacePolicy": "Retain"}
    stacks.deploy({"Key": key(), "Alias": alias("one") | kept})

    stacks.deploy({"Key": key(), "Alias": alias("two") | kept})

    assert set(stacks.aliases()) == {"alias/one", "alias/two"}
    assert stacks.physical("Alias") == "alias/two"


def test_what_the_template_leaves_out_goes(stacks: Deployer) -> None:
    """After everything else has succeeded, in the order that dependencies ask for."""
    stacks.deploy(ENCRYPTED)

    stacks.deploy({"Key": ENCRYPTED["Key"]})

    assert (stacks.volumes(), stacks.aliases()) == ([], {})
    assert set(stacks.stack.resources) == {"Key"}
    assert stacks.statuses()[-1] == f"{NAME} UPDATE_COMPLETE"


def test_delete(stacks: Deployer) -> None:
    """Nothing is left but the key's waiting period; the stack is found by its id alone."""
    stack = stacks.deploy(ENCRYPTED)

    stacks.delete()

    stacks.expect_nothing_left()
    with pytest.raises(StackNotFound):
        stacks.site.catalog.stacks.get(NAME)
    assert stacks.site.catalog.stacks.get(stack.stack_id).status is StackStatus.DELETE_COMPLETE
    assert stacks.deploy({"Data": volume()}).stack_id != stack.stack_id


@pytest.mark.parametrize("policy", ["Retain", "RetainExceptOnCreate", "Snapshot", "Delete"])
@pytest.mark.parametrize("way", ["delete", "leave out"])
def test_deletion_policy(stacks: Deployer, policy: str, way: str) -> None:
    """Retain leaves the volume, Snapshot a snapshot with its tags, Delete nothing; so when an update leaves it out."""
    resources = {"Data": volume(Tags=[{"Key": "a", "Value": "b"}]) | {"DeletionPolicy": policy}, "Key": key()}
    stacks.deploy(resources)
    volume_id = stacks.physical("Data")

    if way == "delete":
        stacks.delete()
    else:
        stacks.deploy({"Key": key()})

    snapshots = stacks.site.catalog.snapshots.list(volume_id=volume_id)
    assert stacks.volumes() == ([volume_id] if policy.startswith("Retain") else [])
    assert [(one.state.value, one.tags) for one in snapshots] == (
        [("completed", {"a": "b"})] if policy == "Snapshot" else []
    )


def test_parameters_conditions_and_previous_values(stacks: Deployer) -> None:
    """A parameter that is not given again keeps its value; a condition takes a resource in and out."""
    sections: dict[str, Any] = {
        "Parameters": {"Big": {"Type": "String", "Default": "no"}, "Secret": {"Type": "String", "NoEcho": True}},
        "Conditions": {"IsBig": {"Fn::Equals": [{"Ref": "Big"}, "yes"]}},
    }
    resources = {
        "Data": volume(Size={"Fn::If": ["IsBig", 2, 1]}),
        "More": volume() | {"Condition": "IsBig"},
    }
    stacks.deploy(resources, **sections, values={"Secret": "hunter2"})
    assert set(stacks.stack.resources) == {"Data"}

    stacks.deploy(resources, **sections, values={"Big": "yes"})
    assert set(stacks.stack.resources) == {"Data", "More"}
    stacks.deploy(resources | {"Key": key()}, **sections)

    assert set(stacks.stack.resources) == {"Data", "More", "Key"}
    assert stacks.site.catalog.volume(stacks.physical("Data")).size == 2 * GIB


def test_the_stacks_tags_are_its_resources_tags(stacks: Deployer) -> None:
    """A resource's own win; they stay until others are given."""
    resources = {"Data": volume(Tags=[{"Key": "a", "Value": "own"}])}
    stacks.deploy(resources, tags={"a": "stack", "b": "stack"})
    assert stacks.site.catalog.volume(stacks.physical("Data")).tags == {"a": "own", "b": "stack"}

    stacks.deploy(resources | {"Key": key()})
    assert stacks.site.catalog.volume(stacks.physical("Data")).tags == {"a": "own", "b": "stack"}
    stacks.deploy(resources, tags={})

    assert stacks.site.catalog.volume(stacks.physical("Data")).tags == {"a": "own"}


def test_exports_bind_stacks_together(stacks: Deployer) -> None:
    """An export is there once; while it is imported its stack can neither drop nor change it, nor be deleted."""
    outputs = {
        "Key": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}, "Export": {"Name": {"Fn::Sub": "${AWS::StackName}-key"}}}
    }
    stacks.deploy({"Key": key()}, name="keys", Outputs=outputs)
    stacks.deploy({"Data": volume(Encrypted=True, KmsKeyId={"Fn::ImportValue": "keys-key"})})

    with pytest.raises(EbscryptError, match="Export keys-key cannot be deleted as it is in use by mail"):
        stacks.deploy({"Key": key()}, name="keys")
    with pytest.raises(EbscryptError, match="cannot be deleted as it is in use by mail"):
        stacks.delete("keys")
    assert set(stacks.keys().values()) == {"Enabled"}
    other = {"O": {"Value": "x", "Export": {"Name": "keys-key"}}}
    with pytest.raises(EbscryptError, match="already exported by stack keys"):
        stacks.deploy({"Key": key()}, name="other", Outputs=other)

    stacks.delete()
    stacks.delete("keys")
    assert stacks.site.catalog.stacks.exports() == {}


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"Data": volume(Size=None)}, "null values"),
        ({"Data": volume(KmsKeyId="alias/aws/ebs")}, "KmsKeyId requires the parameter Encrypted"),
        ({"Data": volume(Sise=1)}, "unknown field `Sise`"),
        ({"Data": volume(Size="large")}, "Expected `int"),
        ({"Data": volume(Size=0)}, "not positive"),
        ({"Data": volume(VolumeType="gp9")}, "Unsupported volume type 'gp9'"),
        ({"Data": volume(MultiAttachEnabled=True)}, "MultiAttachEnabled"),
        ({"Data": volume(OutpostArn="arn:x")}, "OutpostArn"),
        ({"Data": {"Type": "AWS::EC2::Volume", "Properties": {"Size": 1}}}, r"\[AvailabilityZone\]"),
        ({"Data": {"Type": "AWS::EC2::Volume", "Properties": {"AvailabilityZone": "a"}}}, "Size or a SnapshotId"),
        ({"Key": key(PendingWindowInDays=5)}, "not within 7 and 30"),
        ({"Alias": alias("aws/mine"), "Key": key()}, None),
        (
            {"A": {"Type": "AWS::KMS::Alias", "Properties": {"AliasName": "mine", "TargetKeyId": "x"}}},
            "AliasName 'mine'",
        ),
    ],
    ids=range(13),
)
def test_what_can_be_seen_to_be_wrong_begins_nothing(
    stacks: Deployer, resources: dict[str, Any], told: str | None
) -> None:
    """No stack is entered for it; what only shows later rolls back."""
    if told is None:
        assert "alias/aws/mine" in stacks.fails(resources)
        stacks.expect_nothing_left()
        return
    with pytest.raises(EbscryptError, match=told):
        stacks.deploy(resources)

    assert stacks.site.catalog.stacks.all(deleted=True) == []


def test_names_and_states_that_do_not_go(stacks: Deployer) -> None:
    """A name becomes a path and an ARN; a type never changes."""
    for name in ("1a", "a/b", "", "a" * 129):
        with pytest.raises(InvalidParameter):
            stacks.deploy({"Data": volume()}, name=name)
    stacks.deploy({"Data": volume()})
    with pytest.raises(InvalidTemplate, match="Update of resource type is not permitted"):
        stacks.deploy({"Data": key()})
    with pytest.raises(StackNotFound):
        stacks.delete("nobody")
    with pytest.raises(StackStateError, match="nothing to go on with"):
        operations.continue_update_rollback(stacks.site, NAME)

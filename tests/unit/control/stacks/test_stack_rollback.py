"""What fails is taken back: a creation leaves nothing, an update leaves what was there before."""

from __future__ import annotations

from typing import Any

import pytest

from ebscrypt.catalog.stack_records import StackStatus
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.stacks import operations
from ebscrypt.control.stacks.kinds import KINDS
from ebscrypt.errors import EbscryptError, StackFailed, StackStateError
from ebscrypt.model import GIB, MIB
from tests.unit.control.stacks.deploying import FAILING, NAME, Deployer, alias, key, volume

LATE = FAILING | {"DependsOn": ["Data", "Alias"]}
"""Fails when everything else is made."""


def resources(**more: Any) -> dict[str, Any]:
    return {"Key": key(), "Alias": alias("mail"), "Data": volume(), "Zlast": LATE} | more


@pytest.mark.parametrize("policy", ["Delete", "Snapshot", "RetainExceptOnCreate"])
def test_a_creation_that_fails_leaves_nothing(stacks: Deployer, policy: str) -> None:
    """No volume, no record of one, no alias, no snapshot; the key waits for its deletion. The reason is told."""
    told = stacks.fails(resources(Data=volume() | {"DeletionPolicy": policy}))

    assert "ROLLBACK_COMPLETE: Zlast:" in told
    assert "snap-00000000000000000" in told
    stacks.expect_nothing_left()
    assert stacks.site.catalog.snapshots.list() == []
    assert stacks.statuses()[-1] == f"{NAME} ROLLBACK_COMPLETE"
    with pytest.raises(StackStateError, match="is in ROLLBACK_COMPLETE state and can not be updated"):
        stacks.deploy({"Data": volume()})
    stacks.delete()
    stacks.deploy({"Data": volume()})


def test_a_creation_that_fails_leaves_what_shall_be_retained(stacks: Deployer) -> None:
    """Retain, and nothing but Retain, holds here too, as AWS documents it."""
    stacks.fails(resources(Data=volume() | {"DeletionPolicy": "Retain"}))

    assert len(stacks.volumes()) == 1
    assert stacks.aliases() == {}


def test_what_is_not_the_stacks_own_is_left_alone(stacks: Deployer) -> None:
    """An alias that was there before is neither taken over nor deleted by the rollback."""
    made = stacks.site.kms.call("CreateKey")["KeyMetadata"]["KeyId"]
    stacks.site.kms.call("CreateAlias", AliasName="alias/mail", TargetKeyId=made)
    other = create_volume(stacks.site, VolumeRequest(size=8 * MIB))

    assert "alias/mail already exists" in stacks.fails(resources())

    assert stacks.aliases() == {"alias/mail": made}
    assert stacks.volumes() == [other.volume_id]
    assert stacks.keys()[made] == "Enabled"


def test_an_update_that_fails_leaves_what_was(stacks: Deployer) -> None:
    """Updated, replaced, made and removed resources are as before; a volume keeps its new size, for none shrinks."""
    before = {"Key": key(Description="old"), "Alias": alias("old"), "Data": volume(), "Gone": volume()}
    stacks.deploy(before, Outputs={"O": {"Value": {"Ref": "Alias"}}})
    ids = {name: one.physical_id for name, one in stacks.stack.resources.items()}

    after = {
        "Key": key(Description="new"),
        "Alias": alias("new"),
        "Data": volume(Size=2, Tags=[{"Key": "a", "Value": "b"}]),
        "New": volume(),
        "Zlast": LATE | {"DependsOn": ["Data", "Alias", "New"]},
    }
    told = stacks.fails(after)

    assert "UPDATE_ROLLBACK_COMPLETE: Zlast:" in told
    stacks.expect_settled(StackStatus.UPDATE_ROLLBACK_COMPLETE)
    assert {name: one.physical_id for name, one in stacks.stack.resources.items()} == ids
    assert stacks.site.kms.describe_key(stacks.physical("Key")).description == "old"
    assert stacks.aliases() == {"alias/old": ids["Key"]}
    assert set(stacks.volumes()) == {ids["Data"], ids["Gone"]}
    data = stacks.site.catalog.volume(stacks.physical("Data"))
    assert (data.size, data.tags) == (2 * GIB, {})
    assert [one.value for one in stacks.stack.outputs] == ["alias/old"]
    now = stacks.stack.is_now
    assert now is not None
    assert operations.preview(stacks.site, NAME, stacks.stack, now).is_empty


def test_an_alias_that_cannot_move_stays(stacks: Deployer) -> None:
    """The new name is another's: the old alias is there again, on its key."""
    stacks.deploy({"Key": key(), "Alias": alias("mine")})
    made = stacks.site.kms.call("CreateKey")["KeyMetadata"]["KeyId"]
    stacks.site.kms.call("CreateAlias", AliasName="alias/theirs", TargetKeyId=made)

    stacks.fails({"Key": key(), "Alias": alias("theirs")})

    assert stacks.aliases() == {"alias/mine": stacks.physical("Key"), "alias/theirs": made}


def test_outputs_that_cannot_be_are_taken_back_too(stacks: Deployer) -> None:
    """An export that another stack has shows at the end, when everything is made."""
    outputs = {"O": {"Value": "x", "Export": {"Name": "taken"}}}
    stacks.deploy({"Key": key()}, name="other", Outputs=outputs)

    assert "already exported by stack other" in stacks.fails({"Data": volume()}, Outputs=outputs)

    assert stacks.volumes() == []
    assert stacks.stack.status is StackStatus.ROLLBACK_COMPLETE


def test_a_rollback_that_fails_goes_on_when_told_to(stacks: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    """UPDATE_ROLLBACK_FAILED refuses a deployment, names what is wrong, and continue-update-rollback ends it."""
    stacks.deploy({"Key": key(), "Data": volume()})
    kind = KINDS["AWS::KMS::Key"]
    update = kind.update

    def failing(site: Any, physical_id: str, old: Any, new: Any, *, back: bool) -> dict[str, str]:
        if back:
            raise EbscryptError("KMS is away")
        attributes: dict[str, str] = update(site, physical_id, old, new, back=back)
        return attributes

    monkeypatch.setattr(kind, "update", failing)
    told = stacks.fails({"Key": key(Description="x"), "Data": volume(), "Zlast": FAILING | {"DependsOn": "Key"}})
    assert "UPDATE_ROLLBACK_FAILED: Zlast:" in told
    with pytest.raises(StackStateError, match="UPDATE_ROLLBACK_FAILED") as caught:
        stacks.deploy({"Data": volume()})
    assert "continue-update-rollback" in str(caught.value.hint)
    with pytest.raises(StackFailed, match="KMS is away"):
        operations.continue_update_rollback(stacks.site, NAME)

    monkeypatch.setattr(kind, "update", update)
    operations.continue_update_rollback(stacks.site, NAME)

    stacks.expect_settled(StackStatus.UPDATE_ROLLBACK_COMPLETE)
    assert stacks.site.kms.describe_key(stacks.physical("Key")).description in (None, "")


def test_what_cannot_be_deleted_keeps_what_it_needs(stacks: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that cannot be removed keeps its key enabled; deleting the stack again finishes it."""
    stacks.deploy({"Key": key(), "Data": volume(Encrypted=True, KmsKeyId={"Ref": "Key"}), "Other": volume()})
    kind = KINDS["AWS::EC2::Volume"]
    remove = kind.remove
    busy = stacks.physical("Data")

    def refusing(site: Any, physical_id: str, properties: Any) -> None:
        if physical_id == busy:
            raise EbscryptError("it is mounted")
        remove(site, physical_id, properties)

    monkeypatch.setattr(kind, "remove", refusing)
    with pytest.raises(StackFailed, match="DELETE_FAILED: Data: it is mounted"):
        stacks.delete()
    assert stacks.volumes() == [busy]
    assert set(stacks.keys().values()) == {"Enabled"}

    monkeypatch.setattr(kind, "remove", remove)
    stacks.delete()

    stacks.expect_nothing_left()

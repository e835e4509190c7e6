"""The grant of an attachment: made at attach, gone after it."""

from __future__ import annotations

import re

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.control import faultpoints
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.detach import finish_detachment
from ebscrypt.control.site import Site
from ebscrypt.control.unit import run_step
from ebscrypt.errors import KmsAccessDenied, KmsKeyDisabled, KmsUnreachable
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.principals import instance_id
from ebscrypt.model import MIB, Volume, VolumeState
from tests.unit.control.unwrapping import FakeDaemons, grants_of

CALLER = "arn:aws:iam::111122223333:user/operator"


def of_volume(site: Site, volume: Volume) -> list[dict[str, object]]:
    return grants_of(site.settings, str(volume.kms_key_arn))


def with_kms(settings: Settings, **fields: object) -> Settings:
    return msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, **fields))


def test_an_attachment_has_a_grant_of_ebss_own_kind(site: Site, volume: Volume, daemons: FakeDaemons) -> None:
    """Exactly the parameters of facts §1.3 b; the row knows its id, and the daemon's Decrypt went by its token."""
    attach_volume(site, volume.volume_id)

    [grant] = of_volume(site, volume)
    account, region = site.settings.kms.account, site.settings.kms.region
    assert grant["GranteePrincipal"] == f"arn:aws:sts::{account}:assumed-role/aws:ec2-infrastructure/{instance_id()}"
    assert grant["RetiringPrincipal"] == f"ec2.{region}.amazonaws.com"
    assert grant["Operations"] == ["Decrypt"]
    assert grant["Constraints"] == {"EncryptionContextSubset": {"aws:ebs:id": volume.volume_id}}
    [row] = site.catalog.keys.grants()
    assert (row.name, row.grant_id) == (grant["Name"], grant["GrantId"])
    assert re.fullmatch(rf"ebscrypt-{volume.volume_id}-[0-9a-f]{{16}}", row.name)
    assert daemons.specs[0].grant_token


def test_the_token_is_shown_nowhere(site: Site, volume: Volume, daemons: FakeDaemons) -> None:
    """Not in the spec's repr, and not in the catalog's file."""
    attach_volume(site, volume.volume_id)

    token = daemons.specs[0].grant_token
    assert token is not None
    assert token not in repr(daemons.specs[0])
    stored = b"".join(path.read_bytes() for path in site.settings.catalog_path.parent.glob("catalog.db*"))
    assert token.encode() not in stored


def test_detached_it_is_gone(site: Site, volume: Volume, daemons: FakeDaemons) -> None:
    """In KMS and in the catalog; the next attachment has another."""
    for _ in range(2):
        attach_volume(site, volume.volume_id)
        finish_detachment(site, volume.volume_id)

        assert of_volume(site, volume) == []
        assert site.catalog.keys.grants() == []
    first, second = daemons.specs
    assert first.grant_token != second.grant_token
    assert site.notes == []


@pytest.mark.usefixtures("daemons")
def test_a_plain_volume_has_none(site: Site, plain_volume: Volume) -> None:
    """There is nothing to decrypt, and KMS is not even opened."""
    attach_volume(site, plain_volume.volume_id)

    assert site.catalog.keys.grants() == []
    assert "kms" not in site.__dict__


def test_never_means_never(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's Decrypt is by the caller's own right then."""
    with Site(with_kms(settings, grants="never")) as site:
        daemons = FakeDaemons(site, monkeypatch)
        volume = create_volume(site, VolumeRequest(size=MIB))
        attach_volume(site, volume.volume_id)

        assert of_volume(site, volume) == []
        assert daemons.specs[0].grant_token is None


def may_not_grant(site: Site, patch: pytest.MonkeyPatch) -> None:
    """The caller may do all but CreateGrant."""

    def create_grant(key_arn: str, *_: object, **__: object) -> None:
        denied = KmsClient(site.settings, principal=CALLER)
        denied.create_grant(key_arn, {}, name="x")

    patch.setattr(site.kms, "create_grant", create_grant)


def test_auto_goes_on_without_one(
    site: Site, volume: Volume, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who may not make grants attaches all the same where he may Decrypt, and is told."""
    may_not_grant(site, monkeypatch)

    attach_volume(site, volume.volume_id)

    assert daemons.specs[0].grant_token is None
    assert site.catalog.keys.grants() == []
    [note] = site.notes
    assert note.startswith(f"no grant was made for volume {volume.volume_id}")
    assert "kms:CreateGrant" in note


def test_always_means_always(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a grant is required, one that cannot be made is a failed attachment."""
    with Site(with_kms(settings, grants="always")) as site:
        FakeDaemons(site, monkeypatch)
        volume = create_volume(site, VolumeRequest(size=MIB))
        may_not_grant(site, monkeypatch)

        with pytest.raises(KmsAccessDenied, match="CreateGrant"):
            attach_volume(site, volume.volume_id)

        assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE
        assert site.catalog.keys.grants() == []


def test_a_daemon_that_is_replaced_keeps_the_grant(site: Site, volume: Volume, daemons: FakeDaemons) -> None:
    """The same grant and token, and KMS is not asked for another: its CreateGrant could fail by now."""
    attach_volume(site, volume.volume_id)
    [before] = of_volume(site, volume)
    daemons.die(volume.volume_id)

    attach_volume(site, volume.volume_id)

    assert of_volume(site, volume) == [before]
    first, second = daemons.specs
    assert first.grant_token == second.grant_token
    assert len(site.catalog.keys.grants()) == 1


def test_a_grant_on_another_key_is_not_taken_over(site: Site, volume: Volume, daemons: FakeDaemons) -> None:
    """A volume rewrapped while attached needs a grant on its new key; detach retires both."""
    attach_volume(site, volume.volume_id)
    daemons.die(volume.volume_id)
    [row] = site.catalog.keys.grants()
    site.catalog.keys.remove_grant(row.name)
    site.catalog.keys.add_grant(msgspec.structs.replace(row, kms_key_arn=row.kms_key_arn[:-4] + "0000"))

    attach_volume(site, volume.volume_id)

    assert daemons.specs[0].grant_token != daemons.specs[1].grant_token
    assert len(site.catalog.keys.grants()) == 2
    finish_detachment(site, volume.volume_id)
    assert site.catalog.keys.grants() == []


@pytest.mark.usefixtures("daemons")
def test_a_failed_attachment_leaves_none(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grant was made, then the daemon's Decrypt was refused."""
    made: list[int] = []

    def disable(name: str) -> None:
        if name == "grant.kept":
            made.append(len(of_volume(site, volume)))
            site.kms.call("DisableKey", KeyId=volume.kms_key_arn)

    monkeypatch.setattr(faultpoints, "reach", disable)
    key = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    volume = create_volume(site, VolumeRequest(size=MIB, kms_key_id=key))
    with pytest.raises(KmsKeyDisabled):
        attach_volume(site, volume.volume_id)

    assert made == [1]
    assert of_volume(site, volume) == []
    assert site.catalog.keys.grants() == []


def test_a_restart_does_not_wait_for_a_grant(
    site: Site, volume: Volume, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data key of a daemon that died is with systemd: the unit starts the next one, KMS or no KMS."""
    site.catalog.correct(volume.volume_id, was_attached=True)
    site.kms.call("CreateKey")

    def away(*_: object, **__: object) -> None:
        raise KmsUnreachable("KMS is away")

    monkeypatch.setattr(site.kms, "create_grant", away)
    run_step(site, "prepare", volume.volume_id)

    assert site.settings.runtime_dir(volume.volume_id).joinpath("spec.json").exists()
    assert site.catalog.volume(volume.volume_id).state is VolumeState.IN_USE
    assert any("no grant was made" in note for note in site.notes)
    assert daemons.specs == []


def test_a_first_start_does(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no data key yet that anybody could have kept."""

    def away(*_: object, **__: object) -> None:
        raise KmsUnreachable("KMS is away")

    monkeypatch.setattr(site.kms, "create_grant", away)
    with pytest.raises(KmsUnreachable):
        run_step(site, "prepare", volume.volume_id)

    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE

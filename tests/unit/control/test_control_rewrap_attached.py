"""`rewrap_volume` of an attached volume: its attachment follows, with a grant on the new KMS key."""

from __future__ import annotations

import pytest

from ebscrypt.control import faultpoints, rewrap, runtime
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.detach import finish_detachment
from ebscrypt.control.key_check import Verdict, check_key
from ebscrypt.control.recover import recover
from ebscrypt.control.rewrap import rewrap_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import KmsAccessDenied, KmsUnreachable
from ebscrypt.model import AttachmentSpec, Volume
from tests.unit.control.sealing import expect_key, token_of
from tests.unit.control.unwrapping import FakeDaemons, grants_of

pytestmark = pytest.mark.usefixtures("unwrapping")

POINTS = [
    "rewrap.noted",
    "grant.noted",
    "grant.made",
    "grant.kept",
    "rewrap.described",
    "rewrap.told",
    "rewrap.done",
    "grant.retired",
    "grant.forgotten",
]


class Killed(BaseException):
    """Ends a command where a signal would."""


def spec_of(site: Site, volume: Volume) -> AttachmentSpec:
    return runtime.directory(site.settings, volume.volume_id).read_spec()


def forbid_grants(site: Site, patch: pytest.MonkeyPatch) -> None:
    def create_grant(*_: object, **__: object) -> None:
        raise KmsAccessDenied("not authorized to perform: kms:CreateGrant", kms_code="AccessDeniedException")

    patch.setattr(site.kms, "create_grant", create_grant)


def counts(site: Site, *keys: str | None) -> list[int]:
    return [len(grants_of(site.settings, str(key))) for key in keys]


def test_the_attachment_gets_a_grant_on_the_new_key(
    site: Site, volume: Volume, new_key: str, daemons: FakeDaemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is retired; a daemon that follows needs no other, and its caller no leave to make grants."""
    attach_volume(site, volume.volume_id)
    rewrap_volume(site, volume.volume_id, new_key)

    spec = spec_of(site, volume)
    assert spec.kms_key_arn == new_key
    assert spec.grant_token not in (None, daemons.specs[0].grant_token)
    assert counts(site, volume.kms_key_arn, new_key) == [0, 1]
    assert check_key(site, spec, doubt=True) == Verdict(usable=True)
    daemons.die(volume.volume_id)
    forbid_grants(site, monkeypatch)
    attach_volume(site, volume.volume_id)

    assert daemons.specs[1].grant_token == spec.grant_token
    finish_detachment(site, volume.volume_id)
    assert counts(site, volume.kms_key_arn, new_key) == [0, 0]


def test_the_watch_goes_by_the_new_grant(site: Site, volume: Volume, new_key: str, daemons: FakeDaemons) -> None:
    """Revoked, the key is unusable for this volume: what its caller may do besides does not count."""
    attach_volume(site, volume.volume_id)
    rewrap_volume(site, volume.volume_id, new_key)
    [row] = site.catalog.keys.grants()
    site.catalog.keys.remove_grant(row.name)
    site.kms.call("RevokeGrant", KeyId=new_key, GrantId=row.grant_id)

    assert check_key(site, spec_of(site, volume), doubt=True).usable is False
    assert len(daemons.specs) == 1


@pytest.mark.usefixtures("daemons")
def test_one_under_the_same_key_keeps_its_grant(site: Site, volume: Volume) -> None:
    """After a rotation there is nothing to change."""
    attach_volume(site, volume.volume_id)
    before, grants = spec_of(site, volume), grants_of(site.settings, str(volume.kms_key_arn))

    rewrap_volume(site, volume.volume_id, str(volume.kms_key_arn))

    assert spec_of(site, volume) == before
    assert grants_of(site.settings, str(volume.kms_key_arn)) == grants


@pytest.mark.usefixtures("daemons")
def test_one_without_a_grant_gets_none(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller may Decrypt himself; what its next daemon is told names the new key all the same."""
    with monkeypatch.context() as patch:
        forbid_grants(site, patch)
        attach_volume(site, volume.volume_id)

    rewrap_volume(site, volume.volume_id, new_key)

    spec = spec_of(site, volume)
    assert (spec.kms_key_arn, spec.grant_token) == (new_key, None)
    assert counts(site, volume.kms_key_arn, new_key) == [0, 0]


@pytest.mark.usefixtures("daemons")
def test_a_grant_that_cannot_be_made_now_stops_it(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the header: all stays with the old key and its grant."""
    attach_volume(site, volume.volume_id)
    before = spec_of(site, volume)

    def away(*_: object, **__: object) -> None:
        raise KmsUnreachable("KMS is away")

    with monkeypatch.context() as patch:
        patch.setattr(site.kms, "create_grant", away)
        with pytest.raises(KmsUnreachable):
            rewrap_volume(site, volume.volume_id, new_key)

    expect_key(site, volume, volume.kms_key_arn)
    assert spec_of(site, volume) == before
    assert counts(site, volume.kms_key_arn, new_key) == [1, 0]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.usefixtures("daemons")
def test_killed_at_any_point_the_attachment_follows_the_header(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Header, catalog and spec name one key, the attachment has a grant on it, and detach leaves none on any."""
    attach_volume(site, volume.volume_id)

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(faultpoints, "reach", kill)
        patch.setattr(rewrap, "_settle_quietly", lambda *_: None)  # a killed process settles nothing
        with pytest.raises(Killed):
            rewrap_volume(site, volume.volume_id, new_key)
    recover(site)

    kept = token_of(volume).kms_key_arn
    assert kept == (volume.kms_key_arn if point in POINTS[:4] else new_key)
    expect_key(site, volume, kept)
    spec = spec_of(site, volume)
    assert spec.kms_key_arn == kept
    assert check_key(site, spec, doubt=True) == Verdict(usable=True)
    rewrap_volume(site, volume.volume_id, kept)
    assert [key for key in (volume.kms_key_arn, new_key) if grants_of(site.settings, str(key))] == [kept]
    finish_detachment(site, volume.volume_id)
    assert counts(site, volume.kms_key_arn, new_key) == [0, 0]
    assert site.catalog.keys.grants() == []


@pytest.mark.usefixtures("daemons")
def test_recovery_does_not_hang_on_the_grant(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where KMS makes none then, header and catalog are put in order all the same, and a note says what is missing."""
    attach_volume(site, volume.volume_id)

    def kill(name: str) -> None:
        if name == "rewrap.described":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(faultpoints, "reach", kill)
        patch.setattr(rewrap, "_settle_quietly", lambda *_: None)
        with pytest.raises(Killed):
            rewrap_volume(site, volume.volume_id, new_key)

    def away(*_: object, **__: object) -> None:
        raise KmsUnreachable("KMS is away")

    monkeypatch.setattr(site.kms, "create_grant", away)
    recover(site)

    expect_key(site, volume, new_key)
    assert any(f"has no grant on {new_key}: KMS is away" in note for note in site.notes)

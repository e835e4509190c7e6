"""Grants whose attachment is over: after a crash, after a KMS that was away, and no command has to wait for it."""

from __future__ import annotations

import msgspec
import pytest

from ebscrypt.catalog.keys import GrantRow
from ebscrypt.config import Settings
from ebscrypt.control import faultpoints, grants, runtime
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.detach import finish_detachment
from ebscrypt.control.rebuild import rebuild_catalog
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.errors import KmsThrottled, KmsUnreachable
from ebscrypt.model import MIB, Volume, VolumeState, utc_now
from tests.unit.control.unwrapping import grants_of
from tests.unit.kms.scripted import listening, refuses


def of_volume(site: Site, volume: Volume) -> list[dict[str, object]]:
    return grants_of(site.settings, str(volume.kms_key_arn))


def left(volume: Volume, name: str, **fields: str | None) -> GrantRow:
    """A row as a command leaves it that could not retire its grant."""
    given: dict[str, object] = {
        "volume_id": volume.volume_id,
        "kms_key_arn": volume.kms_key_arn,
        "create_time": utc_now(),
    }
    return GrantRow(name=name, **(given | fields))  # type: ignore[arg-type]


def attach_and_detach(site: Site, volume_id: str) -> None:
    attach_volume(site, volume_id)
    finish_detachment(site, volume_id)


@pytest.mark.parametrize("point", ["grant.noted", "grant.made", "grant.kept", "attach.prepared", "grant.retired"])
@pytest.mark.usefixtures("daemons")
def test_a_crash_leaves_none(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Killed there, with a reboot besides: the next command finds the grant, by its name where it has no id yet."""

    class Killed(BaseException):
        """Not caught by anything, as SIGKILL is not."""

    def strike(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr("ebscrypt.control.attach.give_up", lambda *_: None)
    monkeypatch.setattr(faultpoints, "reach", strike)
    with pytest.raises(Killed):
        attach_and_detach(site, volume.volume_id)
    monkeypatch.undo()

    recover(site)

    assert of_volume(site, volume) == []
    assert site.catalog.keys.grants() == []
    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE
    assert site.notes == []


@pytest.mark.usefixtures("daemons")
@pytest.mark.parametrize("silent", [KmsUnreachable, KmsThrottled])
def test_a_kms_that_is_away_does_not_keep_a_volume_attached(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch, silent: type[Exception]
) -> None:
    """Detach succeeds with a note; the next command that has talked to KMS retires the grant, and not before."""
    attach_volume(site, volume.volume_id)
    with monkeypatch.context() as patch:
        asked: list[str] = []

        def away(key_arn: str, _: str) -> None:
            asked.append(key_arn)
            raise silent("KMS is away")

        patch.setattr(site.kms, "retire_grant", away)
        assert finish_detachment(site, volume.volume_id).state is VolumeState.AVAILABLE
        assert len(asked) == 1
        recover(site)
        delete_volume(site, volume.volume_id)
        assert len(asked) == 1
    [note] = site.notes
    assert "could not be retired yet" in note
    assert "KMS is away" in note
    assert len(of_volume(site, volume)) == 1

    create_volume(site, VolumeRequest(size=MIB))

    assert of_volume(site, volume) == []
    assert site.catalog.keys.grants() == []


@pytest.mark.usefixtures("daemons")
def test_overdue_grants_are_retired_a_few_at_a_time(site: Site, volume: Volume) -> None:
    """A command does not have to make up for what a thousand others left; those in use are left alone."""
    attach_volume(site, volume.volume_id)
    for number in range(grants.MOST_OVERDUE + 2):
        site.catalog.keys.add_grant(left(volume, f"left-{number}", volume_id="vol-00000000000000000"))

    grants.retire_overdue(site)
    assert len(site.catalog.keys.grants()) == 3
    grants.retire_overdue(site)

    assert [row.volume_id for row in site.catalog.keys.grants()] == [volume.volume_id]
    assert len(of_volume(site, volume)) == 1


def test_silence_of_kms_is_waited_for_once(settings: Settings, volume: Volume) -> None:
    """With many grants to retire and KMS throttling, the first refusal ends it."""
    with listening() as endpoint:
        endpoint.script = [refuses("ThrottlingException", "Rate exceeded")]
        kms = msgspec.structs.replace(settings.kms, endpoint=endpoint.url, attempts=1)
        with Site(msgspec.structs.replace(settings, kms=kms)) as site:
            for number in range(5):
                site.catalog.keys.add_grant(left(volume, f"left-{number}", grant_id="ab" * 32))
            grants.end_grants(site, volume.volume_id)

            assert endpoint.targets == ["TrentService.RetireGrant"]
            assert len(site.catalog.keys.grants()) == 5
            assert len(site.notes) == 1


def test_a_deleted_key_took_its_grants_along(site: Site, volume: Volume) -> None:
    """Nothing is left to retire, and the rows go: also that of a grant whose id was never learnt."""
    gone = str(volume.kms_key_arn)[:-12] + "000000000000"
    for name, grant_id in (("asked", None), ("made", "ab" * 32)):
        site.catalog.keys.add_grant(left(volume, name, kms_key_arn=gone, grant_id=grant_id))

    grants.end_grants(site, volume.volume_id)

    assert site.catalog.keys.grants() == []
    assert site.notes == []


@pytest.mark.usefixtures("daemons")
def test_a_rebuilt_catalog_knows_the_grants_again(site: Site, volume: Volume) -> None:
    """Of attached volumes and of those whose attachment has ended meanwhile; somebody else's are left alone."""
    other = create_volume(site, VolumeRequest(size=MIB))
    for volume_id in (volume.volume_id, other.volume_id):
        attach_volume(site, volume_id)
    for name in ("ebscrypt-vol-00000000000000000-0000000000000000", "theirs"):
        site.kms.create_grant(str(volume.kms_key_arn), {}, name=name)
    before = {row.name: row.grant_id for row in site.catalog.keys.grants()}
    runtime.remove(site.settings, other.volume_id)
    site.forget_catalog()
    for path in site.settings.catalog_path.parent.glob("catalog.db*"):
        path.unlink()

    rebuild_catalog(site)

    assert {row.name: row.grant_id for row in site.catalog.keys.grants()} == before
    assert site.catalog.volume(volume.volume_id).was_attached
    assert not site.catalog.volume(other.volume_id).was_attached
    grants.retire_overdue(site)
    [row] = site.catalog.keys.grants()
    assert row.volume_id == volume.volume_id
    assert len(of_volume(site, volume)) == 3


def test_a_rebuild_needs_no_kms(settings: Settings, volume: Volume) -> None:
    """Volumes are entered all the same; a note says that grants may be left."""
    for path in settings.catalog_path.parent.glob("catalog.db*"):
        path.unlink()
    party = "arn:aws:iam::111122223333:role/ebscrypt"
    kms = msgspec.structs.replace(
        settings.kms, endpoint="http://127.0.0.1:1", attempts=1, grantee=party, retiring_principal=party
    )

    with Site(msgspec.structs.replace(settings, kms=kms)) as site:
        rebuild_catalog(site)

        assert [found.volume_id for found in site.catalog.volumes()] == [volume.volume_id]
        [note] = site.notes
    assert "grants on" in note
    assert "cannot be reached" in note


@pytest.mark.usefixtures("daemons")
@pytest.mark.parametrize("field", ["region", "account"])
def test_a_grant_elsewhere_is_not_taken_for_gone(site: Site, settings: Settings, volume: Volume, field: str) -> None:
    """With settings for another Region or account KMS would say that there is no such grant: the row stays."""
    attach_volume(site, volume.volume_id)
    kms = msgspec.structs.replace(settings.kms, **{field: {"region": "us-east-1", "account": "444455556666"}[field]})
    with Site(msgspec.structs.replace(settings, kms=kms)) as other:
        finish_detachment(other, volume.volume_id)
        [note] = other.notes
    assert "could not be retired yet" in note
    assert len(of_volume(site, volume)) == 1

    grants.retire_overdue(site)

    assert of_volume(site, volume) == []
    assert site.catalog.keys.grants() == []

"""`Catalog.keys`: encryption by default, grants to be retired, rewraps under way; and what volumes keep of keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import VolumeEvent, volume_event
from ebscrypt.catalog.keys import EncryptionDefaults, GrantRow
from ebscrypt.errors import CatalogError, VolumeNotFound
from ebscrypt.model import OnKeyUnusable, Volume, VolumeState, utc_now

MakeVolume = Callable[..., Volume]
ACCOUNT, REGION = "111122223333", "eu-central-1"
KEY_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/aaaaaaaa-12ab-34cd-56ef-1234567890ab"
VOLUME_ID = "vol-0123456789abcdef0"


def grant(name: str, **fields: Any) -> GrantRow:
    given: dict[str, Any] = {"volume_id": VOLUME_ID, "kms_key_arn": KEY_ARN, "create_time": utc_now()} | fields
    return GrantRow(name=name, **given)


def test_nothing_set_is_ebss_own_default(catalog: Catalog) -> None:
    """Off, and the AWS managed key."""
    assert catalog.keys.defaults(ACCOUNT, REGION) == EncryptionDefaults(enabled=False, kms_key_arn=None)


def test_one_default_does_not_disturb_the_other(catalog: Catalog) -> None:
    """Switching encryption by default keeps the key, and changing the key keeps the switch."""
    catalog.keys.change_defaults(ACCOUNT, REGION, kms_key_arn=KEY_ARN)
    assert catalog.keys.change_defaults(ACCOUNT, REGION, enabled=True).kms_key_arn == KEY_ARN
    assert catalog.keys.change_defaults(ACCOUNT, REGION, kms_key_arn=None).enabled

    assert catalog.keys.defaults(ACCOUNT, REGION) == EncryptionDefaults(enabled=True, kms_key_arn=None)


def test_defaults_are_of_one_account_and_region(catalog: Catalog) -> None:
    """Another account and another Region have their own."""
    catalog.keys.change_defaults(ACCOUNT, REGION, enabled=True, kms_key_arn=KEY_ARN)

    assert catalog.keys.defaults(ACCOUNT, "us-east-1") == EncryptionDefaults()
    assert catalog.keys.defaults("000000000000", REGION) == EncryptionDefaults()


def test_defaults_that_are_ebss_own_again_leave_no_row(catalog: Catalog) -> None:
    """Set and taken back, it is as if nothing had been set."""
    catalog.keys.change_defaults(ACCOUNT, REGION, enabled=True, kms_key_arn=KEY_ARN)
    catalog.keys.change_defaults(ACCOUNT, REGION, enabled=False, kms_key_arn=None)

    with catalog._transaction() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM encryption_defaults").scalar_one() == 0


def test_a_grant_comes_back_as_it_was_noted(catalog: Catalog) -> None:
    """Before and after KMS has named it."""
    row = grant("g-1")
    catalog.keys.add_grant(row)
    assert catalog.keys.grants() == [row]

    catalog.keys.set_grant_id("g-1", "ab" * 32)

    [kept] = catalog.keys.grants(VOLUME_ID)
    assert kept.grant_id == "ab" * 32
    assert (kept.name, kept.kms_key_arn, kept.create_time) == (row.name, row.kms_key_arn, row.create_time)


def test_grants_come_oldest_first_and_by_volume(catalog: Catalog) -> None:
    """All, or those of one volume; a volume need not exist for that."""
    now = utc_now()
    for name, age, volume_id in (("b", 1, VOLUME_ID), ("a", 3, VOLUME_ID), ("c", 2, "vol-00000000000000000")):
        catalog.keys.add_grant(grant(name, volume_id=volume_id, create_time=now - timedelta(seconds=age)))

    assert [row.name for row in catalog.keys.grants()] == ["a", "c", "b"]
    assert [row.name for row in catalog.keys.grants(VOLUME_ID)] == ["a", "b"]


def test_a_grants_name_is_taken_once(catalog: Catalog) -> None:
    """Two attachments cannot come to share a grant."""
    catalog.keys.add_grant(grant("g-1"))

    with pytest.raises(CatalogError):
        catalog.keys.add_grant(grant("g-1", kms_key_arn=OTHER_ARN))


def test_a_grant_is_forgotten_once_and_again(catalog: Catalog) -> None:
    """Idempotent: a crash after the first time makes a second."""
    catalog.keys.add_grant(grant("g-1"))
    catalog.keys.add_grant(grant("g-2"))

    catalog.keys.remove_grant("g-1")
    catalog.keys.remove_grant("g-1")

    assert [row.name for row in catalog.keys.grants()] == ["g-2"]


def test_a_grant_outlives_its_volume(catalog: Catalog, make_volume: MakeVolume) -> None:
    """The row of a volume goes; what KMS has of it must still be known."""
    volume = make_volume(state=VolumeState.DELETING)
    catalog.add(volume)
    catalog.keys.add_grant(grant("g-1", volume_id=volume.volume_id))

    catalog.remove(volume.volume_id)

    assert [row.name for row in catalog.keys.grants(volume.volume_id)] == ["g-1"]


def test_a_rewrap_is_noted_until_it_has_ended(catalog: Catalog, make_volume: MakeVolume) -> None:
    """From the target's note to the new key in the row; the volume's key changes at the end only."""
    volume = make_volume(kms_key_arn=KEY_ARN)
    catalog.add(volume)

    catalog.keys.begin_rewrap(volume.volume_id, OTHER_ARN)
    assert catalog.keys.rewraps() == {volume.volume_id: OTHER_ARN}
    assert catalog.volume(volume.volume_id).kms_key_arn == KEY_ARN
    catalog.keys.end_rewrap(volume.volume_id, OTHER_ARN)

    assert catalog.keys.rewraps() == {}
    assert catalog.volume(volume.volume_id).kms_key_arn == OTHER_ARN


@pytest.mark.parametrize("step", ["begin_rewrap", "end_rewrap"])
def test_a_rewrap_of_nothing_is_refused(catalog: Catalog, step: str) -> None:
    """There is no such volume."""
    with pytest.raises(VolumeNotFound, match=VOLUME_ID):
        getattr(catalog.keys, step)(VOLUME_ID, OTHER_ARN)


def test_what_a_volume_keeps_of_its_key_comes_back(catalog: Catalog, make_volume: MakeVolume) -> None:
    """What to do when the key fails, how the last attachment ended, and why the last try failed."""
    volume = make_volume(
        kms_key_arn=KEY_ARN,
        on_key_unusable=OnKeyUnusable.SUSPEND,
        was_attached=True,
        attach_failure="KMS refused Decrypt",
    )

    catalog.add(volume)

    assert catalog.volume(volume.volume_id) == volume


def test_a_correction_and_its_event_are_one_transaction(catalog: Catalog, make_volume: MakeVolume) -> None:
    """The event is kept with the change; where the change is refused there is no event either."""
    volume = make_volume(state=VolumeState.IN_USE)
    catalog.add(volume)
    event = volume_event(
        VolumeEvent.REATTACH, "failed", volume_id=volume.volume_id, region=REGION, account=ACCOUNT, key_arn=KEY_ARN
    )

    catalog.correct(volume.volume_id, event, attach_failure="no")
    with pytest.raises(VolumeNotFound):
        catalog.correct(VOLUME_ID, event | {"id": "another"}, attach_failure="no")

    assert catalog.volume(volume.volume_id).attach_failure == "no"
    assert [kept for _, kept in catalog.events()] == [event]

"""`rewrap_snapshot`: another wrapped key for the same data key, whatever happens on the way."""

from __future__ import annotations

from contextlib import closing

import pytest

from ebscrypt.control import faultpoints
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.rewrap_snapshot import rewrap_snapshot
from ebscrypt.control.site import Site
from ebscrypt.control.verify_snapshots import verify_snapshot
from ebscrypt.errors import KeyMismatch, KmsKeyDisabled, ManifestNotAuthentic, StateError, StoreError
from ebscrypt.kms.results import WrappedKey
from ebscrypt.model import Snapshot, encryption_context
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.store import Store
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import At

pytestmark = pytest.mark.usefixtures("unwraps_here")


class Killed(BaseException):
    """Ends a command where a signal would."""


def stored(site: Site, snapshot: Snapshot) -> bytes:
    with closing(open_store(site.settings, snapshot.store)) as store:
        return store.get_manifest(snapshot.snapshot_id)


def is_sound(site: Site, snapshot: Snapshot) -> bool:
    """Its manifest is vouched for, its blocks are there, and a volume made of it has the data."""
    made = create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id, kms_key_id=None))
    assert made.kms_key_arn == site.catalog.snapshots.get(snapshot.snapshot_id).kms_key_arn
    return bool(contents.read(site, made) == contents.expected())


def test_it_opens_under_the_new_key_and_not_under_the_old(site: Site, source: Snapshot, new_key: str) -> None:
    """No block moves; what is made of it afterwards is under the new key, with the same data key."""
    blocks = contents.blocks_in(site)

    now = rewrap_snapshot(site, source.snapshot_id, new_key)

    assert now.kms_key_arn == new_key
    assert now.data_encryption_key_id == source.data_encryption_key_id
    assert contents.blocks_in(site) == blocks
    assert is_sound(site, now)
    site.kms.call("DisableKey", KeyId=new_key)
    with pytest.raises(KmsKeyDisabled):
        create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))


def test_a_dry_run_changes_nothing(site: Site, source: Snapshot, new_key: str) -> None:
    """But it is refused what the rewrap would be refused."""
    before = stored(site, source)
    rewrap_snapshot(site, source.snapshot_id, new_key, dry_run=True)
    site.kms.call("DisableKey", KeyId=new_key)
    with pytest.raises(KmsKeyDisabled):
        rewrap_snapshot(site, source.snapshot_id, new_key, dry_run=True)

    assert stored(site, source) == before
    assert site.catalog.snapshots.get(source.snapshot_id) == source


def test_a_plain_snapshot_has_nothing_to_wrap(site: Site, new_key: str) -> None:
    """The hint says how to get an encrypted one."""
    plain = contents.snapshot_of(site, contents.filled_volume(site, None))

    with pytest.raises(StateError, match="not encrypted") as caught:
        rewrap_snapshot(site, plain.snapshot_id, new_key)

    assert "snapshot copy" in str(caught.value.hint)


def test_a_wrapped_key_of_another_data_key_is_not_taken(
    site: Site, source: Snapshot, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens, and would be the end of the snapshot."""
    before = stored(site, source)
    context = encryption_context(source.volume_id)

    def other(*_: object, **__: object) -> WrappedKey:
        return site.kms.generate_data_key_without_plaintext(new_key, context)

    monkeypatch.setattr(site.kms, "re_encrypt", other)
    with pytest.raises(KeyMismatch, match="not to the snapshot's data key"):
        rewrap_snapshot(site, source.snapshot_id, new_key)

    assert stored(site, source) == before


@pytest.mark.parametrize("point", ["rewrap.proven", "rewrap.noted", "rewrap.described"])
def test_killed_anywhere_it_has_one_key_or_the_other(
    site: Site, source: Snapshot, new_key: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """It can be read at once, by who comes before any recovery; then catalog and store agree."""

    def reach(name: str) -> None:
        if name == point:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(faultpoints, "reach", reach)
        with pytest.raises(Killed):
            rewrap_snapshot(site, source.snapshot_id, new_key)
    assert not verify_snapshot(site).damage

    recover(site)

    now = site.catalog.snapshots.get(source.snapshot_id)
    assert now.kms_key_arn == (new_key if point == "rewrap.described" else source.kms_key_arn)
    assert site.catalog.snapshots.unsettled() == []
    assert is_sound(site, now)


def test_a_store_that_fails_leaves_the_rewrap_to_be_settled(
    site: Site, source: Snapshot, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it took the manifest is looked at later, by the next command."""
    with monkeypatch.context() as patch:

        def fails(*_: object) -> None:
            raise StoreError("the store went away")

        patch.setattr(Store, "replace_manifest", fails)
        with pytest.raises(StoreError):
            rewrap_snapshot(site, source.snapshot_id, new_key)
    assert site.catalog.snapshots.rewrap(source.snapshot_id) is not None

    assert rewrap_snapshot(site, source.snapshot_id, new_key).kms_key_arn == new_key
    assert is_sound(site, source)


def test_a_third_manifest_is_never_taken(site: Site, source: Snapshot, new_key: str, at: At) -> None:
    """While a rewrap is under way two manifests will do; an older one of ours, put back by somebody, will not."""
    first = stored(site, source)
    now = rewrap_snapshot(site, source.snapshot_id, new_key)

    def put_back() -> None:
        with closing(open_store(site.settings, now.store)) as store:
            store.replace_manifest(now.snapshot_id, first)

    at("rewrap.described", put_back)
    rewrap_snapshot(site, source.snapshot_id, new_key)

    with pytest.raises(ManifestNotAuthentic):
        create_volume(site, VolumeRequest(snapshot_id=source.snapshot_id))


def test_one_that_is_being_deleted_is_not_rewrapped(site: Site, source: Snapshot, new_key: str, at: At) -> None:
    """A deletion that begins while KMS is asked: the manifest stays what it was until it goes."""
    before = stored(site, source)
    at("rewrap.proven", lambda: site.catalog.snapshots.begin_deletion(source.snapshot_id))

    with pytest.raises(StateError, match="being deleted"):
        rewrap_snapshot(site, source.snapshot_id, new_key)

    assert stored(site, source) == before

"""`rebuild_snapshots`: lose the catalog, and the manifests tell which snapshots there are."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import StoreSettings
from ebscrypt.control.rebuild import Outcome, rebuild_catalog
from ebscrypt.control.rebuild_snapshots import rebuild_snapshots
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.model import Volume
from tests.unit.control import storing_inline
from tests.unit.control.storing_inline import Started, block, snapshot_bytes, stored_bytes, write_blocks


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


def lose_catalog(site: Site) -> None:
    site.forget_catalog()
    for path in site.settings.catalog_path.parent.glob("catalog.db*"):
        path.unlink()


def test_every_snapshot_comes_back(site: Site, volume: Volume, plain_volume: Volume, tmp_path: Path) -> None:
    """From every store, as it was but for its tags; the lineage too, also for the volume's next snapshot."""
    write_blocks(volume, {0: block(0), 15: block(1)})
    named = StoreSettings(urls={"far": (tmp_path / "far").as_uri()})
    with Site(msgspec.structs.replace(site.settings, stores=named)) as wide:
        lost = [
            storing_inline.take(wide, volume, description="nightly"),
            storing_inline.take(wide, volume),
            storing_inline.take(wide, plain_volume, store="far"),
        ]
        lose_catalog(site)
        lose_catalog(wide)

        found = rebuild_snapshots(wide)

        assert {(one.snapshot_id, one.result) for one in found} == {
            (snapshot.snapshot_id, Outcome.ADDED) for snapshot in lost
        }
        assert wide.catalog.snapshots.list() == lost
        assert {one.result for one in rebuild_snapshots(wide)} == {Outcome.KNOWN}
        assert snapshot_bytes(wide, lost[0]) == stored_bytes(volume)
        rebuild_catalog(wide)
        assert storing_inline.take(wide, volume).data_encryption_key_id == lost[0].data_encryption_key_id


def test_snapshots_of_others_are_left_alone(site: Site, volume: Volume) -> None:
    """A shared store: what does not bear our tag is counted in a note, and is no failure."""
    storing_inline.take(site, volume)
    lose_catalog(site)
    site.settings.manifest_key_path.unlink()

    assert rebuild_snapshots(site) == []
    assert site.catalog.snapshots.list() == []
    assert any("1 snapshots" in note for note in site.notes)


def test_what_cannot_be_read_is_told(site: Site, volume: Volume) -> None:
    """A damaged manifest by its snapshot, a store that is not there by its name; the rest is entered."""
    damaged, sound = storing_inline.take(site, volume), storing_inline.take(site, volume)
    lose_catalog(site)
    path = site.settings.snapshots_dir / "manifests" / f"{damaged.snapshot_id}.manifest"
    path.write_bytes(path.read_bytes()[:-1])
    named = StoreSettings(urls={"gone": "file:///proc/nowhere"})

    with Site(msgspec.structs.replace(site.settings, stores=named)) as wide:
        found = {one.snapshot_id or one.path: one.result for one in rebuild_snapshots(wide)}

    assert found == {damaged.snapshot_id: Outcome.REFUSED, sound.snapshot_id: Outcome.ADDED, "gone": Outcome.REFUSED}


def test_no_store_is_no_failure(site: Site, volume: Volume) -> None:
    """Who never made a snapshot has none."""
    assert volume.volume_id
    assert rebuild_snapshots(site) == []


def test_a_pending_snapshot_is_known(site: Site, volume: Volume) -> None:
    """Rebuilding beside it, when its manifest is there already, enters nothing twice."""
    done = storing_inline.take(site, volume)
    pending = create_snapshot(site, volume.volume_id)

    [found] = rebuild_snapshots(site)

    assert (found.snapshot_id, found.result) == (done.snapshot_id, Outcome.KNOWN)
    assert site.catalog.snapshots.get(pending.snapshot_id) == pending

"""`copy_snapshot` from one Region to another: two catalogs, two KMS, two stores, each with its own manifest key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import RegionSettings, Settings
from ebscrypt.control import faultpoints, regions
from ebscrypt.control.copy_snapshot import CopyRequest, copy_snapshot
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import delete_snapshot
from ebscrypt.errors import ConfigError, CopyLimit, InvalidParameter
from ebscrypt.model import Snapshot, SnapshotState, encryption_context, new_snapshot_id
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import At

pytestmark = pytest.mark.usefixtures("unwraps_here")

HERE, ELSEWHERE = "eu-central-1", "eu-west-1"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """They name another Region's, which name these."""
    here, there = tmp_path / "here.toml", tmp_path / "elsewhere.toml"
    state, runtime = Path(settings.paths.state), Path(settings.paths.runtime)
    here.write_text(_file(HERE, state, runtime, ELSEWHERE, there))
    there.write_text(_file(ELSEWHERE, state / "elsewhere", runtime / "elsewhere", HERE, here))
    return msgspec.structs.replace(settings, regions=RegionSettings(files={ELSEWHERE: str(there)}))


def _file(region: str, state: Path, runtime: Path, other: str, other_file: Path) -> str:
    return (
        f'[paths]\nstate = "{state}"\nruntime = "{runtime}"\n'
        f'[kms]\nregion = "{region}"\naccount = "111122223333"\n'
        f'[regions.files]\n{other} = "{other_file}"\n'
    )


@pytest.fixture
def elsewhere(site: Site) -> Iterator[Site]:
    with regions.site_of(site, ELSEWHERE) as other:
        yield other


def asked_of(source: Snapshot, kms_key_id: str | None = None) -> CopyRequest:
    return CopyRequest(source_snapshot_id=source.snapshot_id, kms_key_id=kms_key_id)


def test_a_copy_elsewhere_needs_nothing_of_where_it_came_from(site: Site, elsewhere: Site, source: Snapshot) -> None:
    """Under the other Region's default key, by a data key of its own; its source's deletion takes nothing from it."""
    copy = copy_snapshot(elsewhere, asked_of(source), source_site=site)
    delete_snapshot(site, source.snapshot_id)

    assert elsewhere.catalog.snapshots.get(copy.snapshot_id) == copy
    assert site.catalog.snapshots.list() == []
    assert f":{ELSEWHERE}:" in str(copy.kms_key_arn)
    assert copy.data_encryption_key_id != source.data_encryption_key_id
    encryption = contents.manifest_of(elsewhere, copy).header.encryption
    assert encryption is not None
    assert encryption.encryption_context == encryption_context(copy.snapshot_id)
    assert contents.read_snapshot(elsewhere, copy) == contents.expected()
    assert contents.pins_in(site) == contents.pins_in(elsewhere) == []
    restored = create_volume(elsewhere, VolumeRequest(snapshot_id=copy.snapshot_id))
    assert contents.read(elsewhere, restored) == contents.expected()


def test_the_event_is_the_destinations_and_names_the_source_with_its_region(
    site: Site, elsewhere: Site, source: Snapshot
) -> None:
    """As EBS: a full copy, told where it was made (facts §3.3)."""
    before = len(site.catalog.events())

    copy = copy_snapshot(elsewhere, asked_of(source), source_site=site)

    event = contents.last_event(elsewhere)
    assert event["region"] == ELSEWHERE
    assert event["resources"] == [f"arn:aws:ec2::{ELSEWHERE}:snapshot/{copy.snapshot_id}"]
    assert event["detail"]["source"] == f"arn:aws:ec2::eu-central-1:snapshot/{source.snapshot_id}"
    assert event["detail"]["incremental"] == "false"
    assert len(site.catalog.events()) == before


def test_a_copy_that_died_lets_go_of_its_source_in_the_other_region(
    site: Site, elsewhere: Site, source: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command in the destination ends it in ``error``, and releases what it had pinned at the source."""

    def die(point: str) -> None:
        if point == "copy.moved":
            raise SystemExit

    # What a killed process leaves: nothing is taken back.
    monkeypatch.setattr("ebscrypt.control.copy_snapshot.undo_copy", lambda *_, **__: None)
    monkeypatch.setattr("ebscrypt.control.snapshot_source._release", lambda *_: None)
    monkeypatch.setattr("ebscrypt.control.copy_blocks.BlockCopier.release", lambda _: None)
    monkeypatch.setattr(faultpoints, "reach", die)
    with contextlib.suppress(SystemExit):
        copy_snapshot(elsewhere, asked_of(source), source_site=site)
    monkeypatch.undo()
    (copy,) = elsewhere.catalog.snapshots.list()
    assert copy.state is SnapshotState.PENDING
    assert contents.pins_in(site) == [copy.snapshot_id]

    recover(elsewhere)

    assert contents.pins_in(site) == []


def test_what_another_regions_settings_must_be(site: Site) -> None:
    """Unknown Regions, a file for another one, and a state directory that is shared are refused by name."""
    with pytest.raises(InvalidParameter, match="us-gov-west-1") as refused, regions.site_of(site, "us-gov-west-1"):
        pass
    assert "eu-central-1, eu-west-1" in str(refused.value.hint)
    file = Path(site.settings.regions.files[ELSEWHERE])
    good = file.read_text()
    file.write_text(good.replace(ELSEWHERE, "eu-north-1"))
    with pytest.raises(ConfigError, match="is for the Region eu-north-1"), regions.site_of(site, ELSEWHERE):
        pass
    file.write_text(f'[paths]\nstate = "{site.settings.paths.state}"\n[kms]\nregion = "{ELSEWHERE}"\n')
    with pytest.raises(ConfigError, match="has the state directory of eu-central-1"), regions.site_of(site, ELSEWHERE):
        pass


def test_twenty_copies_at_once_and_no_more(site: Site, source: Snapshot, at: At) -> None:
    """EBS's limit: the next one is refused with the code of the API; those of other kinds do not count."""
    pending = {"state": SnapshotState.PENDING, "digest": None, "completion_time": None}
    for number in range(20):
        copied_from = source.snapshot_id if number else None
        site.catalog.snapshots.add(
            msgspec.structs.replace(source, snapshot_id=new_snapshot_id(), copied_from=copied_from, **pending)
        )
    at("copy.published", lambda: None)
    last = copy_snapshot(site, asked_of(source))
    site.catalog.snapshots.add(msgspec.structs.replace(last, snapshot_id=new_snapshot_id(), **pending))

    with pytest.raises(CopyLimit, match="20 copies") as refused:
        copy_snapshot(site, asked_of(source))

    assert refused.value.api_code == "ResourceLimitExceeded"

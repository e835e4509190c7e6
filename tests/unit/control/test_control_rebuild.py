"""`rebuild_catalog`: lose the catalog, and the volumes tell what they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.rebuild import Outcome, rebuild_catalog
from ebscrypt.control.sidecar import sidecar_path
from ebscrypt.control.site import Site
from ebscrypt.errors import CatalogDamaged
from ebscrypt.model import MIB, Volume


def lose_catalog(site: Site) -> None:
    site.forget_catalog()
    for path in site.settings.catalog_path.parent.glob("catalog.db*"):
        path.unlink()


def untimed(volume: Volume) -> Volume:
    """A header knows neither when its volume was made nor its tags."""
    return msgspec.structs.replace(volume, create_time=volume.create_time.replace(year=2000), tags={})


def same(left: Volume, right: Volume) -> bool:
    time = left.create_time
    return msgspec.structs.replace(untimed(left), create_time=time) == msgspec.structs.replace(
        untimed(right), create_time=time
    )


def test_every_volume_comes_back(site: Site, volume: Volume, plain_volume: Volume, tmp_path: Path) -> None:
    """Our files, the plain one by its sidecar, and one elsewhere that was named."""
    elsewhere = create_volume(site, VolumeRequest(size=16 * MIB, backing=str(tmp_path / "mine.img"), sector_size=512))
    lose_catalog(site)

    found = rebuild_catalog(site, [str(tmp_path / "mine.img")])

    assert {place.result for place in found} == {Outcome.ADDED}
    for lost in (volume, plain_volume, elsewhere):
        assert same(site.catalog.volume(lost.volume_id), lost)
    assert site.catalog.volume(plain_volume.volume_id) == plain_volume


def test_a_block_device_comes_back(site: Site, make_loop: Callable[[int], str]) -> None:
    """By its header, as every other."""
    lost = create_volume(site, VolumeRequest(backing=make_loop(luks2.DATA_OFFSET + 8 * MIB)))
    lose_catalog(site)

    rebuild_catalog(site, [lost.backing])

    assert same(site.catalog.volume(lost.volume_id), lost)


def test_what_is_known_stays(site: Site, volume: Volume) -> None:
    """A rebuild over a good catalog changes nothing, tags included."""
    site.catalog.change_tags(volume.volume_id, lambda _: {"Name": "x"})

    [place] = rebuild_catalog(site)

    assert place.result is Outcome.KNOWN
    assert site.catalog.volume(volume.volume_id).tags == {"Name": "x"}


def test_a_damaged_catalog_is_set_aside(site: Site, volume: Volume) -> None:
    """Not removed: somebody may want to look at it."""
    site.forget_catalog()
    site.settings.catalog_path.write_bytes(b"no database" * 1000)
    with pytest.raises(CatalogDamaged):
        site.catalog.volumes()

    rebuild_catalog(site)

    assert same(site.catalog.volume(volume.volume_id), volume)
    [aside] = site.settings.catalog_path.parent.glob("catalog.db.damaged-*")
    assert aside.read_bytes().startswith(b"no database")
    assert any("was renamed" in note for note in site.notes)


def test_a_volume_that_moved_is_found_again(site: Site, volume: Volume, tmp_path: Path) -> None:
    """The header is at another place, and at the old one there is none: the catalog follows."""
    moved = Path(shutil.move(volume.backing, tmp_path / "moved.img"))

    [place] = rebuild_catalog(site, [str(moved)])

    assert place.result is Outcome.MOVED
    assert site.catalog.volume(volume.volume_id).backing == str(moved)
    assert not site.catalog.volume(volume.volume_id).backing_owned


def test_a_copy_is_not_taken_for_the_volume(site: Site, volume: Volume, tmp_path: Path) -> None:
    """Two backings with one header: the catalog's stays, the other is told."""
    copy = Path(shutil.copy(volume.backing, tmp_path / "copy.img"))

    places = rebuild_catalog(site, [str(copy)])

    assert [place.result for place in places] == [Outcome.KNOWN, Outcome.REFUSED]
    assert site.catalog.volume(volume.volume_id).backing == volume.backing


def test_what_is_no_volume_is_told_and_skipped(site: Site, volume: Volume, tmp_path: Path) -> None:
    """Other files do not stop the rebuild, and one with a damaged copy is still a volume."""
    (tmp_path / "other").write_bytes(b"something else")
    with Path(volume.backing).open("r+b") as file:
        file.seek(5000)
        file.write(b"????")
    lose_catalog(site)

    places = rebuild_catalog(site, [str(tmp_path / "other"), str(tmp_path / "missing")])

    assert [place.result for place in places] == [Outcome.ADDED, Outcome.REFUSED, Outcome.REFUSED]
    assert same(site.catalog.volume(volume.volume_id), volume)


def test_a_directory_of_volumes_can_be_named(site: Site, tmp_path: Path) -> None:
    """All that is in it, not below it."""
    (tmp_path / "many" / "below").mkdir(parents=True)
    made = [
        create_volume(site, VolumeRequest(size=8 * MIB, backing=str(tmp_path / "many" / f"{number}.img")))
        for number in range(3)
    ]
    lose_catalog(site)

    rebuild_catalog(site, [str(tmp_path / "many")])

    assert {volume.volume_id for volume in site.catalog.volumes()} == {volume.volume_id for volume in made}


@pytest.mark.parametrize("content", [b"{}", b"", b"{", b'{"Version": 1}'])
def test_a_sidecar_that_is_none_is_refused(site: Site, plain_volume: Volume, content: bytes) -> None:
    """Said, and nothing is entered."""
    sidecar_path(site.settings, plain_volume.volume_id).write_bytes(content)
    lose_catalog(site)

    [place] = rebuild_catalog(site)

    assert place.result is Outcome.REFUSED
    assert site.catalog.volumes() == []


def test_a_later_sidecar_is_refused(site: Site, plain_volume: Volume) -> None:
    """A version that we do not know may mean anything."""
    path = sidecar_path(site.settings, plain_volume.volume_id)
    path.write_text(path.read_text().replace('"Version":1', '"Version":2'))
    lose_catalog(site)

    [place] = rebuild_catalog(site)

    assert place.message is not None
    assert "version 2" in place.message


def test_a_foreign_sidecar_cannot_make_us_remove_a_foreign_file(
    site: Site, plain_volume: Volume, tmp_path: Path
) -> None:
    """It says that the file is ours; only files in our own directory are."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * plain_volume.size)
    own = sidecar_path(site.settings, plain_volume.volume_id)
    foreign = tmp_path / "foreign.json"
    foreign.write_text(own.read_text().replace(plain_volume.backing, str(victim)))
    own.unlink()
    lose_catalog(site)

    rebuild_catalog(site, [str(foreign)])
    delete_volume(site, plain_volume.volume_id)

    assert victim.exists()

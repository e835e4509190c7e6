"""`resize_volume` of a detached volume: it grows in every part, or in none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.config import Settings
from ebscrypt.control import faultpoints
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.sidecar import read_sidecar, sidecar_path
from ebscrypt.control.site import Site
from ebscrypt.errors import BackingError, EbscryptError, InvalidParameter, OutOfSpace, StateError
from ebscrypt.model import MIB, TIB, Volume, VolumeState


def described_size(volume: Volume) -> int | None:
    descriptor = os.open(volume.backing, os.O_RDONLY)
    try:
        return luks2.read_header(descriptor, volume_id=volume.volume_id).header.segment().size
    finally:
        os.close(descriptor)


def test_file_header_and_catalog_grow(site: Site, volume: Volume) -> None:
    """All three have the new size, and no resize is under way."""
    resized = resize_volume(site, volume.volume_id, 32 * MIB)

    assert resized.size == 32 * MIB
    assert described_size(volume) == 32 * MIB
    assert Path(volume.backing).stat().st_size == luks2.DATA_OFFSET + 32 * MIB
    assert site.catalog.resizes() == {}


def test_a_plain_volume_grows_with_its_sidecar(site: Site, plain_volume: Volume) -> None:
    """Its description is in the sidecar."""
    resize_volume(site, plain_volume.volume_id, 32 * MIB)

    assert Path(plain_volume.backing).stat().st_size == 32 * MIB
    assert read_sidecar(sidecar_path(site.settings, plain_volume.volume_id)).size == 32 * MIB


def test_a_volume_on_a_device_grows_within_it(site: Site, make_loop: Callable[[int], str]) -> None:
    """The device must be long enough already: if not, nothing changes and the hint says what to do."""
    volume = create_volume(site, VolumeRequest(backing=make_loop(luks2.DATA_OFFSET + 16 * MIB), size=8 * MIB))

    with pytest.raises(OutOfSpace, match="room for a volume of") as caught:
        resize_volume(site, volume.volume_id, 32 * MIB)
    assert caught.value.hint is not None
    assert "enlarge the block device" in caught.value.hint
    assert described_size(volume) == 8 * MIB
    resize_volume(site, volume.volume_id, 16 * MIB)

    assert described_size(volume) == 16 * MIB


def test_the_same_size_changes_nothing(site: Site, volume: Volume) -> None:
    """No new header state is written."""
    before = Path(volume.backing).read_bytes()

    assert resize_volume(site, volume.volume_id, volume.size) == volume

    assert Path(volume.backing).read_bytes() == before


@pytest.mark.parametrize(
    ("size", "text"),
    [(4 * MIB, "cannot shrink"), (0, "not positive"), (8 * MIB + 512, "not a multiple"), (65 * TIB, "largest volume")],
)
def test_impossible_sizes_are_refused(site: Site, volume: Volume, size: int, text: str) -> None:
    """A volume never shrinks, and has the limits of a new one."""
    with pytest.raises(InvalidParameter, match=text):
        resize_volume(site, volume.volume_id, size)

    assert described_size(volume) == volume.size
    assert site.catalog.resizes() == {}


def test_a_full_disk_leaves_the_old_size(settings: Settings, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header cannot be written: header, file length and catalog are what they were."""
    monkeypatch.setattr(Settings, "volumes_dir", property(lambda _: small_disk / "volumes"))
    with Site(settings) as site:
        volume = create_volume(site, VolumeRequest(size=8 * MIB))

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(luks2, "write_header", full)
            with pytest.raises(OutOfSpace):
                resize_volume(site, volume.volume_id, 32 * MIB)

        assert site.catalog.volume(volume.volume_id).size == 8 * MIB
        assert site.catalog.resizes() == {}
        assert Path(volume.backing).stat().st_size == luks2.DATA_OFFSET + 8 * MIB
        assert described_size(volume) == 8 * MIB


def test_a_file_that_cannot_be_so_long_is_explained(site: Site, volume: Volume) -> None:
    """ext4's limit, and everything as it was."""
    with pytest.raises(BackingError, match="larger than a file"):
        resize_volume(site, volume.volume_id, 20 * TIB)

    assert site.catalog.volume(volume.volume_id).size == volume.size
    assert site.catalog.resizes() == {}


def test_a_failure_after_the_header_is_finished_by_the_next_command(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is what the volume is: once it has the new size, there is no way back, only on."""

    def strike(name: str) -> None:
        if name == "resize.described":
            raise EbscryptError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(faultpoints, "reach", strike)
        with pytest.raises(EbscryptError, match="out of luck"):
            resize_volume(site, volume.volume_id, 32 * MIB)
    assert site.catalog.resizes() == {volume.volume_id: 32 * MIB}

    recover(site)

    assert site.catalog.volume(volume.volume_id).size == 32 * MIB
    assert site.catalog.resizes() == {}


def test_a_volume_in_another_state_is_refused(site: Site, volume: Volume) -> None:
    """Neither one being deleted nor one whose daemon has died."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    with pytest.raises(StateError, match="has died"):
        resize_volume(site, volume.volume_id, 32 * MIB)
    site.catalog.change_state(volume.volume_id, VolumeState.IN_USE, VolumeState.AVAILABLE)
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)

    with pytest.raises(StateError, match="is deleting"):
        resize_volume(site, volume.volume_id, 32 * MIB)


def test_cryptsetup_sees_the_new_size(site: Site, volume: Volume) -> None:
    """The header stays one that cryptsetup reads."""
    resize_volume(site, volume.volume_id, 32 * MIB)

    ran = subprocess.run(["cryptsetup", "luksDump", volume.backing], capture_output=True, text=True, check=True)

    assert f"length: {32 * MIB} [bytes]" in ran.stdout

"""What every use case on one volume begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebscrypt.control import locks
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.check import check_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.detach import detach_volume
from ebscrypt.control.operation import on_volume
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.site import Site
from ebscrypt.control.unit import STEPS, run_step
from ebscrypt.errors import InvalidParameter, StateError, VolumeNotFound
from ebscrypt.model import MIB, Volume

UNKNOWN = "vol-00000000000000000"


USE_CASES = ("attach", "detach", "delete", "check", "resize", *STEPS)


def call(name: str, site: Site, volume_id: str) -> None:
    match name:
        case "attach":
            attach_volume(site, volume_id)
        case "detach":
            detach_volume(site, volume_id)
        case "delete":
            delete_volume(site, volume_id)
        case "check":
            check_volume(site, volume_id)
        case "resize":
            resize_volume(site, volume_id, MIB)
        case _:
            run_step(site, name, volume_id)


@pytest.mark.parametrize("name", USE_CASES)
def test_an_unknown_volume_leaves_no_trace(site: Site, name: str) -> None:
    """Not found, whatever was asked, and no lock file for what is not there."""
    with pytest.raises(VolumeNotFound, match=UNKNOWN):
        call(name, site, UNKNOWN)

    assert not Path(site.settings.paths.state, "locks").exists()


@pytest.mark.parametrize("name", USE_CASES)
@pytest.mark.parametrize("text", ["", "vol-", "../../etc/passwd", "vol-0123456789ABCDEF0", "vol-" + "0" * 10_000])
def test_what_is_no_id_is_no_path_either(site: Site, name: str, text: str) -> None:
    """Refused before anything is made of it, and shown short."""
    with pytest.raises(InvalidParameter, match="not a volume id") as caught:
        call(name, site, text)

    assert len(caught.value.message) < 150


def test_a_volume_that_goes_while_we_wait_leaves_no_lock(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock file of the deleted volume is not made anew."""
    held = locks.held

    def held_after_deletion(*arguments: object, **options: object) -> object:
        monkeypatch.setattr(locks, "held", held)
        delete_volume(site, volume.volume_id)
        return held(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(locks, "held", held_after_deletion)

    with pytest.raises(VolumeNotFound), on_volume(site, volume.volume_id, "resize"):
        pass

    assert not locks.lock_path(site.settings, volume.volume_id).exists()


def test_a_busy_volume_is_told(site: Site, volume: Volume) -> None:
    """By `locks.held`'s own words."""
    with (
        locks.held(site.settings, volume.volume_id, "resize"),
        pytest.raises(StateError, match="`resize`"),
        locks.held(site.settings, volume.volume_id, "delete", timeout=0),
    ):
        pass

"""Rewraps that a crash cut off: the header tells which key the volume has, and the catalog follows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ebscrypt.control import runtime
from ebscrypt.control.recover import recover
from ebscrypt.control.rewrap import reencrypted, rewrap_volume
from ebscrypt.control.site import Site
from ebscrypt.control.unit import run_step
from ebscrypt.model import Volume
from tests.unit.control.sealing import expect_key, token_of, write_token

pytestmark = pytest.mark.usefixtures("unwrapping")


def write_new(site: Site, volume: Volume, key: str) -> None:
    """What `rewrap` puts in the header."""
    write_token(volume, **msgspec.structs.asdict(reencrypted(site, token_of(volume), key)))


def test_before_the_header_the_old_key_stays(site: Site, volume: Volume, new_key: str) -> None:
    """Only the note was made: it goes."""
    site.catalog.keys.begin_rewrap(volume.volume_id, new_key)

    recover(site)

    expect_key(site, volume, volume.kms_key_arn)
    assert site.notes == [
        f"the rewrap of {volume.volume_id} was interrupted: its data key is wrapped by {volume.kms_key_arn}"
    ]


def test_after_the_header_the_new_key_stays(site: Site, volume: Volume, new_key: str) -> None:
    """The catalog gets what the header has."""
    site.catalog.keys.begin_rewrap(volume.volume_id, new_key)
    write_new(site, volume, new_key)

    recover(site)

    expect_key(site, volume, new_key)


@pytest.mark.parametrize("written", [False, True], ids=["before-the-header", "after-the-header"])
def test_the_same_key_either_way(site: Site, volume: Volume, *, written: bool) -> None:
    """Old and new wrapped key are of one KMS key: there is nothing to decide."""
    key = str(volume.kms_key_arn)
    site.catalog.keys.begin_rewrap(volume.volume_id, key)
    if written:
        write_new(site, volume, key)

    recover(site)

    expect_key(site, volume, key)


def test_a_header_of_a_third_key_is_not_believed(site: Site, volume: Volume, new_key: str) -> None:
    """Somebody else wrote it: the catalog keeps the old key, so that no daemon serves that."""
    third = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    site.catalog.keys.begin_rewrap(volume.volume_id, new_key)
    write_new(site, volume, third)

    recover(site)

    assert site.catalog.volume(volume.volume_id).kms_key_arn == volume.kms_key_arn
    assert site.catalog.keys.rewraps() == {}


def test_while_the_backing_is_away_it_waits(site: Site, volume: Volume, new_key: str) -> None:
    """A note, no error; when the backing is back, it is put in order."""
    site.catalog.keys.begin_rewrap(volume.volume_id, new_key)
    write_new(site, volume, new_key)
    aside = Path(volume.backing).rename(f"{volume.backing}.aside")

    recover(site)
    assert any("could not be put in order" in note for note in site.notes)
    assert site.catalog.keys.rewraps() == {volume.volume_id: new_key}
    aside.rename(volume.backing)
    recover(site)

    expect_key(site, volume, new_key)


def test_the_next_rewrap_finishes_the_last_one(site: Site, volume: Volume, new_key: str) -> None:
    """Without a `recover` before it, as a program may call it."""
    site.catalog.keys.begin_rewrap(volume.volume_id, new_key)
    write_new(site, volume, new_key)
    third = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])

    rewrap_volume(site, volume.volume_id, third)

    expect_key(site, volume, third)


@pytest.mark.parametrize("written", [False, True], ids=["before-the-header", "after-the-header"])
def test_a_daemon_that_systemd_restarts_gets_the_headers_key(
    site: Site, volume: Volume, new_key: str, *, written: bool
) -> None:
    """The unit's ExecStartPre runs no `recover`: it settles the rewrap itself, so the daemon finds what it was told."""
    site.catalog.keys.begin_rewrap(volume.volume_id, new_key)
    if written:
        write_new(site, volume, new_key)

    run_step(site, "prepare", volume.volume_id)

    spec = runtime.directory(site.settings, volume.volume_id).read_spec()
    assert spec.kms_key_arn == token_of(volume).kms_key_arn == (new_key if written else volume.kms_key_arn)
    assert site.catalog.keys.rewraps() == {}

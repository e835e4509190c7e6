"""What cannot be re-encrypted, and what a volume on its way cannot do: refused with what to do, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.config import Settings
from ebscrypt.control import headers, reencrypting
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.reencrypt import reencrypt_volume
from ebscrypt.control.reencrypting import settle_reencryption
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.rewrap import rewrap_volume
from ebscrypt.control.site import Site
from ebscrypt.control.snapshots import create_snapshot
from ebscrypt.errors import (
    HeaderUnsupported,
    KeyMismatch,
    KmsKeyDisabled,
    KmsUnreachable,
    StateError,
    VolumeInUse,
)
from ebscrypt.model import MIB, Volume, VolumeState
from tests.unit.control.from_snapshots import contents
from tests.unit.control.from_snapshots.contents import UnwrapsHere


def test_a_plain_volume(site: Site) -> None:
    """There is no key to change."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB, encrypted=False))

    with pytest.raises(StateError, match="is not encrypted"):
        reencrypt_volume(site, volume.volume_id)


def test_an_attached_volume(site: Site, volume: Volume) -> None:
    """Its daemon has the old key."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    with pytest.raises(VolumeInUse, match="only detached volumes are re-encrypted"):
        reencrypt_volume(site, volume.volume_id)


def test_a_volume_with_keyslots(site: Site, volume: Volume) -> None:
    """A passphrase that holds the old data key would open noise."""
    keyslot = {"type": "luks2", "key_size": 64, "area": {"type": "raw", "offset": "32768", "size": "258048"}}
    with headers.writable(volume) as descriptor:
        header = luks2.read_header(descriptor).header
        metadata = header.metadata | {"keyslots": {"0": keyslot}}
        luks2.write_header(descriptor, msgspec.structs.replace(header, metadata=metadata))
    before = Path(volume.backing).read_bytes()

    with pytest.raises(StateError, match=r"has keyslots \(0\)") as refused:
        reencrypt_volume(site, volume.volume_id)

    assert "recovery remove" in str(refused.value.hint)
    assert Path(volume.backing).read_bytes() == before
    assert site.catalog.keys.rewraps() == {}


def test_a_key_that_kms_refuses(site: Site, volume: Volume, new_key: str, untouched: Callable[[], None]) -> None:
    """Not a byte of the volume changes."""
    site.kms.call("DisableKey", KeyId=new_key)

    with pytest.raises(KmsKeyDisabled):
        reencrypt_volume(site, volume.volume_id, new_key)

    untouched()


@pytest.mark.parametrize("calls", [0, 1])
def test_kms_that_goes_away_in_between(
    site: Site, volume: Volume, untouched: Callable[[], None], unwraps_here: UnwrapsHere, calls: int
) -> None:
    """Both keys are unwrapped before anything is written."""
    left = iter([unwraps_here.unwrap] * calls)

    def unwrap(*arguments: Any, **options: Any) -> list[str]:
        answer = next(left, None)
        if answer is None:
            raise KmsUnreachable("KMS did not answer")
        return answer(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebscrypt.kms.unwrap.unwrap_key", unwrap)
        with pytest.raises(KmsUnreachable):
            reencrypt_volume(site, volume.volume_id)

    untouched()


@pytest.mark.parametrize(
    "use",
    [
        lambda site, volume: attach_volume(site, volume.volume_id),
        lambda site, volume: rewrap_volume(site, volume.volume_id, str(volume.kms_key_arn)),
        lambda site, volume: resize_volume(site, volume.volume_id, 2 * volume.size),
        lambda site, volume: create_snapshot(site, volume.volume_id),
    ],
    ids=["attach", "rewrap", "resize", "snapshot"],
)
def test_what_has_to_wait(site: Site, volume: Volume, use: Callable[[Site, Volume], object]) -> None:
    """A half-turned volume has two keys: whoever needs one is told what is under way, and how it goes on."""
    reencrypt_volume(site, volume.volume_id)
    before = Path(volume.backing).read_bytes()

    with pytest.raises(HeaderUnsupported, match="is being re-encrypted") as refused:
        use(site, volume)

    assert "ebscrypt reencrypt" in str(refused.value.hint)
    assert Path(volume.backing).read_bytes() == before
    assert site.catalog.volume(volume.volume_id) == volume
    assert site.catalog.resizes() == {}


def test_on_the_way_to_another_key(site: Site, volume: Volume, new_key: str) -> None:
    """There is one target until it is reached."""
    reencrypt_volume(site, volume.volume_id)

    with pytest.raises(StateError, match="is being re-encrypted under"):
        reencrypt_volume(site, volume.volume_id, new_key)
    assert reencrypt_volume(site, volume.volume_id, str(volume.kms_key_arn)).target_kms_key_id == volume.kms_key_arn


def test_a_failure_is_told_and_not_tried_by_every_command(
    site: Site, volume: Volume, new_key: str, started: list[str]
) -> None:
    """KMS refuses when the data is to be turned: `reencrypt` goes on when that is mended, nothing else tries."""
    contents.write(site, volume, {0: b"x" * 4096})
    reencrypt_volume(site, volume.volume_id, new_key)
    site.kms.call("DisableKey", KeyId=new_key)

    settle_reencryption(site, volume.volume_id)

    found = reencrypting.describe(site, volume)
    assert found is not None
    assert found.failure is not None
    assert new_key in found.failure
    recover(site)
    assert started == [volume.volume_id]
    with pytest.raises(StateError, match="has stopped"):
        reencrypting.wait_for(site, volume.volume_id)
    site.kms.call("EnableKey", KeyId=new_key)
    reencrypt_volume(site, volume.volume_id)
    settle_reencryption(site, volume.volume_id)
    assert reencrypting.wait_for(site, volume.volume_id).bytes_done == volume.size
    assert contents.read(site, site.catalog.volume(volume.volume_id))[:4096] == b"x" * 4096


def test_a_target_that_nobody_asked_for(site: Site, volume: Volume, new_key: str, started: list[str]) -> None:
    """A header that came to be on its way is not believed: the user has to name that KMS key himself."""
    reencrypt_volume(site, volume.volume_id, new_key)
    site.catalog.keys.end_rewrap(volume.volume_id, str(volume.kms_key_arn))
    started.clear()

    with pytest.raises(KeyMismatch, match="of which the catalog knows nothing"):
        reencrypt_volume(site, volume.volume_id)
    recover(site)
    assert started == []

    reencrypt_volume(site, volume.volume_id, new_key)
    settle_reencryption(site, volume.volume_id)
    assert site.catalog.volume(volume.volume_id).kms_key_arn == new_key


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_key_that_the_catalog_does_not_know(site: Site, volume: Volume, new_key: str, side: str) -> None:
    """Who can write to the backing must choose neither of the two KMS keys."""
    reencrypt_volume(site, volume.volume_id)
    with headers.writable(volume) as descriptor:
        header = luks2.read_header(descriptor, reencrypting=True).header
        if side == "old":
            changed = header.with_token_field("kms_key_arn", new_key)
        else:
            field = header.token_field("reencryption") | {"kms_key_arn": new_key}
            changed = header.with_token_field("reencryption", field)
        luks2.write_header(descriptor, changed, reencrypting=True)

    settle_reencryption(site, volume.volume_id)

    found = reencrypting.describe(site, volume)
    assert found is not None
    assert "corrupted or tampered with" in str(found.failure)
    assert found.bytes_done == 0


def test_a_journal_that_is_gone(site: Site, volume: Volume) -> None:
    """Without it nobody knows which sector has which key: nothing is turned twice."""
    contents.write(site, volume, {0: b"x" * 4096})
    reencrypt_volume(site, volume.volume_id)
    with Path(volume.backing).open("r+b") as file:
        file.seek(2 * luks2.COPY_SIZE)
        file.write(bytes(8192))
    before = Path(volume.backing).read_bytes()

    settle_reencryption(site, volume.volume_id)

    found = reencrypting.describe(site, volume)
    assert found is not None
    assert found.failure is not None
    assert "journal" in found.failure
    assert "corrupted or tampered with" in found.failure
    assert Path(volume.backing).read_bytes() == before


def test_nothing_to_wait_for(site: Site, volume: Volume, settings: Settings) -> None:
    """A volume that is not being re-encrypted is at its end; one that nobody works on is said to be so."""
    assert reencrypting.wait_for(site, volume.volume_id).target_kms_key_id == volume.kms_key_arn
    reencrypt_volume(site, volume.volume_id)
    impatient = msgspec.structs.replace(settings, attach=msgspec.structs.replace(settings.attach, start_timeout=0.01))
    with Site(impatient) as other, pytest.raises(StateError, match="nothing re-encrypts"):
        reencrypting.wait_for(other, volume.volume_id, poll=0.02)

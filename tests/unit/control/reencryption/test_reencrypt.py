"""`reencrypt_volume` and what it starts: another data key, the same content, and nothing left of the old key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ebscrypt import luks2
from ebscrypt.control import headers, reencrypting, storing
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.delete import delete_volume
from ebscrypt.control.rebuild import rebuild_catalog
from ebscrypt.control.recover import recover
from ebscrypt.control.reencrypt import reencrypt_volume
from ebscrypt.control.reencrypting import settle_reencryption
from ebscrypt.control.site import Site
from ebscrypt.errors import VolumeNotFound
from ebscrypt.kms.client import KmsClient
from ebscrypt.luks2 import journal, reencryption
from ebscrypt.model import MIB, Volume, VolumeState
from tests.unit.control.from_snapshots import contents
from tests.unit.control.reencryption.conftest import Interrupted
from tests.unit.control.sealing import seal


def data_key_of(site: Site, volume: Volume) -> bytes:
    """The data key itself, which only a test ever has as bytes."""
    token = headers.read(volume).header.token()
    return KmsClient(site.settings).decrypt(token.wrapped_key, token.encryption_context).plaintext


def deciphered(stored: bytes, key: bytes, sector_size: int) -> bytes:
    """What the data area is under a key, by an XTS that is not ours; stored zeros are a hole."""
    plain = bytearray(len(stored))
    for at in range(0, len(stored), sector_size):
        sector = stored[at : at + sector_size]
        if any(sector):
            tweak = modes.XTS((at // 512).to_bytes(16, "little"))
            plain[at : at + sector_size] = Cipher(algorithms.AES(key), tweak).decryptor().update(sector)
    return bytes(plain)


def stored_bytes(volume: Volume) -> bytes:
    return Path(volume.backing).read_bytes()[luks2.DATA_OFFSET :]


def reencrypted(site: Site, volume: Volume, kms_key_id: str | None = None) -> Volume:
    reencrypt_volume(site, volume.volume_id, kms_key_id)
    settle_reencryption(site, volume.volume_id)
    return site.catalog.volume(volume.volume_id)


@pytest.mark.parametrize("sealed", [False, True], ids=["never-attached", "sealed"])
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_all_sectors_have_the_new_key(site: Site, sector_size: int, *, sealed: bool) -> None:
    """By an independent cipher: the new key opens every sector, the old one none, and holes are holes as before."""
    volume = contents.filled_volume(site, "alias/aws/ebs", sector_size=sector_size)
    if sealed:
        seal(site, volume)
    old_key, before = data_key_of(site, volume), stored_bytes(volume)
    blocks = Path(volume.backing).stat().st_blocks

    after = reencrypted(site, volume)

    new_key, stored = data_key_of(site, after), stored_bytes(after)
    assert new_key != old_key
    assert deciphered(stored, new_key, sector_size) == contents.expected()
    wrong = deciphered(stored, old_key, sector_size)
    for at in range(0, len(stored), sector_size):
        was, now = before[at : at + sector_size], stored[at : at + sector_size]
        assert any(was) == any(now)
        assert not any(now) or now != was
        assert not any(now) or wrong[at : at + sector_size] != contents.expected()[at : at + sector_size]
    # The journal was written; the data takes no more than it did.
    assert Path(after.backing).stat().st_blocks <= blocks + journal.LARGEST // 512 + 64


def test_header_and_catalog_are_as_of_any_volume(site: Site, filled: Volume, new_key: str) -> None:
    """Nothing tells of it in the end but the other keys: no requirement, no journal, no note, no old wrapped key."""
    before = headers.read(filled).header

    volume = reencrypted(site, filled, new_key)

    after = headers.read(volume).header
    assert volume.kms_key_arn == after.token().kms_key_arn == new_key
    assert after.token().sealed
    assert after.token().data_encryption_key_id != before.token().data_encryption_key_id
    assert set(after.metadata) == set(before.metadata)
    assert after.metadata["config"] == before.metadata["config"]
    assert set(after.metadata["tokens"]["0"]) == set(before.metadata["tokens"]["0"])
    with Path(volume.backing).open("rb") as file:
        file.seek(2 * luks2.COPY_SIZE)
        assert not any(file.read(luks2.DATA_OFFSET - 2 * luks2.COPY_SIZE))
    assert site.catalog.keys.rewraps() == {}
    assert reencrypting.noted(site, volume) is None
    assert not list((Path(site.settings.paths.state) / "reencryptions").iterdir())
    findings = check_volume(site, volume.volume_id, unwrap=True)
    assert {finding.result for finding in findings} == {Result.OK}, findings


def test_a_block_device(site: Site, make_loop: Callable[[int], str]) -> None:
    """As a file."""
    volume = contents.filled_volume(site, "alias/aws/ebs", size=None, backing=make_loop(32 * MIB))

    assert contents.read(site, reencrypted(site, volume)) == contents.expected(volume.size)


def test_every_interruption_is_taken_up(
    site: Site, filled: Volume, new_key: str, interrupt: Callable[[int], list[str]]
) -> None:
    """Wherever it ends, the next command goes on or nothing has begun; content and keys are right after each."""
    seen: set[str] = set()
    target, other = new_key, str(filled.kms_key_arn)
    for number in range(1, 30):
        points = interrupt(number)
        try:
            reencrypted(site, filled, target)
        except Interrupted as ended:
            seen.add(str(ended))
        interrupt(0)
        recover(site)
        settle_reencryption(site, filled.volume_id)
        recover(site)
        volume = site.catalog.volume(filled.volume_id)
        assert site.catalog.keys.rewraps() == {}
        assert contents.read(site, volume) == contents.expected()
        assert volume.kms_key_arn == headers.read(volume).header.token().kms_key_arn
        if len(points) < number:
            break
        if points[-1] not in ("reencrypt.noted", "reencrypt.journal"):
            assert volume.kms_key_arn == target
            target, other = other, target
    steps = ("noted", "journal", "begun", "zone", "turned", "ended", "cleared", "done")
    assert seen == {f"reencrypt.{name}" for name in steps}


def test_the_process_goes_on_where_it_was(
    site: Site, filled: Volume, interrupt: Callable[[int], list[str]], started: list[str]
) -> None:
    """What `show` tells comes from the volume itself; the next command starts the process, once."""
    reencrypt_volume(site, filled.volume_id)
    assert started == [filled.volume_id]
    interrupt(2)
    with pytest.raises(Interrupted):
        settle_reencryption(site, filled.volume_id)

    found = reencrypting.noted(site, filled)

    assert found is not None
    assert (found.bytes_done, found.bytes_total) == (4 * MIB, contents.SIZE)
    interrupt(0)
    recover(site)
    assert started == [filled.volume_id] * 2


def test_a_lost_catalog_is_no_loss(site: Site, filled: Volume, interrupt: Callable[[int], list[str]]) -> None:
    """Header and journal say all that is needed, in the middle too."""
    reencrypt_volume(site, filled.volume_id)
    interrupt(2)
    with pytest.raises(Interrupted):
        settle_reencryption(site, filled.volume_id)
    interrupt(0)
    site.forget_catalog()
    for path in site.settings.catalog_path.parent.glob("catalog.db*"):
        path.unlink()

    assert [found.volume_id for found in rebuild_catalog(site)] == [filled.volume_id]
    volume = reencrypted(site, filled)

    assert contents.read(site, volume) == contents.expected()


def test_snapshots_before_and_after(site: Site, filled: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """One made before keeps the old data key, one made afterwards has the new one; each restores by its own."""
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)
    before = contents.snapshot_of(site, filled)

    after = contents.snapshot_of(site, reencrypted(site, filled))

    assert before.data_encryption_key_id != after.data_encryption_key_id
    for snapshot in (before, after):
        assert contents.read_snapshot(site, snapshot) == contents.expected()
        restored = create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id))
        assert contents.read(site, restored) == contents.expected()


def test_one_in_the_middle_can_be_deleted(site: Site, filled: Volume) -> None:
    """Its file, its record and its note go."""
    reencrypt_volume(site, filled.volume_id)

    delete_volume(site, filled.volume_id)

    with pytest.raises(VolumeNotFound):
        site.catalog.volume(filled.volume_id)
    assert not Path(filled.backing).exists()
    assert reencrypting.read_note(site.settings, filled.volume_id) == reencrypting.Note()


def test_the_rate_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses add up to what the data takes at that rate; holes are passed for nothing."""
    volume = create_volume(site, VolumeRequest(size=256 * MIB))
    contents.write(site, volume, {0: os.urandom(8 * MIB), 200 * MIB: os.urandom(4 * MIB)})
    pauses: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("ebscrypt.control.reencrypting.time.sleep", sleep)
    monkeypatch.setattr("ebscrypt.control.reencrypting.time.monotonic", lambda: clock[0])

    reencrypt_volume(site, volume.volume_id, throttle=4 * MIB)
    settle_reencryption(site, volume.volume_id)

    # Three zones of data, and two holes that count as one zone each at most.
    assert 3.0 <= sum(pauses) <= 5.0
    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE
    assert reencryption.find(headers.read(volume).header) is None

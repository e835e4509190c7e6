"""`rewrap_volume` when KMS answers wrongly, or the header cannot be written: one key or the other, and it opens."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt import luks2
from ebscrypt.config import Settings
from ebscrypt.control import faultpoints, headers
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.rewrap import rewrap_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    BackingError,
    EbscryptError,
    KeyMismatch,
    KmsIncorrectKey,
    KmsInvalidCiphertext,
    NotPermitted,
    OutOfSpace,
    StateError,
)
from ebscrypt.kms.results import WrappedKey
from ebscrypt.model import MIB, Volume, encryption_context
from tests.unit.control.sealing import expect_key, seal, token_of, write_token

pytestmark = pytest.mark.usefixtures("unwrapping")


@pytest.mark.parametrize("sealed", [False, True], ids=["never-attached", "sealed"])
def test_a_wrapped_key_of_other_bytes_is_never_written(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch, *, sealed: bool
) -> None:
    """KMS answers with a wrapped key that opens, and not to this volume's data key: the old one stays."""
    if sealed:
        seal(site, volume)
    before = Path(volume.backing).read_bytes()
    wrong = site.kms.encrypt(new_key, os.urandom(64), encryption_context(volume.volume_id))
    monkeypatch.setattr(site.kms, "re_encrypt", lambda *_, **__: wrong)

    with pytest.raises(KeyMismatch, match="not to the volume's data key"):
        rewrap_volume(site, volume.volume_id, new_key)

    assert Path(volume.backing).read_bytes() == before
    expect_key(site, volume, str(volume.kms_key_arn))


@pytest.mark.parametrize(
    ("context", "blob", "error"),
    [
        pytest.param("vol-00000000000000000", None, KmsInvalidCiphertext, id="other-context"),
        pytest.param(None, b"no wrapped key at all", KmsInvalidCiphertext, id="garbage"),
    ],
)
def test_a_wrapped_key_that_does_not_open_is_never_written(
    *,
    site: Site,
    volume: Volume,
    new_key: str,
    untouched: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    context: str | None,
    blob: bytes | None,
    error: type[EbscryptError],
) -> None:
    """The proof is an unwrap as an attachment does it; it fails, and the old one stays."""
    wrong = site.kms.encrypt(new_key, os.urandom(64), encryption_context(context or volume.volume_id))
    answer = WrappedKey(blob=blob or wrong.blob, key_arn=new_key)
    monkeypatch.setattr(site.kms, "re_encrypt", lambda *_, **__: answer)

    with pytest.raises(error):
        rewrap_volume(site, volume.volume_id, new_key)

    untouched()


def test_an_answer_for_another_key_is_refused(
    site: Site, volume: Volume, new_key: str, untouched: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for is what the header gets, or nothing."""
    answer = WrappedKey(blob=b"whatever", key_arn=str(volume.kms_key_arn))
    monkeypatch.setattr(site.kms, "re_encrypt", lambda *_, **__: answer)

    with pytest.raises(KmsIncorrectKey):
        rewrap_volume(site, volume.volume_id, new_key)

    untouched()


def test_a_read_only_file_system_leaves_the_old_key(
    settings: Settings, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Header and catalog keep it, and no rewrap is under way."""
    monkeypatch.setattr(Settings, "volumes_dir", property(lambda _: small_disk / "volumes"))
    with Site(settings) as site:
        volume = create_volume(site, VolumeRequest(size=8 * MIB))
        key = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

        with pytest.raises(NotPermitted):
            rewrap_volume(site, volume.volume_id, key)

        expect_key(site, volume, str(volume.kms_key_arn))


def failing_write(monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """Let the write of that number fail, of those of the size of a header's copy; nothing is written by it."""
    count, pwrite = 0, os.pwrite

    def write(fd: int, data: Any, offset: int) -> int:
        nonlocal count
        if len(data) == luks2.COPY_SIZE:
            count += 1
            if count == number:
                raise OSError(code, os.strerror(code))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", write)


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, OutOfSpace), (errno.EIO, BackingError)], ids=["full", "medium-error"]
)
def test_a_header_that_cannot_be_written_keeps_the_old_key(
    *,
    site: Site,
    volume: Volume,
    new_key: str,
    untouched: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[EbscryptError],
) -> None:
    """The first write of the two already fails: catalog and header are as before, and it can be tried again."""
    with monkeypatch.context() as patch:
        failing_write(patch, 1, code)
        with pytest.raises(error):
            rewrap_volume(site, volume.volume_id, new_key)
    untouched()

    rewrap_volume(site, volume.volume_id, new_key)
    expect_key(site, volume, new_key)


def test_an_update_that_breaks_off_between_the_copies_has_the_new_key(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that is durable counts: the error is told, header and catalog agree, and the volume opens."""
    with monkeypatch.context() as patch:
        failing_write(patch, 2, errno.EIO)
        with pytest.raises(BackingError):
            rewrap_volume(site, volume.volume_id, new_key)

    assert f"the data key of {volume.volume_id} is wrapped by {new_key}" in site.notes
    expect_key(site, volume, new_key)


def test_a_keyslot_added_meanwhile_stays(
    site: Site, volume: Volume, new_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While KMS is asked others may change the header: their change is kept; one of the token ends the rewrap."""

    def label(text: str) -> Callable[[str], None]:
        def change(name: str) -> None:
            if name == "rewrap.proven":
                subprocess.run(["cryptsetup", "config", "--subsystem", text, volume.backing], check=True)

        return change

    monkeypatch.setattr(faultpoints, "reach", label("theirs"))
    rewrap_volume(site, volume.volume_id, new_key)
    assert headers.read(volume).header.subsystem == "theirs"

    def replace(name: str) -> None:
        if name == "rewrap.proven":
            write_token(volume, wrapped_key=b"another")

    monkeypatch.setattr(faultpoints, "reach", replace)
    with pytest.raises(StateError, match="was changed meanwhile"):
        rewrap_volume(site, volume.volume_id, str(volume.kms_key_arn))
    assert token_of(volume).wrapped_key == b"another"
    recover(site)
    assert site.catalog.keys.rewraps() == {}

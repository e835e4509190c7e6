"""Headers that stock cryptsetup made or changed, as we read and update them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.errors import HeaderUnsupported
from ebscrypt.luks2 import COPY_SIZE, DATA_OFFSET, KmsToken
from ebscrypt.luks2.reading import choose
from ebscrypt.model import KIB, MIB
from tests.behaviour.luks2_clients import (
    FAST_KDF,
    RIGHT,
    check_key,
    cryptsetup,
    luks_format,
    opened,
    read,
    run,
    seal,
    write,
)


@pytest.fixture
def their_backing(tmp_path: Path, key_file: Path, passphrase: Path) -> Path:
    """A sparse file that cryptsetup formatted for aes-xts-plain64 with the 512-bit key of ``key_file``."""
    path = tmp_path / "theirs.img"
    path.touch()
    os.truncate(path, DATA_OFFSET + 8 * MIB)
    luks_format(path, passphrase, "--volume-key-file", key_file, "--sector-size", "4096")
    return path


def test_the_token_can_be_exported_and_imported(volume_backing: Path, their_backing: Path, tmp_path: Path) -> None:
    """Our token, carried to a header that cryptsetup made, makes it a volume of ours."""
    with pytest.raises(HeaderUnsupported, match="no ebscrypt-kms token"):
        read(their_backing)
    exported = cryptsetup("token", "export", "--token-id", "0", volume_backing)
    token_file = tmp_path / "token.json"
    token_file.write_text(exported)

    cryptsetup("token", "import", "--json-file", token_file, "--token-id", "3", their_backing)

    reading = read(their_backing)
    assert reading.repair is None
    assert reading.header.token() == read(volume_backing).header.token()
    assert reading.header.metadata["tokens"]["3"] == json.loads(exported)
    assert reading.header.segment() == luks2.Segment(data_offset=DATA_OFFSET, size=None, sector_size=4096)


def test_their_header_is_kept_when_we_add_our_token(
    their_backing: Path, key_file: Path, passphrase: Path, kms_token: KmsToken
) -> None:
    """A header that cryptsetup formatted, with our token added by us, still opens by its passphrase and its key."""
    with opened(their_backing) as fd:
        header = choose(lambda at, length: os.pread(fd, length, at)).header
        luks2.write_header(fd, header.with_token(kms_token))

    assert read(their_backing).header.token() == kms_token
    cryptsetup("open", "--test-passphrase", "--key-file", passphrase, their_backing)
    check_key(their_backing, key_file, RIGHT)


@pytest.mark.parametrize("kib", [16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_their_headers_of_every_size_are_updated(
    tmp_path: Path, passphrase: Path, kms_token: KmsToken, key_file: Path, kib: int
) -> None:
    """Every size that cryptsetup formats is read, changed and repaired, and cryptsetup agrees with the result."""
    path = tmp_path / "theirs.img"
    path.touch()
    os.truncate(path, 32 * MIB)
    luks_format(path, passphrase, "--volume-key-file", key_file, "--luks2-metadata-size", f"{kib}k")
    with opened(path) as fd:
        header = choose(lambda at, length: os.pread(fd, length, at)).header
        header = luks2.write_header(fd, header.with_token(kms_token))
        assert header.copy_size == kib * KIB
        os.pwrite(fd, bytes(4096), 0)
        assert luks2.repair_header(fd).repair_offset == 0

    assert read(path) == luks2.Reading(header=header)
    assert json.loads(cryptsetup("luksDump", "--dump-json-metadata", path)) == header.metadata
    check_key(path, key_file, RIGHT)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"), "cipher 'aes-cbc-essiv:sha256'"),
        (("--key-size", "256"), "key of 256 bits"),
        (("--sector-size", "2048"), "sector size 2048"),
    ],
)
def test_what_they_format_and_we_cannot_serve_is_refused(
    tmp_path: Path, passphrase: Path, options: tuple[str, ...], why: str
) -> None:
    """Another cipher, key size or sector size, as cryptsetup writes it, is named in the refusal."""
    path = tmp_path / "theirs.img"
    path.touch()
    os.truncate(path, 32 * MIB)
    luks_format(path, passphrase, *options)

    with pytest.raises(HeaderUnsupported, match=why):
        read(path)


def test_luks1_is_refused_by_name(tmp_path: Path, passphrase: Path) -> None:
    """A LUKS1 header is no damaged LUKS2 header."""
    path = tmp_path / "luks1.img"
    path.touch()
    os.truncate(path, 32 * MIB)
    cryptsetup("luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", path, passphrase)

    with pytest.raises(HeaderUnsupported, match="LUKS version 1"):
        read(path)


def test_a_reencryption_under_way_is_refused(volume_backing: Path, key_file: Path, passphrase: Path) -> None:
    """What `cryptsetup reencrypt` has begun it must end; until then nothing is served."""
    seal(volume_backing, key_file.read_bytes())
    os.truncate(volume_backing, DATA_OFFSET + 8 * MIB)
    cryptsetup("luksAddKey", *FAST_KDF, "--volume-key-file", key_file, "--key-size", "512", volume_backing, passphrase)
    cryptsetup("reencrypt", "--init-only", *FAST_KDF, "--key-file", passphrase, volume_backing)

    with pytest.raises(HeaderUnsupported, match="requires 'online-reencrypt-v2'") as caught:
        read(volume_backing)
    assert "cryptsetup reencrypt" in str(caught.value.hint)


@pytest.mark.parametrize("bad", [0, COPY_SIZE])
def test_we_accept_what_cryptsetup_repaired(volume_backing: Path, bad: int) -> None:
    """Cryptsetup mends a bad copy as soon as it reads; the result is sound for us."""
    before = read(volume_backing)
    with opened(volume_backing) as fd:
        os.pwrite(fd, b"\xa5" * 600, bad)
    assert read(volume_backing).repair_offset == bad

    cryptsetup("luksDump", volume_backing)

    assert read(volume_backing) == before


def test_labels_and_flags_that_the_user_sets_are_kept(volume_backing: Path) -> None:
    """`cryptsetup config --label` is accepted and survives our update, and so does `--priority` and the like."""
    cryptsetup("config", "--label", "mydatabase", "--subsystem", "mine", volume_backing)
    header = read(volume_backing).header
    assert (header.label, header.subsystem) == ("mydatabase", "mine")

    write(volume_backing, header.with_token(msgspec.structs.replace(header.token(), region="eu-west-1")))

    assert "LABEL=mydatabase" in run("blkid", "--probe", "--output", "export", volume_backing)


def test_erased_keyslots_leave_a_volume(volume_backing: Path, key_file: Path, passphrase: Path) -> None:
    """LuksErase removes every passphrase, and nothing that we need."""
    seal(volume_backing, key_file.read_bytes())
    cryptsetup("luksAddKey", *FAST_KDF, "--volume-key-file", key_file, "--key-size", "512", volume_backing, passphrase)

    cryptsetup("luksErase", volume_backing)

    header = read(volume_backing).header
    assert header.metadata["keyslots"] == {}
    assert header.token().sealed
    check_key(volume_backing, key_file, RIGHT)

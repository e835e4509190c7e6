"""What stock cryptsetup and blkid make of our headers."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import secrets
from pathlib import Path

import msgspec
import pytest

from ebscrypt import config, luks2
from ebscrypt.errors import StateError
from ebscrypt.kms.client import KmsClient
from ebscrypt.luks2 import COPY_SIZE, DATA_OFFSET, Header, KmsToken
from ebscrypt.model import GIB, MIB, encryption_context, new_volume_id
from tests.behaviour.luks2_clients import (
    FAST_KDF,
    RIGHT,
    WRONG,
    area,
    check_key,
    cryptsetup,
    opened,
    read,
    run,
    seal,
    write,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "luks2"


def test_cryptsetup_knows_a_new_volume(volume_backing: Path, volume_header: Header) -> None:
    """isLuks, luksUUID, luksDump and the JSON dump see exactly the header that was written."""
    cryptsetup("isLuks", "--type", "luks2", volume_backing)
    assert cryptsetup("luksUUID", volume_backing).strip() == volume_header.uuid
    assert json.loads(cryptsetup("luksDump", "--dump-json-metadata", volume_backing)) == volume_header.metadata
    dump = cryptsetup("luksDump", volume_backing)
    for line in (
        "\tvol-0123456789abcdef0",
        "cipher: aes-xts-plain64",
        "length: 8388608 [bytes]",
        "0: ebscrypt-kms",
    ):
        assert line in dump


def test_blkid_knows_a_new_volume(volume_backing: Path, volume_header: Header) -> None:
    """Type, version, UUID and label, by which lsblk -f and udev name it."""
    tags = run("blkid", "--probe", "--output", "export", volume_backing)

    assert {"TYPE=crypto_LUKS", "VERSION=2", f"UUID={volume_header.uuid}", "LABEL=vol-0123456789abcdef0"} <= set(
        tags.splitlines()
    )


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_cryptsetup_finds_nothing_to_repair(tmp_path: Path, kms_token: KmsToken, sector_size: int) -> None:
    """Neither a read nor `cryptsetup repair` changes a byte of what we wrote."""
    path = tmp_path / "volume.img"
    path.touch()
    os.truncate(path, DATA_OFFSET + 1 * GIB)
    with opened(path) as fd:
        luks2.format_header(fd, luks2.create_header(kms_token, size=1 * GIB, sector_size=sector_size))
    before = area(path)

    cryptsetup("repair", path, stdin=b"YES\n")
    cryptsetup("luksDump", path)

    assert area(path) == before


def test_the_volume_key_is_right_only_after_sealing(volume_backing: Path, key_file: Path, tmp_path: Path) -> None:
    """Before sealing no key is accepted, the true one included; afterwards that one, and no other."""
    other = tmp_path / "other.key"
    other.write_bytes(secrets.token_bytes(64))
    check_key(volume_backing, key_file, WRONG)

    seal(volume_backing, key_file.read_bytes())

    check_key(volume_backing, key_file, RIGHT)
    check_key(volume_backing, other, WRONG)


def test_the_golden_volume_opens_with_its_key(tmp_path: Path) -> None:
    """The frozen sealed header of version 1 is one that cryptsetup accepts the frozen key for."""
    path, key = tmp_path / "golden.img", tmp_path / "golden.key"
    path.write_bytes(gzip.decompress((VECTORS / "v1" / "sealed.bin.gz").read_bytes()))
    os.truncate(path, DATA_OFFSET + 10 * GIB)
    key.write_bytes(bytes.fromhex(json.loads((VECTORS / "v1" / "sealed.json").read_text())["data_key"]))

    check_key(path, key, RIGHT)


def test_a_recovery_passphrase_survives_our_updates(volume_backing: Path, key_file: Path, passphrase: Path) -> None:
    """A keyslot that the user adds with cryptsetup still opens the volume after re-wrapping and resizing."""
    seal(volume_backing, key_file.read_bytes())
    cryptsetup("luksAddKey", *FAST_KDF, "--volume-key-file", key_file, "--key-size", "512", volume_backing, passphrase)
    added = read(volume_backing).header
    assert list(added.metadata["keyslots"]) == ["0"]

    token = msgspec.structs.replace(added.token(), wrapped_key=b"wrapped anew", kms_key_arn="arn:aws:kms:x:1:key/2")
    os.truncate(volume_backing, DATA_OFFSET + 16 * MIB)
    updated = write(volume_backing, added.with_token(token).with_segment_size(16 * MIB))

    assert read(volume_backing) == luks2.Reading(header=updated)
    assert updated.metadata["keyslots"] == added.metadata["keyslots"]
    assert updated.metadata["digests"] == added.metadata["digests"]
    cryptsetup("open", "--test-passphrase", "--key-file", passphrase, volume_backing)
    cryptsetup("open", "--test-passphrase", volume_backing, stdin=b"a wrong one", status=WRONG)
    check_key(volume_backing, key_file, RIGHT)


def test_cryptsetup_leaves_half_a_volume_alone(
    volume_backing: Path, key_file: Path, passphrase: Path, tmp_path: Path
) -> None:
    """During a re-encryption it sees a requirement that it cannot meet; in the end it takes the new key alone.

    That it does not activate the volume either takes a kernel with device-mapper to show.
    """
    sealed, new_key = seal(volume_backing, key_file.read_bytes()), tmp_path / "new.key"
    new_key.write_bytes(secrets.token_bytes(64))
    salt = luks2.new_digest_salt()
    value = hashlib.pbkdf2_hmac("sha256", new_key.read_bytes(), salt, luks2.DIGEST_ITERATIONS, luks2.DIGEST_SIZE)
    token = msgspec.structs.replace(sealed.token(), wrapped_key=b"another", data_encryption_key_id="another")
    wanted = luks2.Reencryption(id=bytes(16), token=token, digest=luks2.Digest(salt=salt, digest=value))
    with opened(volume_backing) as fd:
        begun = luks2.write_header(fd, luks2.reencryption.begun(sealed, wanted), reencrypting=True)
    before = area(volume_backing)

    by_key = ("--volume-key-file", key_file, "--key-size", "512")
    for refused in (
        ("luksAddKey", *FAST_KDF, *by_key, volume_backing, passphrase),
        ("token", "remove", "--token-id", "0", volume_backing),
        ("config", "--label", "other", volume_backing),
    ):
        cryptsetup(*refused, status=1)
    assert re.search(r"Requirements:\s+ebscrypt-reencrypt", cryptsetup("luksDump", volume_backing))
    assert area(volume_backing) == before
    with opened(volume_backing) as fd:
        luks2.write_header(fd, luks2.reencryption.ended(begun))

    check_key(volume_backing, new_key, RIGHT)
    check_key(volume_backing, key_file, WRONG)
    assert "ebscrypt-reencrypt" not in cryptsetup("luksDump", volume_backing)


def test_a_header_backup_brings_a_ruined_volume_back(volume_backing: Path, key_file: Path, tmp_path: Path) -> None:
    """LuksHeaderBackup takes our header, luksHeaderRestore puts it back over noise, and we read it as before."""
    sealed = seal(volume_backing, key_file.read_bytes())
    backup = tmp_path / "header.backup"
    cryptsetup("luksHeaderBackup", "--header-backup-file", backup, volume_backing)
    saved = backup.read_bytes()
    with opened(volume_backing) as fd:
        os.pwrite(fd, b"\xa5" * (2 * COPY_SIZE), 0)

    cryptsetup("luksHeaderRestore", "--header-backup-file", backup, volume_backing)

    restored = read(volume_backing)
    assert restored == luks2.Reading(header=sealed)
    assert luks2.parse(lambda at, length: saved[at : at + length], volume_id=sealed.label) == restored
    check_key(volume_backing, key_file, RIGHT)


def test_a_backup_older_than_the_header_goes_back_in_time_as_a_whole(volume_backing: Path, tmp_path: Path) -> None:
    """A restored header counts from its own state on; an update made from the newer reading is refused."""
    backup = tmp_path / "header.backup"
    cryptsetup("luksHeaderBackup", "--header-backup-file", backup, volume_backing)
    old = read(volume_backing).header
    newer = write(volume_backing, write(volume_backing, old.with_segment_size(4 * MIB)))

    cryptsetup("luksHeaderRestore", "--header-backup-file", backup, volume_backing)

    restored = read(volume_backing)
    assert restored.repair is None
    assert restored.header.metadata == old.metadata
    with pytest.raises(StateError):
        write(volume_backing, newer)
    write(volume_backing, restored.header)


@pytest.mark.parametrize("bad", [0, COPY_SIZE])
def test_cryptsetup_accepts_what_we_repaired(volume_backing: Path, bad: int) -> None:
    """After our repair both copies are sound for cryptsetup: it reads either one alone."""
    with opened(volume_backing) as fd:
        os.pwrite(fd, b"\xa5" * 600, bad)
        luks2.repair_header(fd)
        os.pwrite(fd, bytes(4096), COPY_SIZE - bad)

    cryptsetup("isLuks", "--type", "luks2", volume_backing)
    assert read(volume_backing).repair is None


def test_the_way_out_without_ebscrypt(tmp_path: Path) -> None:
    """The documented commands: the token's own fields, given to KMS, yield the key that cryptsetup accepts."""
    settings = config.load({"EBSCRYPT_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)})
    kms, volume_id, path = KmsClient(settings), new_volume_id(), tmp_path / "volume.img"
    wrapped = kms.generate_data_key_without_plaintext("alias/aws/ebs", encryption_context(volume_id))
    token = KmsToken(
        volume_id=volume_id,
        kms_key_arn=wrapped.key_arn,
        wrapped_key=wrapped.blob,
        encryption_context=encryption_context(volume_id),
        region=kms.region,
        sealed=False,
    )
    path.touch()
    os.truncate(path, DATA_OFFSET + 8 * MIB)
    with opened(path) as fd:
        luks2.format_header(fd, luks2.create_header(token, size=8 * MIB))
    seal(path, kms.decrypt(wrapped.blob, encryption_context(volume_id)).plaintext)

    (tmp_path / "token.json").write_text(cryptsetup("token", "export", "--token-id", "0", path))
    script = "jq -r .wrapped_key token.json | base64 -d > wrapped; jq -c .encryption_context token.json"
    context = json.loads(run("sh", "-euc", f"cd {tmp_path}; {script}"))
    key_file = tmp_path / "key"
    key_file.write_bytes(kms.decrypt((tmp_path / "wrapped").read_bytes(), context).plaintext)

    check_key(path, key_file, RIGHT)

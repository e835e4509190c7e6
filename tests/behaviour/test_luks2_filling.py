"""The mark of a volume that lacks blocks: cryptsetup has nothing to do with it, and we know it from others' marks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ebscrypt import luks2
from ebscrypt.core import SecretMemory
from ebscrypt.errors import HeaderUnsupported
from ebscrypt.model import MIB

VOLUME_ID = "vol-0123456789abcdef0"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(64))
    return path


@pytest.fixture
def header(key_file: Path) -> luks2.Header:
    """A sealed header, whose data key is in the key file."""
    key = SecretMemory()
    key.fill(key_file.read_bytes())
    salt = luks2.new_digest_salt()
    value = key.digest(salt, luks2.DIGEST_ITERATIONS, luks2.DIGEST_HASH, luks2.DIGEST_SIZE)
    key.wipe()
    token = luks2.KmsToken(
        volume_id=VOLUME_ID,
        kms_key_arn="arn:aws:kms:eu-central-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321",
        wrapped_key=bytes(range(100)),
        encryption_context={"aws:ebs:id": VOLUME_ID},
        region="eu-central-1",
        sealed=False,
    )
    digest = luks2.Digest(salt=salt, digest=value)
    return luks2.create_header(token, size=8 * MIB).with_digest(digest)


def written(folder: Path, header: luks2.Header) -> Path:
    path = folder / "volume"
    with path.open("w+b") as file:
        file.truncate(luks2.DATA_OFFSET + 8 * MIB)
        luks2.format_header(file.fileno(), header)
    return path


def cryptsetup(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["cryptsetup", "-q", *words], capture_output=True, text=True, check=False)


def test_cryptsetup_keeps_its_hands_off(tmp_path: Path, header: luks2.Header, key_file: Path) -> None:
    """With the right data key it adds a passphrase to a whole volume, and refuses half a one for its requirement."""
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-size", "512", "--volume-key-file")
    for filling, status in ((False, 0), (True, 1)):
        volume = written(tmp_path, header.with_filling(filling=filling))
        ran = cryptsetup("luksAddKey", *cheap, key_file, volume, key_file)
        assert ran.returncode == status, ran.stderr
        assert ("Unmet LUKS2 requirements" in ran.stderr) == filling
        assert cryptsetup("isLuks", "--type", "luks2", volume).returncode == 0
        assert ("ebscrypt-filling" in cryptsetup("luksDump", volume).stdout) == filling


def test_the_mark_is_put_and_taken_away(tmp_path: Path, header: luks2.Header) -> None:
    """Read back it is there; without it the header is what it was; twice is once."""
    marked = header.with_filling(filling=True)
    with written(tmp_path, marked.with_filling(filling=True)).open("rb") as file:
        found = luks2.read_header(file.fileno(), volume_id=VOLUME_ID).header
    assert found.filling
    assert not header.filling
    assert found.metadata["config"]["requirements"] == {"mandatory": ["ebscrypt-filling"]}
    assert marked.with_filling(filling=False).metadata == header.metadata


def test_marks_of_others_stay(header: luks2.Header) -> None:
    """What somebody else requires is neither lost nor overlooked."""
    config = header.metadata["config"] | {"requirements": {"mandatory": ["online-reencrypt-v2"], "later": ["x"]}}
    theirs = luks2.Header(uuid=header.uuid, metadata=header.metadata | {"config": config})
    both = theirs.with_filling(filling=True)
    assert both.metadata["config"]["requirements"] == {
        "later": ["x"],
        "mandatory": ["online-reencrypt-v2", "ebscrypt-filling"],
    }
    assert both.with_filling(filling=False).metadata == theirs.metadata
    with pytest.raises(HeaderUnsupported, match="'online-reencrypt-v2'"):
        both.segment()

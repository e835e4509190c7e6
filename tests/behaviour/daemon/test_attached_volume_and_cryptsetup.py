"""cryptsetup's commands on the backing of a volume that is attached, and headers that somebody put there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.daemon.backing import claim
from ebscrypt.errors import KeyMismatch
from ebscrypt.model import MIB, encryption_context
from tests.behaviour.daemon.bench import Bench


def test_cryptsetup_reads_and_changes_the_header_of_an_attached_volume(bench: Bench, tmp_path: Path) -> None:
    """LuksDump does not wait for the detachment, and a recovery passphrase can be added while the volume is in use."""
    spec = bench.volume(8 * MIB)
    bench.start(spec).detach()
    key, passphrase = tmp_path / "key", tmp_path / "passphrase"
    key.write_bytes(bench.data_key(spec))
    passphrase.write_text("recover me")
    daemon = bench.start(spec)
    add = [
        "luksAddKey",
        "--volume-key-file",
        key,
        "--key-size",
        "512",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
    ]
    for command in (["luksDump", spec.backing], [*map(str, add), spec.backing, str(passphrase)]):
        subprocess.run(["cryptsetup", "-q", *command], check=True, capture_output=True, timeout=60)
    daemon.detach()

    bench.start(spec).detach()
    opened = ["cryptsetup", "open", "--test-passphrase", "--key-file", str(passphrase), spec.backing]
    assert subprocess.run(opened, check=False, capture_output=True).returncode == 0


def test_an_attached_backing_is_claimed(bench: Bench) -> None:
    """Neither a writer nor a reader can claim it until the volume is detached."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    with Path(spec.backing).open("r+b") as file:
        for read_only in (False, True):
            with pytest.raises(BlockingIOError):
                claim(file.fileno(), read_only=read_only)
        daemon.detach()
        claim(file.fileno())


def test_a_header_under_another_kms_key_is_refused(bench: Bench) -> None:
    """Who can write to the backing cannot make the volume use a KMS key of theirs, sealed or not."""
    spec = bench.volume(8 * MIB)
    theirs = bench.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    wrapped = bench.kms.generate_data_key_without_plaintext(theirs, encryption_context(spec.volume_id))
    with Path(spec.backing).open("r+b") as file:
        header = luks2.read_header(file.fileno()).header
        token = msgspec.structs.replace(header.token(), kms_key_arn=theirs, wrapped_key=wrapped.blob)
        luks2.write_header(file.fileno(), header.with_token(token))

    error = bench.refusal(msgspec.structs.replace(spec, kms_key_arn=bench.key_arn))

    assert type(error) is KeyMismatch
    assert theirs in error.message

"""Values that tests of more than one folder begin with."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from ebscrypt import luks2
from ebscrypt.model import MIB, encryption_context

VOLUME_ID = "vol-0123456789abcdef0"

# A busy machine is slow now and then: how long an example takes says nothing about whether it is right.
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")

# Started in the background by a shell, this process ignores SIGINT, and every program that a test starts and interrupts
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kms_token() -> luks2.KmsToken:
    """The KMS token of a volume that nobody has attached yet."""
    return luks2.KmsToken(
        volume_id=VOLUME_ID,
        kms_key_arn="arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        wrapped_key=bytes(range(256)) * 3,
        encryption_context=encryption_context(VOLUME_ID),
        region="eu-central-1",
        sealed=False,
    )


@pytest.fixture(scope="session")
def volume_header(kms_token: luks2.KmsToken) -> luks2.Header:
    """The header of a new volume of 8 MiB, not on any backing."""
    return luks2.create_header(kms_token, size=8 * MIB)


@pytest.fixture
def volume_backing(tmp_path: Path, volume_header: luks2.Header) -> Path:
    """A sparse file that holds the header of a new volume of 8 MiB."""
    path = tmp_path / "volume.img"
    path.touch()
    os.truncate(path, luks2.DATA_OFFSET + 8 * MIB)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        luks2.format_header(fd, volume_header)
    finally:
        os.close(fd)
    return path

"""A site of its own for each test: settings, catalog and the embedded KMS in a temporary directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebscrypt.config import AttachSettings, KmsSettings, PathSettings, Settings
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.site import Site
from ebscrypt.model import MIB, Volume
from tests.unit.control.unwrapping import FakeDaemons


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """The runtime directory has a short name: sockets lie in it."""
    runtime = tempfile.mkdtemp(prefix="ec-", dir="/tmp")
    yield Settings(
        paths=PathSettings(state=str(tmp_path / "state"), runtime=runtime),
        kms=KmsSettings(region="eu-central-1", account="111122223333"),
        attach=AttachSettings(start_timeout=30.0),
    )
    shutil.rmtree(runtime)


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    with Site(settings) as opened:
        yield opened


@pytest.fixture
def volume(site: Site) -> Volume:
    """An available encrypted volume of 8 MiB."""
    return create_volume(site, VolumeRequest(size=8 * MIB))


@pytest.fixture
def plain_volume(site: Site) -> Volume:
    """An available plain volume of 8 MiB."""
    return create_volume(site, VolumeRequest(size=8 * MIB, encrypted=False))


@pytest.fixture
def make_loop(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Makes block devices of so many bytes: loop devices over sparse files, gone after the test."""
    devices: list[str] = []

    def make(size: int) -> str:
        file = tmp_path / f"disk{len(devices)}"
        with file.open("wb") as sparse:
            sparse.truncate(size)
        ran = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True, check=True)
        devices.append(ran.stdout.strip())
        return devices[-1]

    yield make
    for device in devices:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 1 MiB of room."""
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", mountpoint], check=True)
    yield mountpoint
    subprocess.run(["umount", mountpoint], check=True)


@pytest.fixture
def unwrapping(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the unwrap process, which reads the environment, have the settings of this test."""
    monkeypatch.setenv("EBSCRYPT_CONFIG", os.devnull)
    monkeypatch.setenv("EBSCRYPT_STATE_DIR", settings.paths.state)
    monkeypatch.setenv("EBSCRYPT_REGION", settings.kms.region)
    monkeypatch.setenv("EBSCRYPT_ACCOUNT", settings.kms.account)


@pytest.fixture
def new_key(site: Site) -> str:
    """The ARN of another key that can be used."""
    return str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])


@pytest.fixture
def untouched(site: Site, volume: Volume) -> Callable[[], None]:
    """Says that the volume is to the byte what it was when the test began, and that no rewrap is under way."""
    before, row = Path(volume.backing).read_bytes(), site.catalog.volume(volume.volume_id)

    def look() -> None:
        assert Path(volume.backing).read_bytes() == before
        assert site.catalog.volume(volume.volume_id) == row
        assert site.catalog.keys.rewraps() == {}

    return look


@pytest.fixture
def daemons(site: Site) -> Iterator[FakeDaemons]:
    """In place of real daemons: what they ask of KMS."""
    with pytest.MonkeyPatch.context() as patch:
        yield FakeDaemons(site, patch)

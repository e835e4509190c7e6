"""nbdcopy in and out, with its four connections and sixty-four requests on each."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.nbd_volume import DATA_OFFSET, MIB, ServedVolume, run, served

SIZE = 96 * MIB


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A file with data and holes that lie at no particular multiple of anything."""
    path = tmp_path / "original"
    rng = random.Random(20)  # noqa: S311 - an example, not a secret
    with path.open("wb") as file:
        file.truncate(SIZE)
        for _ in range(60):
            file.seek(rng.randrange(SIZE - 2 * MIB))
            file.write(os.urandom(rng.randrange(1, 2 * MIB)))
    return path


@pytest.mark.parametrize("encrypted", [True, False])
def test_round_trip(original: Path, tmp_path: Path, *, encrypted: bool) -> None:
    """What nbdcopy brings in it takes out again, byte for byte."""
    with served(SIZE, encrypted=encrypted) as volume:
        run("nbdcopy", "--flush", original, volume.uri)
        assert volume.operations("flush") > 0
        run("nbdcopy", volume.uri, tmp_path / "copy")
        check_ciphertext(volume, original)
    run("cmp", original, tmp_path / "copy")


def check_ciphertext(volume: ServedVolume, original: Path) -> None:
    """The backing holds the original's data where it is plain, and none of its sectors where it is encrypted."""
    sectors = {sector for sector in split(original.read_bytes()) if any(sector)}
    stored = set(split(os.pread(volume.backing_fd, SIZE, DATA_OFFSET)))
    assert sectors
    assert sectors.isdisjoint(stored) if volume.encrypted else sectors <= stored


def split(data: bytes) -> list[bytes]:
    return [data[start : start + 4096] for start in range(0, len(data), 4096)]


def test_thin_stays_thin(tmp_path: Path) -> None:
    """Copying a sparse file into a volume allocates little more than its data; zeros become holes."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(SIZE)
        file.seek(50 * MIB)
        file.write(os.urandom(MIB))
    with served(SIZE) as volume:
        run("nbdcopy", sparse, volume.uri)
        allocated = os.fstat(volume.backing_fd).st_blocks * 512
        run("nbdcopy", volume.uri, tmp_path / "copy")
    assert MIB <= allocated <= 3 * MIB
    run("cmp", sparse, tmp_path / "copy")


def test_from_volume_to_volume(original: Path, tmp_path: Path) -> None:
    """Between an encrypted and a plain volume, at different keys and the same time."""
    with served(SIZE) as source, served(SIZE, encrypted=False) as target:
        run("nbdcopy", original, source.uri)
        run("nbdcopy", source.uri, target.uri)
        run("nbdcopy", "--request-size=33554432", "--connections=1", target.uri, tmp_path / "copy")
    run("cmp", original, tmp_path / "copy")

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.control.sidecar import read_sidecar
from ebscrypt.errors import HeaderDamaged, HeaderUnsupported
from ebscrypt.model import GIB, BackingKind, Volume, VolumeState

GOLDEN = Path(__file__).parents[2] / "vectors" / "plain" / "v1.json"


def test_version_1_is_read_for_ever() -> None:
    """The golden sidecar gives this volume, also with a field that only a later ebscrypt knows."""
    assert read_sidecar(GOLDEN) == Volume(
        volume_id="vol-0123456789abcdef0",
        state=VolumeState.AVAILABLE,
        size=10 * GIB,
        backing="/srv/disks/mail.raw",
        backing_kind=BackingKind.FILE,
        backing_owned=False,
        encrypted=False,
        create_time=datetime(2024, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"Version": 2}, HeaderUnsupported),
        ({"VolumeId": "../../etc/passwd"}, HeaderDamaged),
        ({"Size": 0}, HeaderDamaged),
        ({"Size": "1"}, HeaderDamaged),
        ({"SectorSize": 4097}, HeaderDamaged),
        ({"BackingKind": "tape"}, HeaderDamaged),
        ({"CreateTime": "yesterday"}, HeaderDamaged),
    ],
)
def test_what_is_no_sidecar_is_refused(tmp_path: Path, change: dict[str, Any], error: type[Exception]) -> None:
    """A later version, and fields that cannot be, name the file and the reason."""
    path = tmp_path / "vol-0123456789abcdef0.json"
    path.write_text(json.dumps(json.loads(GOLDEN.read_text()) | change))
    with pytest.raises(error, match="sidecar"):
        read_sidecar(path)

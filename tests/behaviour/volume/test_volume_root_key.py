"""A volume lives on while the root key of the embedded KMS moves and changes, and after the whole KMS was lost."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.behaviour.volume.place import Place


def attached_once(place: Place, volume_id: str) -> None:
    """Attach and detach: KMS unwraps the key, and the header's digest proves that it is the right one."""
    place.do("attach", volume_id, "--export", "socket")
    place.do("detach", volume_id)


def test_the_root_key_changes_under_an_attached_volume(place: Place, volume_id: str, tmp_path: Path) -> None:
    """Sealed and rotated while a volume is attached: it is served on, and attaches again."""
    place.environ["SYSTEMD_CREDENTIAL_SECRET"] = str(tmp_path / "host.secret")
    place.do("attach", volume_id, "--export", "socket")

    sealed = place.do("kms", "root-key", "seal", "--with-key", "host")
    place.do("kms", "rotate-root")

    place.do("detach", volume_id)
    attached_once(place, volume_id)
    kms = place.directory / "s" / "kms"
    assert sealed == str(kms / "root.cred")
    assert {path.name for path in kms.iterdir()} == {"README", "keys.db", "root.cred"}


def test_a_lost_kms_comes_back_from_its_backup(place: Place, volume_id: str, tmp_path: Path) -> None:
    """Directory and root key gone: attaching is refused; after an import under a new root key it works."""
    (tmp_path / "passphrase").write_text("of the test")
    words = [str(tmp_path / "backup"), "--passphrase-file", str(tmp_path / "passphrase")]
    place.do("kms", "export", *words)
    shutil.rmtree(place.directory / "s" / "kms")
    assert "does not exist" in place.refused("attach", volume_id, "--export", "socket")

    place.do("kms", "import", *words)

    attached_once(place, volume_id)

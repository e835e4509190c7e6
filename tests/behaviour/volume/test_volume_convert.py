"""`ebscrypt convert`: a volume's data onto another, with real daemons before and after it and KMS processes between."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.behaviour.volume.place import Place, wait_until

SIZE = 32 << 20


def exported(place: Place, volume_id: str, file: Path) -> bytes:
    """All that a volume holds, read through its export by nbdcopy."""
    uri = place.do("attach", volume_id, "--export", "socket", "--read-only")
    try:
        subprocess.run(["nbdcopy", uri, str(file)], check=True, timeout=60)
    finally:
        place.do("detach", volume_id)
    return file.read_bytes()


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """An ext4 file system with a file in it, of the size of a volume."""
    tree, image = tmp_path / "tree", tmp_path / "content"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(3 << 20))
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-d", str(tree), str(image)], check=True, timeout=60)
    return image


def filled(place: Place, content: Path, *options: str) -> str:
    """A detached volume that holds ``content``."""
    volume_id = place.do("create", "--size", str(SIZE), *options)
    uri = place.do("attach", volume_id, "--export", "socket")
    subprocess.run(["nbdcopy", "--flush", str(content), uri], check=True, timeout=60)
    place.do("detach", volume_id)
    return volume_id


def test_there_and_back(place: Place, content: Path, tmp_path: Path) -> None:
    """Plain to encrypted, on to another key, and back to plain: every byte arrives, what was a hole stays one."""
    plain = filled(place, content, "--no-encrypted")
    other = place.do("kms", "create-key")
    encrypted = place.do("create", "--size", "64M", "--sector-size", "512")
    turned = place.do("create", "--size", "64M", "--sector-size", "512", "--kms-key-id", other)
    back = place.do("create", "--size", "64M", "--no-encrypted")

    assert place.do("convert", plain, "--to", encrypted) == encrypted
    place.do("convert", encrypted, "--to", turned)
    place.do("convert", turned, "--to", back)

    held = content.read_bytes()
    assert exported(place, encrypted, tmp_path / "out")[:SIZE] == held
    assert exported(place, back, tmp_path / "out") == held + bytes(SIZE)
    stored = Path(place.show(turned)["Backing"])
    assert b"lost+found" in held
    assert b"lost+found" not in stored.read_bytes()
    assert stored.stat().st_blocks * 512 < 12 << 20
    subprocess.run(["e2fsck", "-fn", place.show(back)["Backing"]], check=True, timeout=60)


def test_what_cannot_be_converted(place: Place, content: Path) -> None:
    """Each is refused by name before anything is written, and says what to do."""
    plain = filled(place, content, "--no-encrypted")
    small, coarse = place.do("create", "--size", "16M"), place.do("create", "--size", "32M")
    busy = place.do("create", "--size", "32M", "--no-encrypted")
    place.do("attach", busy, "--export", "socket")

    for target, said in (
        (small, f"resize {small}"),
        (coarse, "--sector-size 512"),
        (busy, f"detach {busy}"),
        (plain, "onto itself"),
        ("vol-00000000000000000", "does not exist"),
    ):
        ran = place.run("convert", plain, "--to", target)
        assert (ran.status > 0, ran.out) == (True, ""), target
        assert said in ran.err
    place.do("detach", busy)
    used = filled(place, content, "--no-encrypted")
    before = Path(place.show(used)["Backing"]).read_bytes()
    assert "--overwrite" in place.refused("convert", busy, "--to", used)
    assert Path(place.show(used)["Backing"]).read_bytes() == before


def test_a_conversion_that_is_killed_is_done_again(place: Place, content: Path, tmp_path: Path) -> None:
    """The source is untouched, the target is not in anybody's hands, and with --overwrite the second time holds."""
    plain = filled(place, content, "--no-encrypted")
    before = Path(place.show(plain)["Backing"]).read_bytes()
    target = place.do("create", "--size", str(SIZE), "--sector-size", "512")
    stored = Path(place.show(target)["Backing"])
    empty = stored.stat().st_blocks
    with place.start("convert", plain, "--to", target) as command:
        wait_until(lambda: stored.stat().st_blocks > empty + 64 or command.poll() is not None)
        command.send_signal(signal.SIGKILL)

    assert Path(place.show(plain)["Backing"]).read_bytes() == before
    place.do("convert", plain, "--to", target, "--overwrite")

    assert exported(place, target, tmp_path / "out") == before

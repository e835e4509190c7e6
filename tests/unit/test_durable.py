import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebscrypt import durable


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """While a file is replaced over and over, whoever opens it reads one whole content; the mode is private."""
    path = tmp_path / "file"
    contents = [bytes([letter]) * 100_000 for letter in b"ab"]
    durable.write_file(path, contents[0])
    program = (
        "import sys; from pathlib import Path; from ebscrypt import durable\n"
        "for turn in range(200): durable.write_file(Path(sys.argv[1]), b'ab'[turn % 2:][:1] * 100_000)"
    )
    with subprocess.Popen([sys.executable, "-c", program, path]) as writer:
        while writer.poll() is None:
            assert path.read_bytes() in contents
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An fsync that fails is told, the old content stays, and nothing lies beside it."""
    path = tmp_path / "file"
    durable.write_file(path, b"old")

    def fail(_: int) -> None:
        raise OSError(5, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no"):
            durable.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_create_never_overwrites(tmp_path: Path) -> None:
    """The first one wins, and the second is told so."""
    assert durable.create_file(tmp_path / "file", b"first")
    assert not durable.create_file(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


def test_leftovers_of_both_kinds_go(tmp_path: Path) -> None:
    """What a killed writer left is removed with its file, or by who tidies the directory; other files stay."""
    for name in ("file", ".file.new", ".other.new-0123456789abcdef", "kept"):
        (tmp_path / name).touch()
    durable.remove_file(tmp_path / "file")
    durable.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["kept"]
    durable.remove_file(tmp_path / "file")

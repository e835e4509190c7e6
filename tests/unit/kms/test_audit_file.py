"""The file of audit records under many writers, when it is turned over, and with broken lines in it."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import ebscrypt
from ebscrypt.kms.audit_file import NAME, Reader, append

SOURCE = str(Path(ebscrypt.__file__).parents[1])
OVER_THE_LIMIT = f"""
import sys, pathlib, resource
sys.path.insert(0, {SOURCE!r})
import ebscrypt
from ebscrypt.kms.audit_file import append
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    append(pathlib.Path(sys.argv[1]), {{"n": 2, "fill": "x" * 100}}, largest=1 << 20, files=2)
except OSError as error:
    print(error.strerror)
"""
WRITERS = 4
EACH = 300


def numbers(directory: Path) -> list[int]:
    """The numbers of all records that are left, in the order of reading."""
    with Reader(directory) as reader:
        found = [record["n"] for record in reader.read()]
        assert reader.broken == 0
        assert not reader.unfinished()
    return found


def test_records_are_for_their_owner_only(tmp_path: Path) -> None:
    """Directory 0700 and file 0600, whatever the umask was."""
    umask = os.umask(0)
    try:
        append(tmp_path / "a" / "audit", {"n": 1}, largest=4096, files=2)
    finally:
        os.umask(umask)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a/audit", tmp_path / "a/audit" / NAME)]
    assert modes == [0o700, 0o600]


def test_files_are_turned_over_and_the_oldest_goes(tmp_path: Path) -> None:
    """No file exceeds the limit, no more are kept than asked for, and what is left is the newest, in order."""
    for number in range(200):
        append(tmp_path, {"n": number, "fill": "x" * 90}, largest=1000, files=3)

    files = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(NAME))
    assert files == [NAME, f"{NAME}.1", f"{NAME}.2"]
    assert all((tmp_path / name).stat().st_size <= 1000 for name in files)
    left = numbers(tmp_path)
    assert left == list(range(200 - len(left), 200))
    assert 18 < len(left) <= 30


def test_a_record_larger_than_a_file_is_kept_whole(tmp_path: Path) -> None:
    """It gets a file of its own."""
    for number in range(3):
        append(tmp_path, {"n": number, "fill": "x" * 5000}, largest=1000, files=5)

    assert numbers(tmp_path) == [0, 1, 2]


def _write(directory: Path, writer: int) -> None:
    for number in range(EACH):
        append(directory, {"n": writer * EACH + number, "fill": "x" * 100}, largest=4096, files=1000)


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    """Processes that write and turn over at the same time: each record is there once, each writer's in order."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, writer)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)

    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    found = numbers(tmp_path)
    assert sorted(found) == list(range(WRITERS * EACH))
    assert len(list(tmp_path.glob(f"{NAME}.*"))) > 20


def test_nobody_waits_for_who_turns_over(tmp_path: Path) -> None:
    """While another process renames files, or was stopped in the middle, records go into the file that is there."""
    for number in range(2):
        append(tmp_path, {"n": number, "fill": "x" * 900}, largest=1000, files=3)
    with (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        append(tmp_path, {"n": 2, "fill": "x" * 900}, largest=1000, files=3)

    assert sorted(path.name for path in tmp_path.glob(f"{NAME}*")) == [NAME, f"{NAME}.1"]
    append(tmp_path, {"n": 3, "fill": "x" * 900}, largest=1000, files=3)
    assert sorted(path.name for path in tmp_path.glob(f"{NAME}*")) == [NAME, f"{NAME}.1", f"{NAME}.2"]
    assert numbers(tmp_path) == [0, 1, 2, 3]


def test_a_reader_follows_through_turning_over(tmp_path: Path) -> None:
    """Each reading gives what came since the last, once, although files were renamed in between."""
    seen: list[int] = []
    with Reader(tmp_path) as reader:
        for number in range(120):
            append(tmp_path, {"n": number, "fill": "x" * 90}, largest=1000, files=3)
            if number % 5 == 0:
                seen += [record["n"] for record in reader.read()]
        seen += [record["n"] for record in reader.read()]

    assert seen == list(range(120))


@pytest.mark.parametrize(
    "broken", [b"{", b"not JSON", b'{"n": 1}{"n": 2}', b"[1]", b"\xff\xfe", b'"text"', b"[" * 5000]
)
def test_broken_lines_are_left_out_and_counted(broken: bytes, tmp_path: Path) -> None:
    """What is before and after a line that is no record is read."""
    append(tmp_path, {"n": 1}, largest=1 << 20, files=2)
    with (tmp_path / NAME).open("ab") as file:
        file.write(broken + b"\n")
    append(tmp_path, {"n": 2}, largest=1 << 20, files=2)

    with Reader(tmp_path) as reader:
        assert [record["n"] for record in reader.read()] == [1, 2]
        assert reader.broken == 1


def test_what_a_full_disk_cut_off_spoils_no_more(tmp_path: Path) -> None:
    """A record that does not fit is an error; its first half is one broken line, and the next record is whole."""
    append(tmp_path, {"n": 1}, largest=1 << 20, files=2)
    size = (tmp_path / NAME).stat().st_size
    # In a process of its own: the limit is the whole process's, and pytest must not have it.
    ran = subprocess.run(
        [sys.executable, "-c", OVER_THE_LIMIT, tmp_path, str(size + 10)], capture_output=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"No space left on device\n", b"")
    with Reader(tmp_path) as reader:
        assert [record["n"] for record in reader.read()] == [1]
        assert reader.unfinished()

    append(tmp_path, {"n": 3}, largest=1 << 20, files=2)

    with Reader(tmp_path) as reader:
        assert [record["n"] for record in reader.read()] == [1, 3]
        assert (reader.broken, reader.unfinished()) == (1, False)


def test_a_gap_after_a_crash_is_filled(tmp_path: Path) -> None:
    """Where a crash came between two renames, no file is overwritten until there are too many again."""
    for number in range(4):
        append(tmp_path, {"n": number, "fill": "x" * 900}, largest=1000, files=6)
    (tmp_path / f"{NAME}.3").rename(tmp_path / f"{NAME}.5")
    (tmp_path / f"{NAME}.2").rename(tmp_path / f"{NAME}.4")

    append(tmp_path, {"n": 4, "fill": "x" * 900}, largest=1000, files=6)

    assert numbers(tmp_path) == [0, 1, 2, 3, 4]


def test_fewer_files_than_before(tmp_path: Path) -> None:
    """With a smaller ``files`` the files that are too many go with the next turn."""
    for number in range(6):
        append(tmp_path, {"n": number, "fill": "x" * 900}, largest=1000, files=6)

    append(tmp_path, {"n": 6, "fill": "x" * 900}, largest=1000, files=2)

    assert sorted(path.name for path in tmp_path.glob(f"{NAME}*")) == [NAME, f"{NAME}.1"]
    assert numbers(tmp_path) == [5, 6]


def test_nothing_there_is_nothing_to_read(tmp_path: Path) -> None:
    """A directory that is not there has no records."""
    assert numbers(tmp_path / "none") == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link in the file's place is an error, and what it leads to stays as it is."""
    (tmp_path / "other").write_text("precious")
    (tmp_path / NAME).symlink_to(tmp_path / "other")

    with pytest.raises(OSError, match="symbolic links"):
        append(tmp_path, {"n": 1}, largest=4096, files=2)

    assert (tmp_path / "other").read_text() == "precious"

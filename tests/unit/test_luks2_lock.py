import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt.errors import BackingInUse, NotPermitted
from ebscrypt.luks2 import header_lock, lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cryptsetup" / "L_7:0"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)


@pytest.fixture
def regular_file(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a regular file."""
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        yield file.fileno()


def test_the_lock_of_a_file_is_flock_on_the_file(regular_file: int, tmp_path: Path) -> None:
    """Another description of the same file cannot take it meanwhile, and can afterwards."""
    with (tmp_path / "file").open("rb") as other:
        with header_lock(regular_file), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)

        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.usefixtures("impatient")
def test_a_locked_file_is_in_use(regular_file: int, tmp_path: Path) -> None:
    """After the patience is used up, BackingInUse says so and how to see by whom."""
    with (tmp_path / "file").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(BackingInUse, match="has held the lock") as caught, header_lock(regular_file):
            pytest.fail("took a lock that another holds")
    assert "lslocks" in str(caught.value.hint)


def test_the_lock_file_of_a_device_goes_with_its_holder(path: Path) -> None:
    """It is made with its folder, private to root, and removed at the end."""
    held = lock._take_path(path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)

    lock._release_path(held, path)

    assert not path.exists()


@pytest.mark.usefixtures("impatient")
def test_a_locked_device_is_in_use(path: Path) -> None:
    """The same answer as for a file, and no descriptor left open."""
    held = lock._take_path(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    try:
        with pytest.raises(BackingInUse):
            lock._take_path(path)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        lock._release_path(held, path)


def test_a_lock_file_that_was_removed_while_waiting_is_not_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last holder removes the file as it lets go: who waited on it opens the new one, so that two never hold it."""
    first = lock._take_path(path)
    tried = threading.Event()
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        tried.set()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.append(lock._take_path(path)))
    waiter.start()
    assert tried.wait(5)
    lock._release_path(first, path)
    waiter.join(5)

    assert not waiter.is_alive()
    assert os.path.samestat(os.fstat(found[0]), path.stat())
    lock._release_path(found[0], path)


def test_a_lock_that_cannot_be_made_is_not_passed_over(tmp_path: Path) -> None:
    """Where the folder cannot be had, the update is refused rather than done without the lock."""
    (tmp_path / "cryptsetup").write_text("not a folder")

    with pytest.raises(NotPermitted, match="cannot take cryptsetup's lock") as caught:
        lock._take_path(tmp_path / "cryptsetup" / "L_7:0")
    assert "write access" in str(caught.value.hint)


def test_a_link_in_the_place_of_the_lock_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Nobody is led to create or lock another file."""
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(NotPermitted):
        lock._take_path(path)
    assert not (tmp_path / "elsewhere").exists()

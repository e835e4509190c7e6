import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt import durable, errors
from ebscrypt.stores import directory, incoming, syncing
from ebscrypt.stores.directory import BATCH, Directory
from ebscrypt.stores.names import BLOCK_SIZE, block_name, block_path
from ebscrypt.stores.store import Store
from tests.snapshot_samples import block, manifest_of, put_blocks, snapshot_id


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    opened = Store(Directory(root))
    yield opened
    opened.close()


def name(number: int) -> bytes:
    return block_name(block(number))


def test_everything_is_private(root: Path, store: Store) -> None:
    """Directories are 0700 and files 0600, whatever the umask lets through."""
    old = os.umask(0)
    try:
        put_blocks(store, range(3))
        store.put_manifest(snapshot_id(1), manifest_of(1, range(3)))
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()} == {0o600}


def test_a_block_has_no_name_before_it_is_durable(root: Path, store: Store) -> None:
    """Until the sync only its writer sees a block; the sync, a full batch or a manifest gives it its name."""
    put_blocks(store, [1])
    assert not (root / block_path(name(1))).exists()
    assert store.get_block(name(1)) == block(1)
    assert store.missing([name(1)]) == set()

    store.put_manifest(snapshot_id(1), manifest_of(1, [1]))
    assert (root / block_path(name(1))).read_bytes() == block(1)
    put_blocks(store, range(10, 10 + BATCH))
    assert (root / block_path(name(10))).exists()


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_named_was_synced(root: Path, monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> None:
    """In both ways of syncing: files first, then names, then the folders, and nothing is named without a sync."""
    order: list[str] = []
    real = syncing.FileSystem.sync

    def sync(self: syncing.FileSystem, given: Iterator[str | Path]) -> None:
        paths = list(given)
        order.append("folders" if Path(paths[0]).is_dir() else "files")
        assert (root / block_path(name(1))).exists() == (order[-1] == "folders")
        real(self, paths)

    monkeypatch.setattr(syncing, "KEEPS_ITS_WORD", syncing.KEEPS_ITS_WORD if at_once else frozenset())
    store = Store(Directory(root))
    monkeypatch.setattr(syncing.FileSystem, "sync", sync)
    put_blocks(store, [1, 2])
    store.sync()
    store.sync()

    assert order == ["files", "folders"]
    store.close()


def test_a_failed_sync_is_never_forgotten(root: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once syncing failed, no manifest can be put through this opening, and the blocks have no names."""
    put_blocks(store, [1])
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(syncing.FileSystem, "sync", fail)
        with pytest.raises(errors.StoreError, match="Input/output error"):
            store.put_manifest(snapshot_id(1), manifest_of(1, [1]))
    with pytest.raises(errors.StoreError, match="Input/output error"):
        store.put_manifest(snapshot_id(1), manifest_of(1, [1]))
    with pytest.raises(errors.StoreError):
        store.put_block(name(2), block(2))
    assert list(store.list_manifests()) == []
    again = Store(Directory(root))
    assert again.missing([name(1)]) == {name(1)}
    again.close()


def test_a_full_disk_is_told_and_harms_nothing(tmp_path: Path) -> None:
    """On a file system of 4 MiB the put that does not fit says so; what was synced stays; room made, it goes on."""
    mountpoint = tmp_path / "full"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", mountpoint], check=True)
    try:
        store = Store(Directory(mountpoint / "store"))
        contents = [os.urandom(BLOCK_SIZE) for _ in range(12)]

        def fill() -> None:
            for content in contents:
                store.put_block(block_name(content), content)
                store.sync()

        with pytest.raises(errors.StoreFull, match=r"No space left.*|cannot write") as caught:
            fill()
        assert caught.value.hint
        kept = list(store.list_blocks())
        assert 4 <= len(kept) < 8
        for found in kept:
            store.get_block(found.name)
        assert list((mountpoint / "store" / "incoming").glob("*/*")) == []
        store.delete_blocks(found.name for found in kept[:2])
        assert store.put_block(block_name(contents[-1]), contents[-1])
        store.sync()
        store.close()
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_a_file_size_limit_is_a_full_disk(root: Path) -> None:
    """What the process may not write for its limits is told as want of room, and leaves no part."""
    program = (
        "import resource, sys; from pathlib import Path; from ebscrypt import errors\n"
        "from ebscrypt.stores.directory import Directory; from ebscrypt.stores.store import Store\n"
        "store = Store(Directory(Path(sys.argv[1])))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: store.put_block(bytes(32), bytes(200_000))\n"
        "except errors.StoreFull: store.close(); sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, root], check=False).returncode == 7
    assert list((root / "incoming").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(root: Path, store: Store) -> None:
    """Half-written files of a killed process are removed; a writer at work is not disturbed, here or elsewhere."""
    put_blocks(store, [1])
    program = (
        "import os, sys; from pathlib import Path; from ebscrypt.stores.incoming import Incoming\n"
        "Incoming(Path(sys.argv[1])).write(b'x' * 1000); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, root], check=False)
    assert len(list((root / "incoming").iterdir())) == 2

    assert store.clean_up() == 1
    store.sync()
    assert store.get_block(name(1)) == block(1)
    assert len(list((root / "incoming").iterdir())) == 1


def test_a_cleaner_who_comes_between_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer's new folder that is removed before he could lock it is made again."""
    durable.make_directory(root)
    real = fcntl.flock
    removed: list[bool] = []

    def flock(descriptor: int, how: int) -> None:
        if not removed:
            removed.append(True)
            incoming.remove_abandoned(root)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    made = incoming.Incoming(root)
    assert Path(made.write(b"content")).read_bytes() == b"content"
    made.close()


@pytest.mark.parametrize("obstacle", ["link", "fifo", "directory"])
def test_what_is_no_file_is_not_read(root: Path, store: Store, obstacle: str) -> None:
    """A symbolic link, a pipe or a directory in a block's place is an error, and never waited for."""
    place = root / block_path(name(1))
    place.parent.mkdir(parents=True)
    if obstacle == "link":
        place.symlink_to("/etc/hostname")
    elif obstacle == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(errors.StoreError):
        store.get_block(name(1))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, errors.StoreFull),
        (errno.EDQUOT, errors.StoreFull),
        (errno.EFBIG, errors.StoreFull),
        (errno.EACCES, errors.StoreAccessDenied),
        (errno.EROFS, errors.StoreAccessDenied),
        (errno.ENOENT, errors.StoreNotFound),
        (errno.EIO, errors.StoreError),
        (errno.ESTALE, errors.StoreError),
    ],
)
def test_each_cause_has_its_error(number: int, kind: type[errors.StoreError]) -> None:
    """What the system says becomes the store's error for it, with something to do."""
    translated = directory._translated(OSError(number, os.strerror(number)), "text")
    assert type(translated) is kind
    assert translated.hint


def test_a_power_cut_brings_no_manifest_back(root: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting a manifest syncs its folder before it returns: blocks are only deleted after that."""
    store.put_manifest(snapshot_id(1), manifest_of(1, []))
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    store.delete_manifest(snapshot_id(1))
    assert synced == [root / "manifests"]


def test_a_store_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    """Without leave to create, a directory that is not there is an error."""
    with pytest.raises(errors.StoreNotFound, match="no directory"):
        Directory(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()

"""Objects in a directory: local disk, or whatever is mounted there. Private (0700, 0600), crash-safe, no daemon.

    <root>/store.json, blocks/ab/…, manifests/…, pins/…, sweeps/…      named only once their content is durable
    <root>/incoming/<writer>/…                                         being written

Blocks are made durable in batches: a sync for each would cost more than everything else together. A batch is written,
then synced, then renamed, then the names are synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ebscrypt import durable, errors
from ebscrypt.stores.incoming import Incoming, remove_abandoned
from ebscrypt.stores.names import PINS, Content
from ebscrypt.stores.objects import Entry
from ebscrypt.stores.syncing import FileSystem

BATCH: Final = 256
"""Files synced together: 128 MiB of blocks. More at once was no quicker where it was measured (decision 0040)."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class _Written(NamedTuple):
    path: str
    temporary: str


class Directory:
    """`Objects` in ``root``, which is made if ``create`` allows it and it is not there."""

    def __init__(self, root: Path, *, create: bool = True) -> None:
        self._root, self._prefix = root, f"{root}/"
        self._incoming: Incoming | None = None
        self._batch: list[_Written] = []
        self._unnamed: dict[str, str] = {}
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._failed: errors.StoreError | None = None
        with self._telling("open"):
            if create:
                durable.make_directory(root)
            elif not root.is_dir():
                raise errors.StoreNotFound(f"there is no directory {root}", hint="is its file system mounted?")
            self._file_system = FileSystem(root)

    @property
    def url(self) -> str:
        return self._root.absolute().as_uri()

    def put(self, path: str, content: Content, *, sha256: bytes, replace: bool = False, durable: bool = True) -> bool:  # noqa: ARG002 - a disk has nobody to check the digest
        self._check_failed()
        if durable:
            self.sync()
            return self._put_now(path, content, replace=replace)
        if not replace and self._is_here(path):
            return False
        with self._telling(f"write {path} to"):
            temporary = self._folder().write(content)
            with self._lock:
                self._batch.append(_Written(path, temporary))
                self._unnamed[path] = temporary
                full = len(self._batch) >= BATCH
        if full:
            self.sync()
        return True

    def get(self, path: str, largest: int) -> bytes | None:
        with self._telling(f"read {path} from"):
            for _ in range(2):
                # Named between the first and the second look: then it is found on the second turn.
                for place in (self._prefix + path, self._unnamed.get(path)):
                    if place is not None and (content := _read(place, largest)) is not None:
                        return content
        return None

    def present(self, paths: Sequence[str]) -> set[str]:
        return {path for path in paths if self._is_here(path)}

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self._telling(f"list {prefix} in"):
            yield from self._walk(prefix)

    def delete(self, paths: Sequence[str]) -> None:
        with self._telling("delete from"):
            folders = {os.path.dirname(self._prefix + path) for path in paths}  # noqa: PTH120 - strings on a hot path
            for path in paths:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.unlink(self._prefix + path)  # noqa: PTH108 - a hot path
            for folder in folders:
                with contextlib.suppress(FileNotFoundError):
                    # Durable, so that no power cut brings a manifest back whose blocks are gone.
                    durable.sync_directory(Path(folder))
                    if folder.startswith(self._prefix + PINS):
                        with contextlib.suppress(OSError):
                            Path(folder).rmdir()

    def is_empty(self) -> bool:
        with self._telling("list"):
            return not any(path.name != "lost+found" for path in self._root.iterdir())

    def sync(self) -> None:
        self._check_failed()
        with self._sync_lock:
            with self._lock:
                batch, self._batch = self._batch, []
            if not batch:
                return
            try:
                with self._telling("write blocks to"):
                    self._name(batch)
            except errors.StoreError as error:
                # Nobody knows what of the batch is on the disk, and a second fsync would not tell (decision 0011).
                self._failed = error
                raise
            finally:
                with self._lock:
                    for written in batch:
                        if self._unnamed.get(written.path) == written.temporary:
                            del self._unnamed[written.path]

    def clean_up(self) -> int:
        with self._telling("clean up"):
            return remove_abandoned(self._root)

    def close(self) -> None:
        with self._sync_lock, self._lock:
            self._batch, self._unnamed = [], {}
            if self._incoming is not None:
                self._incoming.close()
            self._incoming = None
            self._file_system.close()

    def _check_failed(self) -> None:
        if self._failed is not None:
            raise type(self._failed)(self._failed.message, hint=self._failed.hint)

    def _folder(self) -> Incoming:
        with self._lock:
            if self._incoming is None:
                self._incoming = Incoming(self._root)
            return self._incoming

    def _is_here(self, path: str) -> bool:
        return path in self._unnamed or os.path.exists(self._prefix + path)  # noqa: PTH110 - a hot path

    def _name(self, batch: list[_Written]) -> None:
        """Make the files of a batch durable, then give them their names, then make those durable."""
        self._file_system.sync(written.temporary for written in batch)
        folders = set()
        for written in batch:
            final = Path(self._prefix + written.path)
            if final.parent not in folders:
                durable.make_directory(final.parent)
                folders.add(final.parent)
            Path(written.temporary).rename(final)
        self._file_system.sync(folders)

    def _put_now(self, path: str, content: Content, *, replace: bool) -> bool:
        final = Path(self._prefix + path)
        with self._telling(f"write {path} to"):
            durable.make_directory(final.parent)
            temporary = Path(self._folder().write(content))
            try:
                _sync_file(temporary)
                if replace:
                    temporary.rename(final)
                else:
                    final.hardlink_to(temporary)  # fails where something is, which a rename would not
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            durable.sync_directory(final.parent)
        return True

    def _walk(self, folder: str) -> Iterator[Entry]:
        try:
            with os.scandir(self._prefix + folder) as scan:
                found = sorted(scan, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(f"{folder}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    status = entry.stat(follow_symlinks=False)
                    yield Entry(folder + entry.name, status.st_size, status.st_mtime)

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turn OSError into the store's errors, which say what was tried where."""
        try:
            yield
        except OSError as error:
            raise _translated(error, f"cannot {what} the store {self._root}: {error.strerror}") from error


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(place: str, largest: int) -> bytes | None:
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        wanted = min(os.fstat(descriptor).st_size, largest + 1)
        parts = [file.read(wanted)]
        # One read gives at most 2 GiB, and a network file system may give less than was asked for.
        while (got := sum(map(len, parts))) < wanted and (more := file.read(wanted - got)):
            parts.append(more)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _translated(error: OSError, text: str) -> errors.StoreError:
    if error.errno in _FULL:
        return errors.StoreFull(text, hint="make room or raise the quota, then try again: what was stored is kept")
    if error.errno in _DENIED:
        return errors.StoreAccessDenied(text, hint="run as the user who owns the store, and check that it is writable")
    if error.errno == errno.ENOENT:
        return errors.StoreNotFound(text, hint="is its file system mounted?")
    return errors.StoreError(text, hint="look at the kernel's log: `dmesg`")

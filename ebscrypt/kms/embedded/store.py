"""Where the embedded KMS lies: its directory, the SQLite database in it, transactions.

    <state>/kms/       0700
        README         0600   what these files protect against, and what not
        root.key       0600   see root_key.py; or root.cred, or elsewhere, if the settings say so
        keys.db        0600   see schema.py, with SQLite's keys.db-wal and keys.db-shm beside it

SQLite in WAL mode with synchronous=FULL: a committed change survives a power cut, readers do not wait for writers, and
any number of processes may use the store at once. secure_delete overwrites what is deleted.

The first opening makes directory, root key and tables under a lock on the directory, each step whole or not at all, so
that a crash between them is finished by the next opening. A database whose root key is missing is never given another.

The root key may be changed while the store is open (root_change.py). Every transaction therefore looks first whether
the root key at hand is the one that it needs: ``root`` is right from the beginning of a transaction to its end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, EbscryptError, KmsError, NotPermitted, OutOfSpace
from ebscrypt.kms.embedded import directory, root_files, root_key, schema
from ebscrypt.kms.embedded.readme import README
from ebscrypt.kms.embedded.root_key import RootKey

DATABASE: Final = "keys.db"
_SHARED_MEMORY_SIZE: Final = 32 * 1024
"""Bytes by which SQLite extends keys.db-shm (https://sqlite.org/walformat.html, 2.1)."""
_LOOKS: Final = 3
"""At the root key's files, before none of them is said to be right: one more than one change of them may spoil."""


class StoreBusy(Exception):
    """Another process kept the store longer than ``kms.timeout``; trying again is right."""


class Store:
    """One process's connection to the store. Use from any thread; transactions take turns.

    ``root`` is the root key of the transaction that is under way: use it within, not after.

    Raises `NotPermitted` when it or its directory is not ours alone, `ConfigError` when the root key is missing or
    another, `KmsError` when the database is damaged, foreign or too new, `OutOfSpace`; and `StoreBusy`.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = settings.kms_dir / DATABASE
        self._settings = settings
        self._turn = threading.Lock()
        self._fingerprint: str | None = None
        self.root: RootKey
        with explained(self.path):
            directory.check(settings.kms_dir)
            self._connection = _open(settings, self.path)
            self._finalizer = weakref.finalize(self, _close, self._connection, os.getpid())
        try:
            with explained(self.path):
                root_files.tidy(settings, lambda: schema.root_fingerprint(self._connection))
            with self.read():
                pass  # which finds the root key, or says why not
        except BaseException:
            self._finalizer()
            raise

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one moment of the store."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that may change it: committed and durable at the end, undone by any exception."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._turn, explained(self.path):
            self._begin(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._undo()
                raise

    def _begin(self, begin: str) -> None:
        """Begin, with the root key of the moment that the transaction sees.

        Its files are no part of the transaction: they may change once more between the look at the fingerprint and the
        look at them. Then all looks are taken again.
        """
        for chances in reversed(range(_LOOKS)):
            self._connection.execute(begin)
            try:
                fingerprint = schema.root_fingerprint(self._connection)
                if fingerprint != self._fingerprint:
                    self.root = root_key.matching(self._settings, fingerprint)
                    self._fingerprint = fingerprint
            except (ConfigError, NotPermitted):
                self._undo()
                if not chances:
                    raise
            except BaseException:
                self._undo()
                raise
            else:
                return

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def forget_deleted(self) -> None:
        """Empty the write-ahead log, which may still hold older forms of pages with what was deleted."""
        with self._turn, explained(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Idempotent."""
        with self._turn:
            self._finalizer()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise about the store into errors of ebscrypt."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error, path) from None
    except OSError as error:
        raise _explain_os(error, path) from None


def _explain(error: sqlite3.Error, path: Path) -> EbscryptError | StoreBusy:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"the store {path} of the embedded KMS is busy")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path.parent)):
        return OutOfSpace(f"no space left for the store {path} of the embedded KMS", hint="free some, then try again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return NotPermitted(
            f"cannot open the store {path} of the embedded KMS: {error}", hint="run as its owner, often root: sudo"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return KmsError(
            f"the store {path} of the embedded KMS is corrupted or tampered with: {error}",
            hint="restore the directory, root key and keys.db together, from a backup",
        )
    return KmsError(f"the store {path} of the embedded KMS failed: {error}")


def _is_full(directory: Path) -> bool:
    """Whether SQLite's "disk I/O error" was want of room for its shared-memory file, which it does not say."""
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize < _SHARED_MEMORY_SIZE


def _explain_os(error: OSError, path: Path) -> EbscryptError:
    text = f"cannot use the directory {path.parent} of the embedded KMS: {error.strerror}"
    if isinstance(error, PermissionError):
        return NotPermitted(text, hint="run as its owner, often root: sudo")
    return OutOfSpace(text) if error.errno in (errno.ENOSPC, errno.EDQUOT) else KmsError(text)


def _close(connection: sqlite3.Connection, owner: int) -> None:
    # A forked child must leave its parent's connection alone: https://sqlite.org/howtocorrupt.html, 2.6.
    if os.getpid() == owner:
        connection.close()


def _open(settings: Settings, path: Path) -> sqlite3.Connection:
    if path.exists():
        connection = _connect(path, settings.kms.timeout)
        if _has_tables(connection, path):
            return connection
        connection.close()
    _make(settings, path)
    return _connect(path, settings.kms.timeout)


def _has_tables(connection: sqlite3.Connection, path: Path) -> bool:
    try:
        return schema.ready(connection, path)
    except BaseException:
        connection.close()
        raise


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _make(settings: Settings, path: Path) -> None:
    """The first opening's work. Whoever waits for the lock finds it done."""
    with directory.locked(path.parent):
        durable.remove_leftovers(path.parent)
        durable.create_file(path.parent / "README", README.encode(), 0o600)
        root = root_key.load(settings, create=True)
        # SQLite gives its own files the mode of the database, which therefore has to be there first.
        durable.create_file(path, b"", 0o600)
        with contextlib.closing(_connect(path, settings.kms.timeout)) as connection:
            if not schema.ready(connection, path):
                connection.execute("PRAGMA journal_mode = WAL")
                schema.create(connection, root.fingerprint)

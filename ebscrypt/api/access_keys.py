"""The access keys that the API accepts, in one file: ``<state>/api/access-keys.json``, mode 0600.

A signature is an HMAC, so who checks it has the secret itself: whoever reads this file can sign. It is no AWS key, and
opens nothing but this API.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import string
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from ebscrypt import durable
from ebscrypt.errors import ConfigError, InvalidParameter, NotFound, NotPermitted
from ebscrypt.model import utc_now

if TYPE_CHECKING:
    from ebscrypt.config import Settings

MOST_KEYS: Final = 100
LARGEST_FILE: Final = 1 << 20
"""Bytes that are read of the file: more than all keys have."""
_CAPITALS: Final = string.ascii_uppercase + "234567"
_SECRET: Final = string.ascii_letters + string.digits + "+/"
_USER: Final = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)


class AccessKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="pascal"):
    """One key. ``user`` is the name in the ARN of who signs with it."""

    access_key_id: str
    secret_access_key: str
    user: str
    create_date: datetime

    def __repr__(self) -> str:
        return f"AccessKey({self.access_key_id})"


class AccessKeys:
    """The file of access keys of one installation. Any number of processes may change it at a time."""

    def __init__(self, settings: Settings) -> None:
        self.path: Path = settings.api_dir / "access-keys.json"

    def all(self) -> list[AccessKey]:
        """The keys, oldest first. Raises `ConfigError` for a damaged file or one that others can read.

        One that belongs to another user than root and this process's is refused, too: who owns a file can open it.
        """
        try:
            with self.path.open("rb") as file:
                about, content = os.fstat(file.fileno()), file.read(LARGEST_FILE + 1)
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise NotPermitted(f"cannot read the access keys in {self.path}: {error.strerror}") from None
        mode = stat.S_IMODE(about.st_mode)
        if mode & 0o077 or about.st_uid not in {0, os.geteuid()}:
            raise ConfigError(
                f"others can read the access keys in {self.path} (mode {mode:04o}, of user {about.st_uid})",
                hint=f"chmod 0600 {self.path}, and make new keys if that was so for long",
            )
        try:
            return msgspec.json.decode(content, type=list[AccessKey])
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Without the decoder's own words: they may quote what the file has.
            raise ConfigError(
                f"the access keys in {self.path} cannot be read: the file is damaged",
                hint="restore it, or remove it and make new keys with `ebscrypt api key create`",
            ) from None

    def stamp(self) -> tuple[int, int, int] | None:
        """What tells one version of the file from another; None while there is none."""
        try:
            seen = self.path.stat()
        except FileNotFoundError:
            return None
        return seen.st_ino, seen.st_mtime_ns, seen.st_size

    def create(self, user: str) -> AccessKey:
        """A new key, kept. Raises `InvalidParameter` for a name that an ARN cannot have, and for one key too many."""
        if not _USER.fullmatch(user):
            raise InvalidParameter(f"{user[:80]!r} is no user name", hint="1 to 64 letters, digits and +=,.@_-")
        key = AccessKey(
            access_key_id="AKIA" + "".join(secrets.choice(_CAPITALS) for _ in range(16)),
            secret_access_key="".join(secrets.choice(_SECRET) for _ in range(40)),
            user=user,
            create_date=utc_now(),
        )
        with self._changing() as keys:
            if len(keys) >= MOST_KEYS:
                raise InvalidParameter(f"there are {MOST_KEYS} access keys already", hint="remove one that is not used")
            keys.append(key)
        return key

    def remove(self, access_key_id: str) -> None:
        """Forget a key: requests signed with it are refused from then on. Raises `NotFound`."""
        with self._changing() as keys:
            rest = [key for key in keys if key.access_key_id != access_key_id]
            if len(rest) == len(keys):
                raise NotFound(f"there is no access key {access_key_id[:80]!r}", hint="see `ebscrypt api key ls`")
            keys[:] = rest

    def first(self) -> AccessKey | None:
        """A key for the user ``admin``, made now, if there is none at all yet; else None."""
        return None if self.all() else self.create("admin")

    @contextmanager
    def _changing(self) -> Iterator[list[AccessKey]]:
        """The keys, kept as they are left when the block ends well; one process at a time."""
        durable.make_directory(self.path.parent)
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = self.all()
            keys = list(before)
            yield keys
            if keys != before:
                durable.write_file(self.path, msgspec.json.format(msgspec.json.encode(keys)), 0o600)
        finally:
            os.close(descriptor)

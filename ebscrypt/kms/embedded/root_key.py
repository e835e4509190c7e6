r"""The root key: 32 random bytes over all secrets of the embedded KMS, in a file or a systemd credential.

    ebscrypt-kms-root-1 <64 hexadecimal digits>\n

One line of text, so that it can be recognised, copied and searched for. Where it comes from:

1. the credential ``ebscrypt-kms-root`` in $CREDENTIALS_DIRECTORY (systemd's LoadCredential or LoadCredentialEncrypted);
2. ``root.cred`` in the KMS's directory: the line as an encrypted credential of systemd, see credential.py;
3. ``root.key`` in the KMS's directory, which is made on first use.

``kms.root_key`` names another file for ``root.cred``, or one in clear that is the only place.
A file whose name ends in ``.cred``, or that lies in a directory called credstore.encrypted, is an encrypted credential.
It is opened in memory; the line in clear touches no disk. A store knows its root key by a fingerprint and takes, of
these places, the first that has the right one. While the root key is changed, the next one lies beside it as ``….new``
(see root_change.py), which therefore counts as well.

A file in clear must belong to this user and be closed to all others (0600 or stricter), an encrypted one be writable by
nobody else. A credential's mode is systemd's business; it must only not be open to everyone. A root key that is there
is never overwritten.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, EbscryptError, NotPermitted, OutOfSpace
from ebscrypt.kms.embedded import credential

_FORM: Final = re.compile(rb"ebscrypt-kms-root-1 ([0-9a-f]{64})\n?")
_LONGEST: Final = 128


class Kind(StrEnum):
    """How a root key is kept."""

    FILE = "file"
    CREDENTIAL = "credential"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a root key may be."""

    path: Path
    kind: Kind

    def exists(self) -> bool:
        """Whether something is there, as far as this user may see."""
        return os.path.exists(self.path)  # noqa: PTH110 - Path.exists raises where the directory may not be searched

    @property
    def next(self) -> Place:
        """Where the next root key lies until it takes this one's place: beside the file, not beside a link to it."""
        return Place(self.real.with_name(f"{self.real.name}.new"), self.kind)

    @property
    def real(self) -> Path:
        """The file itself."""
        return Path(os.path.realpath(self.path))


class RootKey:
    """The root key, used only through keys derived from it, each for one purpose (HKDF-Expand, RFC 5869).

    ``fingerprint`` is what a store remembers of its root key, to know another one: not secret, and says nothing of it.
    """

    __slots__ = ("_key", "fingerprint", "place")

    def __init__(self, key: bytes, place: Place) -> None:
        self._key = key
        self.place = place
        self.fingerprint = hmac.digest(
            self.derive("ebscrypt kms: root key fingerprint v1"), b"fingerprint", hashlib.sha256
        ).hex()

    @property
    def origin(self) -> Path:
        return self.place.path

    def derive(self, purpose: str) -> bytes:
        """32 bytes for ``purpose``."""
        return HKDFExpand(SHA256(), 32, purpose.encode()).derive(self._key)

    def line(self) -> bytes:
        """The root key itself, in the form of its file: for whoever puts it into another place."""
        return b"ebscrypt-kms-root-1 " + self._key.hex().encode() + b"\n"

    def at(self, place: Place) -> RootKey:
        """The same root key, to lie at another place."""
        return RootKey(self._key, place)

    def __repr__(self) -> str:
        return f"<RootKey from {self.origin}>"


def fresh(place: Place) -> RootKey:
    """A new root key that is to lie at ``place``, and does not yet."""
    return RootKey(secrets.token_bytes(32), place)


def places(settings: Settings) -> list[Place]:
    """Where the root key may be, in the order of trial: what is there, else where the first use puts it."""
    if settings.kms.root_key and not is_sealed_name(Path(settings.kms.root_key)):
        return [Place(Path(settings.kms.root_key), Kind.FILE)]
    found = [sealed_place(settings), plain_place(settings)]
    if directory := os.environ.get("CREDENTIALS_DIRECTORY"):
        found.insert(0, Place(Path(directory) / credential.NAME, Kind.CREDENTIAL))
    return [place for place in found if place.exists()] or [plain_place(settings)]


def plain_place(settings: Settings) -> Place:
    """Where a root key in clear lies unless the settings name another place."""
    return Place(settings.kms_dir / "root.key", Kind.FILE)


def sealed_place(settings: Settings) -> Place:
    """Where a sealed root key lies: `places` has it only while it is there, since it is made of one in clear."""
    named = Path(settings.kms.root_key) if settings.kms.root_key else settings.kms_dir / "root.cred"
    return Place(named, Kind.SEALED)


def is_sealed_name(path: Path) -> bool:
    """Whether a file of that name is an encrypted credential."""
    return path.name.removesuffix(".new").endswith(".cred") or path.parent.name == "credstore.encrypted"


def load(settings: Settings, *, create: bool) -> RootKey:
    """The root key from the first place; with ``create`` it is made where its file is missing.

    Raises `NotPermitted` when others could read it or it is not ours, `ConfigError` when it is missing, malformed, or
    sealed and does not open.
    """
    place = places(settings)[0]
    if create and not place.exists():
        write(place, fresh(place).line())
    return read(place)


def matching(settings: Settings, fingerprint: str) -> RootKey:
    """Of the root keys that are there, the one with that fingerprint. Raises what `load` raises.

    One that cannot be read does not matter while another is right.
    """
    others: list[Path] = []
    failed: EbscryptError | None = None
    for place in _candidates(settings):
        try:
            root = read(place)
        except (ConfigError, NotPermitted) as error:
            failed = failed or error
            continue
        if root.fingerprint == fingerprint:
            return root
        others.append(root.origin)
    if failed is not None:
        raise failed
    raise ConfigError(
        f"{' and '.join(map(str, others))} is not the root key that {settings.kms_dir} was made with",
        hint="restore the right root key, or point kms.root_key at it",
    )


def _candidates(settings: Settings) -> Iterator[Place]:
    tried = places(settings)
    yield from tried
    for place in tried:
        if place.kind is not Kind.CREDENTIAL and place.next.exists():
            yield place.next


def read(place: Place) -> RootKey:
    """The root key at ``place``. Raises what `load` raises."""
    try:
        content = _read(place)
    except FileNotFoundError:
        raise ConfigError(
            f"the root key {place.path} of the embedded KMS is missing",
            hint="restore it from its backup: without it no key of this KMS, and no volume under one, can be opened",
        ) from None
    except PermissionError as error:
        raise NotPermitted(
            f"cannot read the root key {place.path} of the embedded KMS: {error.strerror}",
            hint="run as the user who owns it, often root: sudo",
        ) from None
    if place.kind is Kind.SEALED:
        content = credential.decrypt(content, place.path)
    if (match := _FORM.fullmatch(content)) is None:
        raise ConfigError(
            f"the root key {place.path} of the embedded KMS is malformed: {len(content)} bytes",
            hint="it is one line: ebscrypt-kms-root-1 and 64 hexadecimal digits; restore it from its backup",
        )
    return RootKey(bytes.fromhex(match[1].decode()), place)


def write(place: Place, content: bytes) -> bool:
    """Put ``content`` at ``place`` unless something is there; whether it was put."""
    try:
        return durable.create_file(place.path, content, 0o600)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (OutOfSpace if full else NotPermitted)(
            f"cannot make the root key {place.path} of the embedded KMS: {error.strerror}",
            hint="free some space" if full else "run as the directory's owner, or name another place: kms.root_key",
        ) from error


def _read(place: Place) -> bytes:
    descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check_access(place, os.fstat(descriptor))
        return os.read(descriptor, (credential.LARGEST if place.kind is Kind.SEALED else _LONGEST) + 1)
    finally:
        os.close(descriptor)


def _check_access(place: Place, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise NotPermitted(f"the root key {place.path} of the embedded KMS is not a regular file")
    if place.kind is Kind.CREDENTIAL:
        if mode & 0o007:
            raise NotPermitted(f"the credential {place.path} is open to everyone (mode {mode:04o})")
        return
    if status.st_uid != os.geteuid():
        raise NotPermitted(
            f"the root key {place.path} of the embedded KMS belongs to uid {status.st_uid}, "
            f"and this is uid {os.geteuid()}",
            hint=f"run as its owner, or: chown {os.geteuid()} {place.path}",
        )
    if mode & (0o022 if place.kind is Kind.SEALED else 0o077):
        raise NotPermitted(
            f"the root key {place.path} of the embedded KMS is open to others (mode {mode:04o})",
            hint=f"chmod 600 {place.path}, and consider who may have read it",
        )

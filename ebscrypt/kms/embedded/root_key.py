r"""The root key: 32 random bytes over all key material of the embedded KMS, in a file or a systemd credential.

    ebscrypt-kms-root-1 <64 hexadecimal digits>\n

One line of text, so that it can be recognised, copied and searched for. Where it comes from, first match:

1. the file that ``kms.root_key`` names;
2. the credential ``ebscrypt-kms-root`` in $CREDENTIALS_DIRECTORY (systemd's LoadCredential or LoadCredentialEncrypted);
3. ``root.key`` in the KMS's directory, which is made on first use.

A file must belong to this user and be closed to all others (0600 or stricter). A credential's mode is systemd's
business; it must only not be open to everyone. A root key that is there is never overwritten.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, NotPermitted, OutOfSpace

CREDENTIAL: Final = "ebscrypt-kms-root"
_FORM: Final = re.compile(rb"ebscrypt-kms-root-1 ([0-9a-f]{64})\n?")
_LONGEST: Final = 128


class RootKey:
    """The root key, used only through keys derived from it, each for one purpose (HKDF-Expand, RFC 5869)."""

    __slots__ = ("_key", "origin")

    def __init__(self, key: bytes, origin: Path) -> None:
        self._key = key
        self.origin = origin

    def derive(self, purpose: str) -> bytes:
        """32 bytes for ``purpose``."""
        return HKDFExpand(SHA256(), 32, purpose.encode()).derive(self._key)

    @property
    def fingerprint(self) -> str:
        """What a store remembers of its root key, to know another one: not secret, and says nothing of the key."""
        return hmac.digest(self.derive("ebscrypt kms: root key fingerprint v1"), b"fingerprint", hashlib.sha256).hex()

    def __repr__(self) -> str:
        return f"<RootKey from {self.origin}>"


def load(settings: Settings, *, create: bool) -> RootKey:
    """The root key from the first place that is configured; with ``create`` it is made where a file is missing.

    Raises `NotPermitted` when others could read it or it is not ours, `ConfigError` when it is missing or malformed.
    """
    path, is_credential = _place(settings)
    if create and not is_credential:
        _make(path)
    try:
        return RootKey(_read(path, is_credential=is_credential), path)
    except FileNotFoundError:
        raise ConfigError(
            f"the root key {path} of the embedded KMS is missing",
            hint="restore it from its backup: without it no key of this KMS, and no volume under one, can be opened",
        ) from None
    except PermissionError as error:
        raise NotPermitted(
            f"cannot read the root key {path} of the embedded KMS: {error.strerror}",
            hint="run as the user who owns it, often root: sudo",
        ) from None


def _place(settings: Settings) -> tuple[Path, bool]:
    if settings.kms.root_key:
        return Path(settings.kms.root_key), False
    if directory := os.environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / CREDENTIAL
        if credential.exists():
            return credential, True
    return settings.kms_dir / "root.key", False


def _make(path: Path) -> None:
    """Put a new root key at ``path`` unless one is there. Of many the first wins; a crash leaves none or all of it."""
    if path.exists():
        return
    line = f"ebscrypt-kms-root-1 {secrets.token_hex(32)}\n"
    try:
        durable.create_file(path, line.encode(), 0o600)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (OutOfSpace if full else NotPermitted)(
            f"cannot make the root key {path} of the embedded KMS: {error.strerror}",
            hint="free some space" if full else "run as the directory's owner, or name another place: kms.root_key",
        ) from error


def _read(path: Path, *, is_credential: bool) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check_access(path, os.fstat(descriptor), is_credential=is_credential)
        content = os.read(descriptor, _LONGEST + 1)
    finally:
        os.close(descriptor)
    if (match := _FORM.fullmatch(content)) is None:
        raise ConfigError(
            f"the root key {path} of the embedded KMS is malformed: {len(content)} bytes",
            hint="it is one line: ebscrypt-kms-root-1 and 64 hexadecimal digits; restore it from its backup",
        )
    return bytes.fromhex(match[1].decode())


def _check_access(path: Path, status: os.stat_result, *, is_credential: bool) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise NotPermitted(f"the root key {path} of the embedded KMS is not a regular file")
    if is_credential:
        if mode & 0o007:
            raise NotPermitted(f"the credential {path} is open to everyone (mode {mode:04o})")
        return
    if status.st_uid != os.geteuid():
        raise NotPermitted(
            f"the root key {path} of the embedded KMS belongs to uid {status.st_uid}, and this is uid {os.geteuid()}",
            hint=f"run as its owner, or: chown {os.geteuid()} {path}",
        )
    if mode & 0o077:
        raise NotPermitted(
            f"the root key {path} of the embedded KMS is open to others (mode {mode:04o})",
            hint=f"chmod 600 {path}, and consider who may have read it",
        )

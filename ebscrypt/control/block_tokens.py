"""The tokens of the EBS direct APIs: which block, or where to go on, until when, and that we said so.

    block    1 │ snapshot │ index │ expiry │ nonce │ name of the stored block │ HMAC
    page     2 │ first snapshot │ second snapshot │ next index │ expiry │ nonce │ HMAC

Base64 of that, 128 or 96 characters where EBS allows 256. The HMAC's key is a secret of this installation and opens
nothing: who has a token needs leave to call the API besides. The nonce is the listing's own, so that no two listings
have a token in common. With the name in the token a block is read without its manifest, however large that is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
import time
from pathlib import Path
from typing import Final, NamedTuple

from ebscrypt import durable
from ebscrypt.errors import InvalidBlockRequest, NotPermitted
from ebscrypt.stores.names import BlockName

LIFETIME: Final = 7 * 86_400
"""Seconds for which a token is good: EBS does not say how long its own are, and 64 TiB at 100 MB/s take 8 days."""
KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 8
_TAG_SIZE: Final = 32
_BLOCK: Final = struct.Struct("<B9sIQ8s32s")
_PAGE: Final = struct.Struct("<B9s9sIQ8s")
_BLOCK_KIND: Final = 1
_PAGE_KIND: Final = 2


class Listing(NamedTuple):
    """One answer with tokens: its ``nonce``, and when they all expire, in milliseconds since 1970."""

    nonce: bytes
    expiry: int


def new_listing() -> Listing:
    return Listing(secrets.token_bytes(_NONCE_SIZE), int((time.time() + LIFETIME) * 1000))


class Tokens:
    """Makes and checks tokens with the key in ``path``, which is made when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._key = _load(path)

    def block(self, listing: Listing, snapshot_id: str, index: int, name: BlockName) -> str:
        """The token of a block that `open_block` takes."""
        return self._sealed(_BLOCK.pack(_BLOCK_KIND, _packed(snapshot_id), index, listing.expiry, listing.nonce, name))

    def open_block(self, token: str, snapshot_id: str, index: int) -> BlockName:
        """The stored block behind a token. Raises `InvalidBlockRequest` unless it is this one's and still good."""
        kind, of, at, expiry, _, name = _BLOCK.unpack(self._opened(token, _BLOCK.size, "INVALID_BLOCK_TOKEN"))
        if kind != _BLOCK_KIND or of != _packed(snapshot_id) or at != index:
            raise _invalid("INVALID_BLOCK_TOKEN", f"it is not one of block {index} of {snapshot_id}")
        _check_expiry(expiry, "INVALID_BLOCK_TOKEN")
        return bytes(name)

    def page(self, listing: Listing, first: str | None, second: str, following: int) -> str:
        """The token with which a listing of ``second``, or of its changes since ``first``, goes on at a block."""
        packed = (bytes(9) if first is None else _packed(first), _packed(second), following)
        return self._sealed(_PAGE.pack(_PAGE_KIND, *packed, listing.expiry, listing.nonce))

    def open_page(self, token: str, first: str | None, second: str) -> int:
        """The block at which the listing goes on. Raises `InvalidBlockRequest`."""
        content = self._opened(token, _PAGE.size, "INVALID_PAGE_TOKEN")
        kind, of_first, of_second, following, expiry, _ = _PAGE.unpack(content)
        wanted = (bytes(9) if first is None else _packed(first), _packed(second))
        if kind != _PAGE_KIND or (of_first, of_second) != wanted:
            raise _invalid("INVALID_PAGE_TOKEN", "it is one of another listing")
        _check_expiry(expiry, "INVALID_PAGE_TOKEN")
        return int(following)

    def _sealed(self, content: bytes) -> str:
        return base64.b64encode(content + self._tag(content)).decode("ascii")

    def _opened(self, token: str, size: int, reason: str) -> bytes:
        try:
            raw = base64.b64decode(token, validate=True)
        except (binascii.Error, ValueError):
            raise _invalid(reason, "it is none that was given out here") from None
        content, tag = raw[:-_TAG_SIZE], raw[-_TAG_SIZE:]
        if len(content) != size or not hmac.compare_digest(tag, self._tag(content)):
            raise _invalid(reason, "it is none that was given out here")
        return content

    def _tag(self, content: bytes) -> bytes:
        return hmac.digest(self._key, b"ebscrypt direct token 1\0" + content, hashlib.sha256)


def _packed(snapshot_id: str) -> bytes:
    return bytes.fromhex("0" + snapshot_id.removeprefix("snap-"))


def _check_expiry(expiry: int, reason: str) -> None:
    if time.time() * 1000 >= expiry:
        raise _invalid(reason, "it has expired", hint="list the blocks again")


def _invalid(reason: str, why: str, *, hint: str | None = None) -> InvalidBlockRequest:
    what = "block token" if reason == "INVALID_BLOCK_TOKEN" else "page token"
    return InvalidBlockRequest(f"the {what} is not valid: {why}", hint=hint, reason=reason)


def _load(path: Path) -> bytes:
    """The key in ``path``. Of processes that make it at once, all get the same."""
    try:
        if not path.exists():
            durable.make_directory(path.parent)
            durable.create_file(path, secrets.token_bytes(KEY_SIZE))
        key = path.read_bytes()
    except OSError as error:
        raise NotPermitted(
            f"the key of block tokens {path} cannot be read: {error.strerror}",
            hint="run as the user who owns the state",
        ) from error
    if len(key) != KEY_SIZE:
        raise NotPermitted(
            f"the key of block tokens {path} has {len(key)} bytes, not {KEY_SIZE}: it is damaged",
            hint="remove it: a new one is made, and clients have to list blocks again",
        )
    return key

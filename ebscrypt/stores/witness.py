"""What vouches for a manifest. A snapshot needs no key, so no secret of the data can do it.

Two witnesses are independent of the store. The *catalog* keeps each manifest's digest: it tells any other manifest from
the one that was written. The *manifest key*, a secret of this installation beside the catalog, makes an HMAC into each
manifest: it knows its own again when the catalog is lost. docs/formats/snapshot.md says what each is good against.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ebscrypt import durable
from ebscrypt.errors import ManifestNotAuthentic, StoreError

KEY_SIZE: Final = 32
KEY_ID_SIZE: Final = 8
TAG_SIZE: Final = 32
_TAG_PURPOSE: Final = b"ebscrypt snapshot manifest 1\0"
_ID_PURPOSE: Final = b"ebscrypt manifest key id 1\0"


@dataclass(frozen=True, slots=True)
class ManifestKey:
    """The secret of one installation: 32 random bytes, which open nothing and only vouch for manifests."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_SIZE:
            raise ValueError(f"a manifest key has {KEY_SIZE} bytes, not {len(self.secret)}")

    @property
    def key_id(self) -> bytes:
        """Eight bytes by which a manifest says whose tag it bears; they tell nothing of the secret."""
        return hashlib.sha256(_ID_PURPOSE + self.secret).digest()[:KEY_ID_SIZE]

    def tag(self, digest: bytes) -> bytes:
        """The tag of a manifest with this digest."""
        return hmac.digest(self.secret, _TAG_PURPOSE + digest, "sha256")


def load_manifest_key(path: Path) -> ManifestKey:
    """The key in ``path``, made there when there is none yet. Of processes that do so at once, all get the same."""
    try:
        if not path.exists():
            durable.make_directory(path.parent)
            durable.create_file(path, secrets.token_bytes(KEY_SIZE))
        secret = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"the manifest key {path} cannot be read: {error.strerror}", hint="run as the user who owns the state"
        ) from error
    if len(secret) != KEY_SIZE:
        raise StoreError(
            f"the manifest key {path} has {len(secret)} bytes, not {KEY_SIZE}: it is damaged",
            hint="put it back from a backup; or move it away: then the catalog alone vouches for old snapshots",
        )
    return ManifestKey(secret)


@dataclass(frozen=True, slots=True)
class Witness:
    """What a reader demands of a manifest: the catalog's ``digest`` where there is one, else a tag of one of ``keys``.

    ``successor`` is the digest of a manifest that is taking the other's place just now: either will do.
    ``UNCHECKED`` demands nothing: for a sweep, which a forged manifest can only make keep more, and for a person who
    says so in so many words.
    """

    digest: bytes | None = None
    successor: bytes | None = None
    keys: tuple[ManifestKey, ...] = ()
    demanded: bool = True

    def check(self, snapshot_id: str, digest: bytes, key_id: bytes, tag: bytes) -> None:
        """Raise `ManifestNotAuthentic` unless the manifest with this digest, key id and tag is vouched for."""
        if not self.demanded:
            return
        if self.digest is not None:
            known = (self.digest, self.successor or self.digest)
            if not any(hmac.compare_digest(one, digest) for one in known):
                raise ManifestNotAuthentic(
                    f"the manifest of {snapshot_id} is not the one that was written: replaced or tampered with",
                    hint="put the right one back from another copy of the store, then `ebscrypt snapshot verify`",
                )
            return
        key = next((key for key in self.keys if key.key_id == key_id), None)
        if key is None:
            raise ManifestNotAuthentic(
                f"nothing vouches for the manifest of {snapshot_id}: it bears the tag of manifest key {key_id.hex()}",
                hint="copy manifest.key from the state directory of the installation that made the snapshot",
            )
        if not hmac.compare_digest(key.tag(digest), tag):
            raise ManifestNotAuthentic(
                f"the manifest of {snapshot_id} bears a false tag: it was tampered with",
                hint="put the right one back from another copy of the store, then `ebscrypt snapshot verify`",
            )


UNCHECKED: Final = Witness(demanded=False)

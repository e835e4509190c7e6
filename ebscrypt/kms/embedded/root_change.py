"""Changing the root key: the order of the steps that makes a crash between any two of them harmless.

rotate: a new root key, and everything that was sealed under the old one sealed anew.

    1  the new root key lies beside the old one, as ….new, synced, and was read from there for proof
    2  one transaction: every secret sealed anew, and the fingerprint that the store remembers is the new one's
    3  the old root key is overwritten, and ….new takes its place

The fingerprint says at any moment which of the two is right, so whoever opens the store uses that one: a crash before
the end of 2 leaves the old root key in force, one after it the new one; the next opening tidies up. A process that has
the store open meanwhile sees the other fingerprint in its next transaction, and reads the root key again.

seal and unseal: the same root key goes to another place. It is written there, read from there for proof, and only then
overwritten and removed where it was. A crash leaves it in both places, where it opens the store as before; the same
command, said again, finishes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ebscrypt import durable
from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, EbscryptError, InvalidCombination, NotFound, StateError
from ebscrypt.kms.embedded import credential, directory, root_files, root_key, schema, secrets_kept
from ebscrypt.kms.embedded.root_key import Kind, Place, RootKey
from ebscrypt.kms.embedded.store import DATABASE, Store


@dataclass(frozen=True, slots=True)
class Sealing:
    """How `systemd-creds` shall seal: ``--with-key`` and ``--tpm2-pcrs``; None is what is usual."""

    with_key: str | None = None
    pcrs: str | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change came to: where the root key is, how many secrets were sealed anew, which copies were erased."""

    place: Place
    fingerprint: str
    resealed: int = 0
    erased: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Status:
    """Where the root key is, the keys that a sealed one opens with, and other places that hold the same one."""

    place: Place
    fingerprint: str
    sealed_with: str | None
    copies: list[Path]


_USUAL: Final = Sealing()


def status(settings: Settings) -> Status:
    """How the root key is kept. Raises what `Store` raises, and `NotFound` when there is no store."""
    with contextlib.closing(opened(settings)) as store:
        root = store.root
    copies = [place.path for place in _copies(settings, root.place, root.fingerprint)]
    return Status(root.place, root.fingerprint, _sealed_with(root.place), copies)


def rotate(settings: Settings, sealing: Sealing = _USUAL) -> Changed:
    """A new root key in the old one's place, and all secrets under it. The old one is of no use any more.

    Processes that use the store meanwhile go on. Raises what `Store` raises, `NotFound` when there is no store,
    `StateError` when systemd passed the root key from a source that is not known here, and `ConfigError` when
    systemd-creds fails; then nothing has changed.
    """
    with _changing(settings, "ebscrypt kms rotate-root") as (store, place):
        if place.kind is not Kind.SEALED and sealing != _USUAL:
            raise InvalidCombination(
                f"the root key {place.path} is a file in clear: how to seal it does not apply",
                hint="first: ebscrypt kms root-key seal",
            )
        erased = _erase_copies(settings, place, store.root.fingerprint)
        new = root_key.fresh(place.next)
        notes = _write(new, Sealing(sealing.with_key or _sealed_with(place), sealing.pcrs))
        resealed = _reseal(store, new)
        root_files.take_place(place)
        store.forget_deleted()
    return Changed(place, new.fingerprint, resealed, erased, notes)


def seal(settings: Settings, sealing: Sealing = _USUAL) -> Changed:
    """Let the root key be an encrypted credential of systemd, and no longer a file in clear.

    It is ``root.cred`` beside keys.db, or the file that ``kms.root_key`` names, if that is a name for a sealed one.
    Raises as `rotate` does, and `StateError` when it is sealed already.
    """
    if settings.kms.root_key and not root_key.is_sealed_name(Path(settings.kms.root_key)):
        raise ConfigError(
            f"kms.root_key names a file in clear, {settings.kms.root_key}",
            hint=f"move it to {settings.kms_dir}/root.key, take kms.root_key out of the settings or let it name a file "
            "that ends in .cred, then try again",
        )
    return _move(settings, root_key.sealed_place(settings), sealing, "seal")


def unseal(settings: Settings) -> Changed:
    """Let the root key be a file in clear again, ``root.key`` beside keys.db. Raises as `seal` does."""
    return _move(settings, root_key.plain_place(settings), _USUAL, "unseal")


def opened(settings: Settings) -> Store:
    """The store, if there is one: nothing here may make it. Raises `NotFound` otherwise."""
    if not (settings.kms_dir / DATABASE).exists():
        raise NotFound(
            f"there is no embedded KMS in {settings.kms_dir}", hint="its first use makes one: ebscrypt kms create-key"
        )
    return Store(settings)


@contextlib.contextmanager
def _changing(settings: Settings, command: str) -> Iterator[tuple[Store, Place]]:
    """The store, locked against other changes and tidied up, and the place of the root key in force."""
    with contextlib.closing(opened(settings)) as store, directory.locked(settings.kms_dir):
        with store.read():
            root = store.root  # somebody else's change may have ended while we waited for the lock
        if root.place.kind is Kind.CREDENTIAL:
            raise StateError(
                f"systemd passed the root key as {root.origin}: what it was made from is not known here",
                hint=f"outside of the unit: EBSCRYPT_KMS_ROOT_KEY=FILE {command}, FILE being what the unit loads",
            )
        # By the list of places, and never by the name: the settings may name a file that ends in .new, or a link.
        tried = root_key.places(settings)
        place = next((place for place in tried if root.origin in (place.path, place.next.path)), root.place)
        root_files.finish(place, root.fingerprint)
        yield store, place


def _write(root: RootKey, sealing: Sealing) -> list[str]:
    """Put the root key at its place, sealed if that is of the kind, and prove that it can be read from there."""
    notes: list[str] = []
    content = root.line()
    if root.place.kind is Kind.SEALED:
        content, notes = credential.encrypt(content, sealing.with_key or "auto", sealing.pcrs)
    if not root_key.write(root.place, content):
        raise StateError(f"something else is at {root.origin}", hint="look at it, and move it away")
    try:
        if root_key.read(root.place).fingerprint != root.fingerprint:
            raise ConfigError(f"{root.origin} gives another root key than was put there", hint="nothing has changed")
    except EbscryptError:
        root_files.erase(root.place)
        raise
    return notes


def _reseal(store: Store, new: RootKey) -> int:
    with store.write() as db:
        kept = secrets_kept.every(db)
        for secret in kept:
            secrets_kept.put(db, secret, secret.sealed_again(store.root, new))
        schema.set_root_fingerprint(db, new.fingerprint)
    return len(kept)


def _move(settings: Settings, target: Place, sealing: Sealing, word: str) -> Changed:
    with _changing(settings, f"ebscrypt kms root-key {word}") as (store, source):
        root, notes = store.root.at(target), list[str]()
        if not root_files.holds(target, root.fingerprint):
            durable.make_directory(target.path.parent)
            notes = _write(root, sealing)
        elif not _copies(settings, target, root.fingerprint):
            how = "sealed" if target.kind is Kind.SEALED else "a file in clear"
            raise StateError(
                f"the root key is {how} already: {source.path}",
                hint="for other keys over it: ebscrypt kms rotate-root --with-key …" if word == "seal" else None,
            )
        erased = _erase_copies(settings, target, root.fingerprint)
    return Changed(target, root.fingerprint, erased=erased, notes=notes)


def _copies(settings: Settings, keep: Place, fingerprint: str) -> list[Place]:
    """Other files that hold the same root key, or held it until they were overwritten."""
    others = [place for place in root_key.places(settings) if place.kind is not Kind.CREDENTIAL]
    return [
        place
        for place in others
        if place.real != keep.real and (root_files.holds(place, fingerprint) or root_files.is_erased(place))
    ]


def _erase_copies(settings: Settings, keep: Place, fingerprint: str) -> list[Path]:
    copies = _copies(settings, keep, fingerprint)
    for place in copies:
        root_files.erase(place)
    return [place.path for place in copies]


def _sealed_with(place: Place) -> str | None:
    return credential.sealed_with(place.path.read_bytes()) if place.kind is Kind.SEALED else None

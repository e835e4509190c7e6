"""Recovery passphrases: keyslots of a volume's own LUKS2 header, which open it where there is no KMS.

They are made and tried by stock cryptsetup (cryptsetup.py), and stock cryptsetup is all it takes to open the volume.
Only `add_recovery_passphrase` needs KMS, once: a keyslot is the data key, enciphered by the passphrase. Everything here
works on attached volumes too, since a keyslot is no business of the daemon.

A generated passphrase has the form that systemd-cryptenroll gives its recovery keys: 256 random bits in "modhex", eight
letters in each of eight groups. Its sixteen letters lie at the same place on most keyboards.
"""

from __future__ import annotations

import os
import secrets
from typing import Any, Final

import msgspec

from ebscrypt import luks2
from ebscrypt.control import cryptsetup, data_key, faultpoints, headers
from ebscrypt.control.operation import on_volume
from ebscrypt.control.rewrap import settled
from ebscrypt.control.site import Site
from ebscrypt.errors import HeaderUnsupported, InvalidParameter, KeyMismatch, NotFound, StateError
from ebscrypt.luks2.metadata import segment_digest_name
from ebscrypt.model import Volume, check_volume_id

SHORTEST_PASSPHRASE: Final = 12
"""Characters. Whoever copies the header can try passphrases at leisure, on machines that are faster than this one."""
_RECOVERY_TOKEN: Final = "systemd-recovery"  # noqa: S105 - a type that systemd gives, not a secret
_MODHEX: Final = "cbdefghijklnrtuv"
_GROUPS: Final = 8
_GROUP_LETTERS: Final = 8


class Keyslot(msgspec.Struct, frozen=True, kw_only=True):
    """A keyslot that opens the volume. ``memory`` in KiB; None where its key derivation has no such thing.

    ``tokens`` are the types of the header's tokens that use it (systemd-tpm2, clevis…); a passphrase has none, or
    systemd-recovery.
    """

    keyslot: int
    kdf: str
    memory: int | None
    tokens: list[str]


def generate_passphrase() -> str:
    """A passphrase that nobody will guess, to be written down."""
    groups = ("".join(secrets.choice(_MODHEX) for _ in range(_GROUP_LETTERS)) for _ in range(_GROUPS))
    return "-".join(groups)


def check_passphrase(passphrase: bytes) -> None:
    """Raise `InvalidParameter` unless cryptsetup would take it from a keyboard, and it is not short."""
    try:
        text = passphrase.decode()
    except UnicodeDecodeError:
        raise InvalidParameter(
            "the passphrase is not UTF-8 text", hint="one line of text, as it can be typed"
        ) from None
    if not text.isprintable():
        raise InvalidParameter("the passphrase has characters that cannot be typed", hint="one line of printable text")
    if len(text) < SHORTEST_PASSPHRASE:
        raise InvalidParameter(
            f"the passphrase has {len(text)} characters, and {SHORTEST_PASSPHRASE} are the least",
            hint="take several words, or let --generate make one",
        )
    if len(passphrase) > cryptsetup.LONGEST_PASSPHRASE:
        raise InvalidParameter(
            f"the passphrase has {len(passphrase)} bytes, and cryptsetup takes {cryptsetup.LONGEST_PASSPHRASE} at most"
        )


def add_recovery_passphrase(site: Site, volume_id: str, passphrase: bytes) -> int:
    """Let ``passphrase`` open the volume without KMS; the number of its keyslot.

    KMS decrypts the data key for it once (a Decrypt in the audit trail). A volume that was never attached is sealed on
    that occasion, without which no keyslot can be made. Raises `InvalidParameter` for a passphrase that will not do,
    `StateError`, `KmsError`, `KeyMismatch`, `HeaderError`, `BackingError`. Then no keyslot was added.
    """
    check_passphrase(passphrase)
    with on_volume(site, volume_id, "recovery"):
        volume = settled(site, site.catalog.volume(volume_id))
        headers.check_settled(site, volume, "a recovery passphrase")
        header = headers.read(volume).header
        headers.check_token(volume, header.token())
        before = {slot.keyslot for slot in _keyslots(header)}
        with data_key.unwrapped(site, header.token()) as key:
            _prove_or_seal(site, volume, header, key)
            faultpoints.reach("recovery.sealed")
            cryptsetup.add_keyslot(volume.backing, key, passphrase)
        faultpoints.reach("recovery.added")
        added = {slot.keyslot for slot in _keyslots(headers.read(volume).header)} - before
        if len(added) != 1:
            raise StateError(
                f"{len(added)} keyslots were added to volume {volume_id} at a time, one of them by us",
                hint=f"see `ebscrypt recovery ls {volume_id}`",
            )
        return added.pop()


def _prove_or_seal(site: Site, volume: Volume, header: luks2.Header, key: Any) -> None:
    """The key is the one that the header's digest is of, or becomes it where the header has none yet."""
    if header.token().sealed:
        if not data_key.matches(key, header.digest()):
            raise KeyMismatch(
                f"KMS unwrapped a data key that is not volume {volume.volume_id}'s: corrupted or tampered with",
                hint="bring the header back from a backup: `cryptsetup luksHeaderRestore`",
            )
        return
    with headers.writable(volume) as descriptor:
        luks2.write_header(descriptor, header.with_digest(data_key.digest_of(key)))
    site.notes.append(f"volume {volume.volume_id} had never been attached: its header was sealed")


def try_recovery_passphrase(site: Site, volume_id: str, passphrase: bytes, *, keyslot: int | None = None) -> int:
    """The number of the keyslot that ``passphrase`` opens; of ``keyslot`` alone where given. Asks no KMS.

    Raises `KeyMismatch` when it opens none, `NotFound` when there is no keyslot (of that number).
    """
    with on_volume(site, volume_id, "recovery"):
        volume = _encrypted(site, volume_id)
        there = {slot.keyslot for slot in _keyslots(headers.read(volume).header)}
        if not there:
            raise _without(volume_id)
        if keyslot is not None:
            _check_there(volume_id, keyslot, there)
        found = cryptsetup.find_keyslot(volume.backing, passphrase, keyslot)
    if found is None:
        what = "opens no keyslot" if keyslot is None else f"does not open keyslot {keyslot}"
        raise KeyMismatch(
            f"the passphrase {what} of volume {volume_id}",
            hint=f"blanks and capitals count; `ebscrypt recovery ls {volume_id}` shows the keyslots there are",
        )
    return found


def list_keyslots(site: Site, volume_id: str) -> list[Keyslot]:
    """The keyslots that open the volume, whoever made them. Raises `VolumeNotFound`, `HeaderError`, `BackingError`."""
    return _keyslots(headers.read(_encrypted(site, check_volume_id(volume_id))).header)


def remove_keyslot(site: Site, volume_id: str, keyslot: int) -> None:
    """Let the passphrase of a keyslot open the volume no more, unless somebody kept an old copy of the header.

    Raises `NotFound`, and `StateError` for a keyslot that another program uses by a token: that has its own command.
    """
    with on_volume(site, volume_id, "recovery"):
        volume = settled(site, site.catalog.volume(volume_id))
        headers.check_settled(site, volume, "a recovery passphrase")
        with headers.opened(volume, os.O_RDWR) as (descriptor, reading):
            slots = {slot.keyslot: slot for slot in _keyslots(reading.header)}
            _check_there(volume_id, keyslot, set(slots))
            if others := [token for token in slots[keyslot].tokens if token != _RECOVERY_TOKEN]:
                raise StateError(
                    f"keyslot {keyslot} of volume {volume_id} belongs to {', '.join(others)[:80]}",
                    hint=f"remove it with what made it, or by `cryptsetup luksKillSlot {volume.backing} {keyslot}`",
                )
            cryptsetup.remove_keyslot(volume.backing, descriptor, keyslot)
    site.notes.append(
        "older copies of the header (backups, copies of the backing) still have this keyslot: whoever has one of them, "
        "and the passphrase, can read the volume"
    )


def _encrypted(site: Site, volume_id: str) -> Volume:
    volume = site.catalog.volume(volume_id)
    if not volume.encrypted:
        raise StateError(f"volume {volume_id} is not encrypted: it has no keyslots")
    return volume


def _without(volume_id: str) -> NotFound:
    return NotFound(
        f"volume {volume_id} has no recovery passphrase", hint=f"`ebscrypt recovery add {volume_id}` adds one"
    )


def _check_there(volume_id: str, keyslot: int, there: set[int]) -> None:
    if not there:
        raise _without(volume_id)
    if keyslot not in there:
        listed = ", ".join(map(str, sorted(there)))
        raise NotFound(f"volume {volume_id} has no keyslot {keyslot}", hint=f"it has {listed}")


class _KdfFields(msgspec.Struct):
    type: str
    memory: int | None = None


class _KeyslotFields(msgspec.Struct):
    kdf: _KdfFields


class _TokenFields(msgspec.Struct):
    type: str
    keyslots: list[str]


def _keyslots(header: luks2.Header) -> list[Keyslot]:
    """The keyslots of the digest that vouches for the data. Raises `HeaderUnsupported` for what cannot be read."""
    metadata = header.metadata
    names = metadata["digests"][segment_digest_name(metadata)]["keyslots"]
    try:
        slots = msgspec.convert({name: metadata["keyslots"][name] for name in names}, dict[str, _KeyslotFields])
        tokens = msgspec.convert(metadata["tokens"], dict[str, _TokenFields]).values()
        return [
            Keyslot(
                keyslot=int(name),
                kdf=slot.kdf.type,
                memory=slot.kdf.memory,
                tokens=[token.type for token in tokens if name in token.keyslots],
            )
            for name, slot in sorted(slots.items(), key=lambda item: int(item[0]))
        ]
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise HeaderUnsupported(
            f"the keyslots of the LUKS2 header cannot be understood: {error}", hint="`cryptsetup luksDump` shows them"
        ) from None

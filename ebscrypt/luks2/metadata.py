"""What ebscrypt reads of a LUKS2 header's JSON: the segment, its digest, and whether it can serve the volume.

Numbers that may need 64 bits are strings of decimal digits in LUKS2, the rest are JSON numbers. Whatever contradicts
the specification is `HeaderDamaged`; what it allows and ebscrypt cannot serve is `HeaderUnsupported`.
"""

from __future__ import annotations

import base64
import secrets
from typing import Annotated, Any, Final, TypeVar

import msgspec

from ebscrypt.errors import BackingError, HeaderDamaged, HeaderUnsupported
from ebscrypt.model import DATA_KEY_SIZE, MAX_VOLUME_SIZE, SECTOR_SIZES, format_size

CIPHER: Final = "aes-xts-plain64"
REENCRYPTION_REQUIREMENT: Final = "ebscrypt-reencrypt"
"""Of who opens a volume that is being re-encrypted (reencryption.py). cryptsetup refuses what it does not know."""
ALIGNMENT: Final = 4096
"""Data must begin at a multiple of this, so that a sector of the volume never straddles two of the backing."""

DIGEST_HASH: Final = "sha256"
DIGEST_SIZE: Final = 32
DIGEST_SALT_SIZE: Final = 32
DIGEST_ITERATIONS: Final = 1000
"""PBKDF2 iterations of the digests that we write: cryptsetup's own minimum.

Iterations slow down guessing. There is nothing to guess in 64 bytes that KMS drew at random, so more of them would
only make each attachment slower.
"""

_MOST_ITERATIONS: Final = 1 << 24
"""Of a digest that we read. Ours have 1000, cryptsetup's about 0.1 s worth; this is seconds, more is an attack."""
_DIGEST_HASHES: Final = ("sha256", "sha512")
_SHORTEST_DIGEST: Final = 20
"""LUKS1's length, which a converted header keeps. A shorter one would prove little about the key."""

_Digits = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,20}\Z")]
_Size = Annotated[str, msgspec.Meta(pattern=r"\A([0-9]{1,20}|dynamic)\Z")]
_T = TypeVar("_T")


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the data lies. Bytes all; ``size`` None means up to the end of the backing (LUKS2's "dynamic")."""

    data_offset: int
    size: int | None
    sector_size: int
    cipher: str = CIPHER

    def size_on(self, backing_size: int) -> int:
        """Bytes of the volume on a backing of so many bytes. Raises `BackingError` when it is too short."""
        room = max(0, backing_size - self.data_offset)
        size = room // self.sector_size * self.sector_size if self.size is None else self.size
        if not 0 < size <= room:
            raise BackingError(
                f"the backing has {backing_size} bytes, but the volume's header asks for "
                f"{self.data_offset + max(size, self.sector_size)}: it was cut off",
                hint="bring the whole backing back from a copy; nothing has been changed",
            )
        return size

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "crypt",
            "offset": str(self.data_offset),
            "size": "dynamic" if self.size is None else str(self.size),
            "iv_tweak": "0",
            "encryption": self.cipher,
            "sector_size": self.sector_size,
        }


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """PBKDF2 of the data key: by it a key is known to be the volume's own before a byte is served."""

    salt: bytes
    digest: bytes
    iterations: int = DIGEST_ITERATIONS
    hash_name: str = DIGEST_HASH

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "pbkdf2",
            "hash": self.hash_name,
            "iterations": self.iterations,
            "salt": base64.b64encode(self.salt).decode("ascii"),
            "digest": base64.b64encode(self.digest).decode("ascii"),
        }


def new_digest_salt() -> bytes:
    """A salt for a new digest."""
    return secrets.token_bytes(DIGEST_SALT_SIZE)


def placeholder_digest() -> Digest:
    """A digest that no key matches, for a volume whose key nobody has seen; LUKS2 wants one for each segment."""
    return Digest(salt=new_digest_salt(), digest=secrets.token_bytes(DIGEST_SIZE))


FILLING: Final = "ebscrypt-filling"
"""The mandatory requirement of a volume whose blocks are still to come: whoever does not know it must not open it."""


class _SegmentFields(msgspec.Struct):
    type: str
    offset: _Digits
    size: _Size
    iv_tweak: _Digits = "0"
    encryption: str = ""
    sector_size: int = 0
    integrity: Any = None
    flags: list[str] = []


class _DigestFields(msgspec.Struct):
    type: str
    keyslots: list[str]
    segments: list[str]
    hash: str = ""
    iterations: int = 0
    salt: bytes = b""
    digest: bytes = b""


class _KeyslotFields(msgspec.Struct):
    key_size: int


class _RequirementFields(msgspec.Struct):
    mandatory: list[str] = []


class _ConfigFields(msgspec.Struct):
    json_size: _Digits
    keyslots_size: _Digits
    requirements: _RequirementFields = msgspec.field(default_factory=_RequirementFields)


def is_filling(metadata: dict[str, Any]) -> bool:
    """Whether the header says that blocks of the volume are still to come."""
    return FILLING in _convert(metadata.get("config"), _ConfigFields, "config").requirements.mandatory


def with_filling(metadata: dict[str, Any], *, filling: bool) -> dict[str, Any]:
    """The same with that said or not; requirements of others stay."""
    config = metadata["config"]
    requirements = config.get("requirements", {})
    mandatory = [name for name in requirements.get("mandatory", []) if name != FILLING] + [FILLING] * filling
    rest = {name: value for name, value in requirements.items() if name != "mandatory"}
    changed = rest | ({"mandatory": mandatory} if mandatory else {})
    config = {name: value for name, value in config.items() if name != "requirements"}
    return metadata | {"config": config | ({"requirements": changed} if changed else {})}


def check_config(metadata: dict[str, Any], copy_size: int) -> int:
    """Where the header's areas end, in bytes: both copies and the keyslots. Refuses requirements we do not meet."""
    config = _convert(metadata.get("config"), _ConfigFields, "config")
    if config.requirements.mandatory == [REENCRYPTION_REQUIREMENT]:
        raise HeaderUnsupported(
            "the volume is being re-encrypted: a part of it has another data key than the rest",
            hint="`ebscrypt reencrypt VOL --wait` goes on with it",
        )
    if requirements := [name for name in config.requirements.mandatory if name != FILLING]:
        names = ", ".join(requirements)[:80]
        raise HeaderUnsupported(
            f"the LUKS2 header requires {names!r}, which ebscrypt does not do",
            hint="finish what was begun with cryptsetup, for example: cryptsetup reencrypt --resume-only",
        )
    keyslots_size = int(config.keyslots_size)
    if keyslots_size % ALIGNMENT:
        raise HeaderDamaged(f"the LUKS2 header's keyslots area has {keyslots_size} bytes: corrupted or tampered with")
    return 2 * copy_size + keyslots_size


def read_segment(metadata: dict[str, Any], areas_end: int) -> Segment:
    """The one segment of a volume. Raises `HeaderUnsupported` unless the core serves exactly this."""
    segments = _convert(metadata.get("segments"), dict[str, _SegmentFields], "segments")
    if list(segments) != ["0"]:
        raise _unsupported(f"has {len(segments)} segments", "one, with the name 0")
    fields = segments["0"]
    wanted: tuple[tuple[str, Any, Any], ...] = (
        ("type", fields.type, "crypt"),
        ("cipher", fields.encryption, CIPHER),
        ("IV tweak", fields.iv_tweak, "0"),
        ("integrity", fields.integrity, None),
        ("flags", fields.flags, []),
    )
    for name, value, served in wanted:
        if value != served:
            raise _unsupported(f"has a segment with {name} {shown(value)}", shown(served))
    if fields.sector_size not in SECTOR_SIZES:
        raise _unsupported(f"has sector size {fields.sector_size}", "512 and 4096")
    size = None if fields.size == "dynamic" else int(fields.size)
    segment = Segment(data_offset=int(fields.offset), size=size, sector_size=fields.sector_size)
    _check_geometry(segment, areas_end)
    return segment


def _check_geometry(segment: Segment, areas_end: int) -> None:
    if segment.data_offset == 0:
        raise _unsupported("is detached: its data offset is 0", "headers on the volume's own backing")
    if segment.data_offset % ALIGNMENT:
        raise _unsupported(f"has data offset {segment.data_offset}", f"multiples of {ALIGNMENT}")
    if segment.data_offset < areas_end:
        raise HeaderDamaged(
            f"the LUKS2 header's data offset {segment.data_offset} lies inside the header, which ends at {areas_end}: "
            "corrupted or tampered with"
        )
    if segment.size is not None and (segment.size == 0 or segment.size % segment.sector_size):
        raise HeaderDamaged(
            f"the LUKS2 header's segment has {segment.size} bytes in sectors of {segment.sector_size}: "
            "corrupted or tampered with"
        )
    if max(segment.size or 0, segment.data_offset) > MAX_VOLUME_SIZE:
        raise _unsupported(
            f"has a segment of {shown(segment.size)} bytes at {segment.data_offset}",
            f"volumes up to {format_size(MAX_VOLUME_SIZE)}",
        )


def segment_digest_name(metadata: dict[str, Any]) -> str:
    """The name of the one digest that vouches for segment 0."""
    digests = _convert(metadata.get("digests"), dict[str, _DigestFields], "digests")
    names = [name for name, fields in digests.items() if "0" in fields.segments]
    if len(names) != 1:
        raise HeaderDamaged(f"the LUKS2 header has {len(names)} digests for its segment: corrupted or tampered with")
    return names[0]


def read_digest(metadata: dict[str, Any]) -> Digest:
    """The digest of segment 0. Raises `HeaderUnsupported` for a kind that the core cannot compute."""
    digests = _convert(metadata.get("digests"), dict[str, _DigestFields], "digests")
    fields = digests[segment_digest_name(metadata)]
    if fields.type != "pbkdf2" or fields.hash not in _DIGEST_HASHES:
        raise _unsupported(
            f"has a digest of kind {shown(fields.type)} {shown(fields.hash)}", "pbkdf2 with sha256 or sha512"
        )
    if not 0 < fields.iterations <= _MOST_ITERATIONS:
        raise _unsupported(f"has a digest of {fields.iterations} iterations", f"1 to {_MOST_ITERATIONS}")
    if not _SHORTEST_DIGEST <= len(fields.digest) <= DATA_KEY_SIZE or not fields.salt:
        raise HeaderDamaged("the LUKS2 header's digest has no possible length: corrupted or tampered with")
    for name in fields.keyslots:
        _check_keyslot(metadata, name)
    return Digest(salt=fields.salt, digest=fields.digest, iterations=fields.iterations, hash_name=fields.hash)


def _check_keyslot(metadata: dict[str, Any], name: str) -> None:
    """LUKS2 tells the key's size in keyslots only: one that opens this volume must hold a key of our size."""
    keyslots = _convert(metadata.get("keyslots"), dict[str, Any], "keyslots")
    if name not in keyslots:
        raise HeaderDamaged(
            f"the LUKS2 header's digest names a missing keyslot {shown(name)}: corrupted or tampered with"
        )
    size = _convert(keyslots[name], _KeyslotFields, "keyslots").key_size
    if size != DATA_KEY_SIZE:
        raise _unsupported(f"has a keyslot with a key of {size * 8} bits", f"keys of {DATA_KEY_SIZE * 8} bits")


def shown(value: Any) -> str:
    """A foreign value as a message may show it: escaped, and short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _unsupported(what: str, served: str) -> HeaderUnsupported:
    return HeaderUnsupported(
        f"the LUKS2 header {what}; ebscrypt serves {served}", hint="open such a volume with cryptsetup itself"
    )


def _convert(value: Any, kind: type[_T], section: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise HeaderDamaged(f"the LUKS2 header's {section} are corrupted or tampered with: {error}") from None

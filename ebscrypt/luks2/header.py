"""A LUKS2 header as a frozen value: made new, read back, and changed without losing what others keep in it.

``metadata`` is the JSON object whole. Changes copy the path to what they change and nothing else, so keyslots and
tokens of other programs pass through as they were.
"""

from __future__ import annotations

import re
import uuid as uuids
from typing import Any, Final

import msgspec

from ebscrypt.errors import HeaderDamaged, HeaderUnsupported, StateError
from ebscrypt.luks2 import metadata as fields
from ebscrypt.luks2.metadata import Digest, Segment
from ebscrypt.luks2.token import TOKEN_TYPE, KmsToken, token_from_json
from ebscrypt.model import DEFAULT_SECTOR_SIZE, KIB, MIB, check_volume_size

BINARY_SIZE: Final = 4096
"""Bytes of a copy's binary part; the JSON area takes the rest."""
COPY_SIZES: Final = tuple(16 * KIB << shift for shift in range(9))
"""Bytes that one copy may have, 16 KiB to 4 MiB; also where the second copy may begin."""
COPY_SIZE: Final = COPY_SIZES[0]
DATA_OFFSET: Final = 16 * MIB
"""Where the data of a new volume begins: cryptsetup's own default."""
SUBSYSTEM: Final = "ebscrypt"
MOST_TOKENS: Final = 32
"""libcryptsetup's limit (LUKS2_TOKENS_MAX)."""

_VOLUME_LABEL = re.compile(r"vol-[0-9a-f]{17}")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """One state of a header. ``seqid`` counts the states, ``copy_size`` is the size in bytes of each of the two copies.

    ``label``, ``subsystem`` and ``uuid`` are what blkid shows; bytes that are no UTF-8 are kept as surrogate escapes.
    """

    uuid: str
    label: str = ""
    subsystem: str = ""
    seqid: int = 0
    copy_size: int = COPY_SIZE
    metadata: dict[str, Any]

    def segment(self) -> Segment:
        """Where the data lies. Raises `HeaderUnsupported` or `HeaderDamaged` unless it is one that we serve."""
        return fields.read_segment(self.metadata, fields.check_config(self.metadata, self.copy_size))

    def digest(self) -> Digest:
        """What the data key must match; a placeholder until the token says sealed."""
        return fields.read_digest(self.metadata)

    def token(self) -> KmsToken:
        """The one KMS token. Raises `HeaderUnsupported` when there is none, several, or one of a later version."""
        return token_from_json(self._token_item()[1])

    def check(self, volume_id: str | None = None) -> None:
        """Raise `HeaderError` unless this is the header of a volume that we serve, and of ``volume_id`` where given."""
        self.segment()
        self.digest()
        named = self.token().volume_id
        if volume_id is not None and named != volume_id:
            raise HeaderUnsupported(
                f"this is the header of volume {named}, not of {volume_id}",
                hint=f"look which backing belongs to {volume_id}: ebscrypt show {volume_id}",
            )
        if _VOLUME_LABEL.fullmatch(self.label) and self.label != named:
            raise HeaderUnsupported(
                f"the header is labelled {self.label}, but its KMS token is of volume {named}",
                hint=f"if the token is right, label it so: cryptsetup config --label {named} BACKING",
            )

    def with_token(self, token: KmsToken) -> Header:
        """The same header with ``token`` in the place of its KMS token, or added where it has none.

        Fields of the old token that we do not know stay.
        """
        try:
            name, old = self._token_item()
        except HeaderUnsupported:
            if self._token_names():
                raise
            name, old = self._free_token_name(), {}
        return self._with("tokens", name, old | token.to_json())

    def with_digest(self, digest: Digest) -> Header:
        """Seal: the data key's own digest instead of the placeholder, and a token that says so.

        Raises `StateError` when the header is sealed already: that digest is the only proof of the right key.
        """
        token = self.token()
        if token.sealed:
            raise StateError(f"the header of volume {token.volume_id} is sealed already; its digest is not replaced")
        name = fields.segment_digest_name(self.metadata)
        old = self.metadata["digests"][name]
        changed = self._with("digests", name, old | digest.to_json())
        changed.digest()
        return changed.with_token(msgspec.structs.replace(token, sealed=True))

    def with_replaced_digest(self, digest: Digest) -> Header:
        """The same header with another data key's digest: for the end of a re-encryption, and nothing else."""
        name = fields.segment_digest_name(self.metadata)
        changed = self._with("digests", name, self.metadata["digests"][name] | digest.to_json())
        changed.digest()
        return changed

    def token_field(self, name: str) -> Any:
        """A field of the KMS token that `KmsToken` does not have; None where it is missing."""
        return self._token_item()[1].get(name)

    def with_token_field(self, name: str, value: Any) -> Header:
        """The same header with that field; without it where ``value`` is None."""
        token, old = self._token_item()
        rest = {key: other for key, other in old.items() if key != name}
        return self._with("tokens", token, rest if value is None else rest | {name: value})

    @property
    def filling(self) -> bool:
        """Whether blocks of the volume are still to come: then only who knows which may open it."""
        return fields.is_filling(self.metadata)

    def with_filling(self, *, filling: bool) -> Header:
        """The same header saying whether blocks are still to come. cryptsetup does not open such a volume."""
        return msgspec.structs.replace(self, metadata=fields.with_filling(self.metadata, filling=filling))

    def with_segment_size(self, size: int) -> Header:
        """The same header for a volume of ``size`` bytes. Raises `InvalidParameter` for a size no volume may have."""
        segment = self.segment()
        check_volume_size(size, segment.sector_size)
        return self._with("segments", "0", self.metadata["segments"]["0"] | {"size": str(size)})

    def _with(self, section: str, name: str, value: dict[str, Any]) -> Header:
        changed = self.metadata | {section: self.metadata[section] | {name: value}}
        return msgspec.structs.replace(self, metadata=changed)

    def _token_names(self) -> list[str]:
        tokens = self.metadata.get("tokens")
        if not isinstance(tokens, dict) or not all(isinstance(token, dict) for token in tokens.values()):
            raise HeaderDamaged("the LUKS2 header's tokens are not objects: corrupted or tampered with")
        return [name for name, token in tokens.items() if token.get("type") == TOKEN_TYPE]

    def _token_item(self) -> tuple[str, dict[str, Any]]:
        names = self._token_names()
        if not names:
            raise HeaderUnsupported(
                f"the LUKS2 header has no {TOKEN_TYPE} token: it is not a volume of ebscrypt",
                hint="open such a volume with cryptsetup itself, or bring the token back: cryptsetup token import",
            )
        if len(names) > 1:
            raise HeaderUnsupported(
                f"the LUKS2 header has {len(names)} {TOKEN_TYPE} tokens ({', '.join(names)[:80]})",
                hint="keep the right one: cryptsetup token export, then cryptsetup token remove",
            )
        return names[0], self.metadata["tokens"][names[0]]

    def _free_token_name(self) -> str:
        taken = self.metadata["tokens"]
        for name in map(str, range(MOST_TOKENS)):
            if name not in taken:
                return name
        raise HeaderUnsupported(
            f"the LUKS2 header has {MOST_TOKENS} tokens already", hint="remove one: cryptsetup token remove"
        )


def create_header(
    token: KmsToken, *, size: int, sector_size: int = DEFAULT_SECTOR_SIZE, uuid: str | None = None
) -> Header:
    """The header of a new volume of ``size`` bytes, labelled with its id, with a placeholder digest and no keyslot.

    Raises `InvalidParameter` for a size or sector size that no volume may have, `ValueError` for a token that cannot
    be written.
    """
    check_volume_size(size, sector_size)
    segment = Segment(data_offset=DATA_OFFSET, size=size, sector_size=sector_size)
    digest = fields.placeholder_digest()
    return Header(
        uuid=uuid or str(uuids.uuid4()),
        label=token.volume_id,
        subsystem=SUBSYSTEM,
        metadata={
            "keyslots": {},
            "tokens": {"0": token.to_json()},
            "segments": {"0": segment.to_json()},
            "digests": {"0": {"keyslots": [], "segments": ["0"]} | digest.to_json()},
            "config": {
                "json_size": str(COPY_SIZE - BINARY_SIZE),
                "keyslots_size": str(DATA_OFFSET - 2 * COPY_SIZE),
            },
        },
    )

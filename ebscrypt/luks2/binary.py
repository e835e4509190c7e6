"""One copy of a LUKS2 header: bytes ↔ `Header`.

    offset  bytes
         0      6  magic: "LUKS" BA BE in the first copy, "SKUL" BA BE in the second
         6      2  version, 2
         8      8  size of the copy: these 4096 bytes and the JSON area
        16      8  sequence number of the header's state
        24     48  label
        72     32  checksum algorithm: sha256
       104     64  salt, random, different in each copy
       168     40  UUID
       208     48  subsystem
       256      8  offset of the copy on the backing
       264    184  zeros
       448     64  checksum of the copy with this field zero
       512   3584  zeros
      4096      …  JSON area

Numbers are big-endian, texts end with NUL. Source: M. Brož, LUKS2 On-Disk Format Specification, "Binary Header".
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from ebscrypt.errors import HeaderDamaged, HeaderUnsupported
from ebscrypt.luks2 import json_area
from ebscrypt.luks2.header import BINARY_SIZE, COPY_SIZES, Header
from ebscrypt.luks2.metadata import shown

MAGIC_FIRST: Final = b"LUKS\xba\xbe"
MAGIC_SECOND: Final = b"SKUL\xba\xbe"
VERSION: Final = 2
SALT_SIZE: Final = 64
CHECKSUM: Final = "sha256"
LAST_SEQID: Final = (1 << 64) - 1
"""Never reached by counting; refused when read, so that the next update always has a number to take."""

_FIELDS: Final = struct.Struct(">6sHQQ48s32s64s40s48sQ184x64s3584x")
_CHECKSUM_AT: Final = 448
_CHECKSUM_SIZE: Final = 64


def magic(offset: int) -> bytes:
    """The first six bytes of the copy at ``offset``."""
    return MAGIC_SECOND if offset else MAGIC_FIRST


def declared_size(start: bytes, offset: int) -> int:
    """How large the copy at ``offset`` says it is, judged by its first 4096 bytes.

    Raises `HeaderDamaged` unless that is one of the legal sizes, `HeaderUnsupported` for another version of LUKS.
    """
    if len(start) < BINARY_SIZE:
        raise HeaderDamaged("the backing ends within it")
    found, version, size, *_ = fields = _FIELDS.unpack(start[:BINARY_SIZE])
    if found != magic(offset):
        raise HeaderDamaged("it does not begin with the magic of LUKS")
    if version != VERSION:
        raise HeaderUnsupported(
            f"the header is LUKS version {version}; ebscrypt serves version {VERSION}",
            hint="open such a volume with cryptsetup itself",
        )
    if size not in COPY_SIZES:
        raise HeaderDamaged(f"it claims a size of {size} bytes, which is not a legal one")
    if fields[9] != offset or (offset and offset != size):
        raise HeaderDamaged(f"it claims to lie at {fields[9]} with a size of {size}, but was found at {offset}")
    return int(size)


def decode(copy: bytes, offset: int) -> Header:
    """The header in the copy found at ``offset``. Raises as `declared_size`; `HeaderDamaged` for a bad checksum."""
    size = declared_size(copy, offset)
    if len(copy) < size:
        raise HeaderDamaged("the backing ends within it")
    _, _, _, seqid, label, algorithm, _, uuid, subsystem, _, checksum = _FIELDS.unpack(copy[:BINARY_SIZE])
    if _text(algorithm) != CHECKSUM:
        raise HeaderDamaged(f"its checksum algorithm is {shown(_text(algorithm))}, not {CHECKSUM}")
    if _checksum(copy[:size]) != checksum[: hashlib.sha256().digest_size]:
        raise HeaderDamaged("its checksum does not match")
    if seqid == LAST_SEQID:
        raise HeaderDamaged("its sequence number is the last one there is")
    metadata = json_area.load(copy[BINARY_SIZE:size])
    _check_json_size(metadata.get("config"), size)
    return Header(
        uuid=_text(uuid),
        label=_text(label),
        subsystem=_text(subsystem),
        seqid=seqid,
        copy_size=size,
        metadata=metadata,
    )


def encode(header: Header, *, offset: int, salt: bytes) -> bytes:
    """The copy of ``header`` that belongs at ``offset``: 0 or its own size.

    Raises `HeaderError` when its JSON does not fit.
    """
    area = json_area.dump(header.metadata, header.copy_size - BINARY_SIZE)
    start = _FIELDS.pack(
        magic(offset),
        VERSION,
        header.copy_size,
        header.seqid,
        _field(header.label, 48),
        CHECKSUM.encode("ascii"),
        salt,
        _field(header.uuid, 40),
        _field(header.subsystem, 48),
        offset,
        b"",
    )
    checksum = _checksum(start + area)
    return start[:_CHECKSUM_AT] + checksum + start[_CHECKSUM_AT + len(checksum) :] + area


def _checksum(copy: bytes) -> bytes:
    state = hashlib.sha256(copy[:_CHECKSUM_AT])
    state.update(bytes(_CHECKSUM_SIZE))
    state.update(memoryview(copy)[_CHECKSUM_AT + _CHECKSUM_SIZE :])
    return state.digest()


def _check_json_size(config: object, size: int) -> None:
    """The JSON tells the area's size a second time; where the two disagree, one of them lies."""
    told = config.get("json_size") if isinstance(config, dict) else None
    if told != str(size - BINARY_SIZE):
        raise HeaderDamaged(f"its JSON area has {size - BINARY_SIZE} bytes, but its config says {shown(told)}")


def _text(field: bytes) -> str:
    return field[:-1].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _field(text: str, size: int) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) >= size or b"\0" in raw:
        raise ValueError(f"{shown(text)} does not fit a header field of {size} bytes")
    return raw

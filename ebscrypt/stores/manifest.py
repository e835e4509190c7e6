"""A snapshot's manifest: bytes ↔ values. docs/formats/snapshot.md draws it; tests/vectors/stores freezes it.

One value has one form: the same header and blocks give the same bytes up to the tag, and a reader refuses any other
way to write them. Every count is checked against the manifest's length before it is believed.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from datetime import datetime
from typing import Annotated, Final

import msgspec

from ebscrypt.errors import InvalidParameter, ManifestDamaged, StoreUnsupported
from ebscrypt.model import check_volume_size
from ebscrypt.stores.block_list import NAME_SIZE, BlockList
from ebscrypt.stores.names import BLOCK_SIZE
from ebscrypt.stores.witness import KEY_ID_SIZE, TAG_SIZE, ManifestKey, Witness

VERSION: Final = 1
LARGEST_HEADER: Final = 64 * 1024
MOST_BLOCKS: Final = 1 << 27
"""Blocks of the largest volume, 64 TiB."""
_MAGIC: Final = b"EBSSNAP\n"
_FIXED: Final = struct.Struct("<8sIIQQ")
_DIGEST_SIZE: Final = 32
_RUN_SIZE: Final = 8
_TRAILER: Final = _DIGEST_SIZE + KEY_ID_SIZE + TAG_SIZE

_Arn = Annotated[str, msgspec.Meta(pattern=r"\Aarn:[!-~]+\Z", max_length=2048)]
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
_SnapshotId = Annotated[str, msgspec.Meta(pattern=r"\Asnap-[0-9a-f]{17}\Z")]
_ContextText = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class Wrapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data key of an encrypted snapshot, as KMS wrapped it; see `ebscrypt.luks2.token` for the same on a volume."""

    kms_key_arn: _Arn
    wrapped_key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=6144)]
    encryption_context: Annotated[dict[_ContextText, _ContextText], msgspec.Meta(min_length=1, max_length=8)]
    data_encryption_key_id: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,128}\Z")]


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manifest says besides its blocks. ``volume_size`` in bytes; ``encryption`` is None for a plain snapshot.

    ``volume_id`` is the source volume, also of a copy; ``parent`` the snapshot that this one was made on top of, for
    people and lineage only: a manifest lists all its blocks and needs no other. Tags can change, so they are in the
    catalog alone.
    """

    snapshot_id: _SnapshotId
    volume_id: Annotated[str, msgspec.Meta(pattern=r"\Avol-[0-9a-f]{17}\Z")]
    volume_size: int
    sector_size: int
    block_size: int = BLOCK_SIZE
    region: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
    description: Annotated[str, msgspec.Meta(max_length=255)] = ""
    start_time: _Instant
    completion_time: _Instant
    parent: _SnapshotId | None = None
    encryption: Wrapping | None = None

    @property
    def block_count(self) -> int:
        """How many blocks a volume of this size has, holes included."""
        return -(-self.volume_size // BLOCK_SIZE)

    def block_length(self, index: int) -> int:
        """Bytes of the block at ``index``: all of it, but for the last one."""
        return min(BLOCK_SIZE, self.volume_size - index * BLOCK_SIZE)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was read: what it says, and its ``digest``, which the catalog keeps."""

    header: Header
    blocks: BlockList
    digest: bytes


def encode(header: Header, blocks: BlockList, key: ManifestKey) -> bytes:
    """The manifest's bytes. Raises `ValueError` when a reader would refuse them."""
    text = msgspec.json.encode(header, order="sorted")
    runs = array("I", (number for run in blocks.runs() for number in run))
    if sys.byteorder == "big":
        runs.byteswap()
    fixed = _FIXED.pack(_MAGIC, VERSION, len(text), len(runs) // 2, len(blocks))
    try:
        _check(header, text, blocks)
    except (ManifestDamaged, InvalidParameter) as error:
        raise ValueError(f"not a manifest that could be read: {error}") from None
    body = b"".join((fixed, text, runs.tobytes(), blocks.packed_names()))
    digest = hashlib.sha256(body).digest()
    return b"".join((body, digest, key.key_id, key.tag(digest)))


def manifest_digest(raw: bytes) -> bytes:
    """The digest of a manifest that `encode` made: what the catalog keeps of it."""
    return raw[-_TRAILER : -_TRAILER + _DIGEST_SIZE]


def largest_manifest(blocks: int = MOST_BLOCKS) -> int:
    """Bytes of the longest manifest with so many blocks: each in a run of its own."""
    return _FIXED.size + LARGEST_HEADER + blocks * (_RUN_SIZE + NAME_SIZE) + _TRAILER


def decode(raw: bytes, snapshot_id: str, witness: Witness) -> Manifest:
    """The manifest in ``raw``, which must be that of ``snapshot_id``.

    Raises `ManifestDamaged` for what no writer wrote, `StoreUnsupported` for a later version, and
    `ManifestNotAuthentic` when it is whole but ``witness`` does not vouch for it.
    """
    try:
        manifest = _read(raw, snapshot_id)
    except ManifestDamaged as error:
        raise ManifestDamaged(
            f"the manifest of {snapshot_id} is corrupted or tampered with: {error.message}",
            hint="put it back from another copy of the store, or delete the snapshot",
        ) from None
    witness.check(snapshot_id, manifest.digest, raw[-KEY_ID_SIZE - TAG_SIZE : -TAG_SIZE], raw[-TAG_SIZE:])
    return manifest


def _read(raw: bytes, snapshot_id: str) -> Manifest:
    text_size, run_count, block_count = _sizes(raw)
    view, end = memoryview(raw), len(raw) - _TRAILER
    digest = bytes(view[end : end + _DIGEST_SIZE])
    if hashlib.sha256(view[:end]).digest() != digest:
        raise ManifestDamaged("its digest is wrong")
    runs_at = _FIXED.size + text_size
    names_at = runs_at + run_count * _RUN_SIZE
    text = bytes(view[_FIXED.size : runs_at])
    header = _header(text)
    blocks = _blocks(view[runs_at:names_at], bytes(view[names_at:end]), block_count)
    _check(header, text, blocks)
    if header.snapshot_id != snapshot_id:
        raise ManifestDamaged(f"it is that of {header.snapshot_id}")
    return Manifest(header=header, blocks=blocks, digest=digest)


def _sizes(raw: bytes) -> tuple[int, int, int]:
    """Bytes of the header, number of runs and of blocks, all within bounds and as long together as ``raw`` is."""
    if len(raw) < _FIXED.size + _TRAILER or not raw.startswith(_MAGIC):
        raise ManifestDamaged("it does not begin as a manifest")
    _, version, text_size, run_count, block_count = _FIXED.unpack_from(raw)
    if version > VERSION:
        raise StoreUnsupported(
            f"a manifest has version {version}: this ebscrypt reads version {VERSION}",
            hint="use the ebscrypt that wrote it, or a later one",
        )
    if version != VERSION:
        raise ManifestDamaged(f"it says version {version}")
    if text_size > LARGEST_HEADER or block_count > MOST_BLOCKS or run_count > block_count:
        raise ManifestDamaged(f"it says {text_size} bytes of header, {run_count} runs, {block_count} blocks")
    if len(raw) != _FIXED.size + text_size + run_count * _RUN_SIZE + block_count * NAME_SIZE + _TRAILER:
        raise ManifestDamaged(f"it has {len(raw)} bytes, which is not what it says of itself")
    return text_size, run_count, block_count


def _header(text: bytes) -> Header:
    try:
        return msgspec.json.decode(text, type=Header)
    except (msgspec.DecodeError, RecursionError) as error:
        # The text of a validation error names a field and what is wrong with its type, never a value.
        raise ManifestDamaged(f"its header cannot be read: {error}") from None


def _blocks(packed_runs: memoryview, names: bytes, count: int) -> BlockList:
    numbers = array("I")
    numbers.frombytes(packed_runs)
    if sys.byteorder == "big":
        numbers.byteswap()
    firsts, counts = numbers[0::2], numbers[1::2]
    # Runs in order that neither overlap nor touch: the one way to write a list.
    end = -1
    for first, length in zip(firsts, counts, strict=True):
        if first <= end or length == 0:
            raise ManifestDamaged(f"its runs are out of order at block {first}")
        end = first + length
    if sum(counts) != count:
        raise ManifestDamaged(f"its runs have {sum(counts)} blocks, and there are {count} names")
    return BlockList(firsts, counts, names)


def _check(header: Header, text: bytes, blocks: BlockList) -> None:
    """Raise `ManifestDamaged` unless header and blocks can be true together, and ``text`` is the header's one form."""
    if len(text) > LARGEST_HEADER:
        raise ManifestDamaged(f"its header has {len(text)} bytes")
    try:
        check_volume_size(header.volume_size, header.sector_size)
        canonical = text == msgspec.json.encode(msgspec.json.decode(text, type=Header), order="sorted")
    except (InvalidParameter, msgspec.DecodeError) as error:
        raise ManifestDamaged(f"its header is not possible: {error}") from None
    if not canonical:
        raise ManifestDamaged("its header is not written in the one way")
    if header.block_size != BLOCK_SIZE:
        raise ManifestDamaged(f"it says blocks of {header.block_size} bytes")
    if blocks.end > header.block_count:
        raise ManifestDamaged(f"it lists block {blocks.end - 1} of a volume with {header.block_count} blocks")

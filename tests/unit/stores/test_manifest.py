import hashlib
import json
import random
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebscrypt.errors import ManifestDamaged, ManifestNotAuthentic, StoreUnsupported
from ebscrypt.model import GIB, TIB
from ebscrypt.stores.block_list import BlockList, BlockListBuilder, block_list
from ebscrypt.stores.manifest import Header, decode, encode, largest_manifest, manifest_digest
from ebscrypt.stores.names import BLOCK_SIZE
from ebscrypt.stores.witness import UNCHECKED, ManifestKey, Witness
from tests.snapshot_samples import KEY, blocks_of, header, snapshot_id

VECTORS = Path(__file__).parents[2] / "vectors" / "stores" / "v1"
WITNESS = Witness(keys=(KEY,))
ID = snapshot_id(1)


def sealed(body: bytes) -> bytes:
    """A body with the right digest and tag: what an attacker with the key, or a faulty writer, could make."""
    digest = hashlib.sha256(body).digest()
    return body + digest + KEY.key_id + KEY.tag(digest)


def put_together(text: bytes, runs: list[tuple[int, int]], names: bytes, counts: dict[str, int] | None = None) -> bytes:
    """A manifest of these parts, whether or not they fit together."""
    numbers = {"version": 1, "text": len(text), "runs": len(runs), "blocks": len(names) // 32} | (counts or {})
    fixed = struct.pack(
        "<8sIIQQ", b"EBSSNAP\n", numbers["version"], numbers["text"], numbers["runs"], numbers["blocks"]
    )
    return sealed(fixed + text + b"".join(struct.pack("<II", *run) for run in runs) + names)


def text_of(**changes: Any) -> bytes:
    """The canonical text of a header with some of its fields changed, or removed by ``...``."""
    raw = encode(header(), block_list([]), KEY)
    fields = json.loads(raw[32:-72]) | changes
    kept = {name: value for name, value in fields.items() if value is not ...}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("name", ["encrypted", "plain", "copy"])
def test_golden_manifests_open_for_ever(name: str) -> None:
    """The frozen files of version 1 give the frozen values, and the same values give the same bytes again."""
    raw = (VECTORS / f"{name}.manifest").read_bytes()
    expected = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))

    manifest = decode(raw, expected["Header"]["snapshot_id"], WITNESS)

    assert manifest.digest.hex() == expected["Digest"] == manifest_digest(raw).hex()
    assert [[index, found.hex()] for index, found in manifest.blocks] == expected["Blocks"]
    assert json.loads(raw[32 : 32 + int.from_bytes(raw[12:16], "little")]) == expected["Header"]
    assert encode(manifest.header, manifest.blocks, KEY) == raw


_SPARSE = st.dictionaries(st.integers(0, 2047), st.binary(min_size=32, max_size=32), max_size=40)


@given(blocks=_SPARSE, description=st.text(max_size=255), parent=st.none() | st.just(snapshot_id(7)))
@settings(deadline=None)
def test_round_trip(blocks: dict[int, bytes], description: str, parent: str | None) -> None:
    """Whatever header and blocks were written are read."""
    given_header = header(description=description, parent=parent, encryption=None)
    given_blocks = block_list(sorted(blocks.items()))

    manifest = decode(encode(given_header, given_blocks, KEY), ID, WITNESS)

    assert manifest.header == given_header
    assert manifest.blocks == given_blocks
    assert dict(manifest.blocks) == blocks
    assert [manifest.blocks.get(index) for index in range(2049)] == [blocks.get(index) for index in range(2049)]


@given(older=_SPARSE, changes=st.dictionaries(st.integers(0, 2047), st.none() | st.binary(min_size=32, max_size=32)))
@settings(deadline=None)
def test_changes_give_what_a_new_list_would(older: dict[int, bytes], changes: dict[int, bytes | None]) -> None:
    """`with_changes` is the dictionary's update, `changes_since` tells exactly what differs."""
    newer = {index: found for index, found in (older | changes).items() if found is not None}
    before = block_list(sorted(older.items()))

    after = before.with_changes(changes)

    assert after == block_list(sorted(newer.items()))
    assert list(after.changes_since(before)) == [
        (index, older.get(index), newer.get(index))
        for index in sorted(older.keys() | newer.keys())
        if older.get(index) != newer.get(index)
    ]


@given(raw=st.binary(max_size=400), start=st.sampled_from([b"", b"EBSSNAP\n", b"EBSSNAP\n\1\0\0\0"]))
@settings(deadline=None)
def test_noise_is_refused(raw: bytes, start: bytes) -> None:
    """Any bytes at all are a manifest or refused by name; nothing else is ever raised."""
    with pytest.raises((ManifestDamaged, StoreUnsupported)):
        decode(start + raw, ID, UNCHECKED)


def test_every_flipped_bit_is_found() -> None:
    """A manifest with any one bit flipped is refused, also where only the tag is hit."""
    raw = encode(header(), blocks_of(range(3)), KEY)
    decode(raw, ID, WITNESS)
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << at % 8
        with pytest.raises((ManifestDamaged, ManifestNotAuthentic, StoreUnsupported)):
            decode(bytes(damaged), ID, WITNESS)


@pytest.mark.parametrize("cut", [1, 32, 72, 73, 200])
def test_a_cut_manifest_is_found(cut: int) -> None:
    """A manifest that ends too early, or goes on, is refused."""
    raw = encode(header(), blocks_of(range(3)), KEY)
    for damaged in (raw[:-cut], raw + bytes(cut)):
        with pytest.raises(ManifestDamaged):
            decode(damaged, ID, UNCHECKED)


NAMES = bytes(96)


@pytest.mark.parametrize(
    ("runs", "counts", "why"),
    [
        ([(0, 2), (1, 1)], {}, "out of order at block 1"),
        ([(0, 2), (2, 1)], {}, "out of order at block 2"),
        ([(5, 2), (1, 1)], {}, "out of order at block 1"),
        ([(0, 3), (7, 0)], {}, "out of order at block 7"),
        ([(0, 2)], {}, "2 blocks, and there are 3 names"),
        ([(2046, 3)], {}, "lists block 2048 of a volume with 2048"),
        ([(0xFFFFFFFE, 3)], {}, "lists block 4294967296"),
        ([(0, 3)], {"blocks": 4}, "not what it says"),
        ([(0, 3)], {"runs": 2}, "not what it says"),
        ([(0, 3)], {"runs": 4}, "4 runs, 3 blocks"),
        ([(0, 3)], {"blocks": 1 << 40}, "1099511627776 blocks"),
        ([(0, 3)], {"text": 1 << 31}, "2147483648 bytes of header"),
        ([(0, 3)], {"version": 0}, "version 0"),
    ],
)
def test_impossible_counts_and_runs(runs: list[tuple[int, int]], counts: dict[str, int], why: str) -> None:
    """Digest and tag are right, what they cover is not: refused, by numbers alone, before anything large is made."""
    with pytest.raises(ManifestDamaged, match=why):
        decode(put_together(text_of(), runs, NAMES, counts), ID, WITNESS)


def test_a_later_version_is_told_apart() -> None:
    """What a later ebscrypt wrote is not called damaged."""
    with pytest.raises(StoreUnsupported, match="version 2"):
        decode(put_together(text_of(), [], b"", {"version": 2}), ID, WITNESS)


@pytest.mark.parametrize(
    "text",
    [
        text_of()[:-1] + b', "more":1}',
        text_of().replace(b'"block_size"', b' "block_size"'),
        text_of().replace(b'"nightly"', b'"nightl\\u0079"'),
        text_of()[:-1] + b',"region":"eu-central-1"}',
        text_of(extra=1),
        text_of(volume_size=...),
        text_of(volume_size=GIB + 1),
        text_of(volume_size=65 * TIB),
        text_of(volume_size="big"),
        text_of(sector_size=1024),
        text_of(block_size=4096),
        text_of(snapshot_id="../../etc/passwd"),
        text_of(volume_id="vol-1"),
        text_of(description="x" * 256),
        text_of(region=""),
        text_of(parent="vol-0a1b2c3d4e5f60718"),
        text_of(start_time="2024-01-02T03:04:05"),
        text_of(encryption={}),
        b"[" * 60_000,
        b"\xff",
        b"",
    ],
    ids=lambda text: text[:10].decode("latin-1") + str(len(text)),
)
def test_impossible_headers(text: bytes) -> None:
    """A header that is not written in the one way, or says what cannot be, is refused although its tag is right."""
    with pytest.raises(ManifestDamaged, match=r"header|blocks of"):
        decode(put_together(text, [], b""), ID, WITNESS)


def test_what_could_not_be_read_is_not_written() -> None:
    """The writer refuses what its own reader would."""
    for wrong in (header(volume_size=1000), header(block_size=4096), header(description="x" * 256), header(region="")):
        with pytest.raises(ValueError, match="manifest"):
            encode(wrong, block_list([]), KEY)
    with pytest.raises(ValueError, match="block 2048"):
        encode(header(), block_list([(2048, bytes(32))]), KEY)


def test_who_vouches() -> None:
    """The catalog's digest decides where there is one, else a known key's tag; a foreign key's tag is worth nothing."""
    raw = encode(header(), blocks_of(range(3)), KEY)
    other = encode(header(description="another"), blocks_of(range(3)), KEY)
    foreign = ManifestKey(bytes(32))

    assert decode(raw, ID, Witness(digest=manifest_digest(raw))).header == header()
    assert decode(raw, ID, Witness(keys=(foreign, KEY))).header == header()
    assert decode(raw, ID, Witness(digest=bytes(32), successor=manifest_digest(raw))).header == header()
    assert decode(raw, ID, UNCHECKED).header == header()
    for witness, why in (
        (Witness(digest=manifest_digest(other), keys=(KEY,)), "not the one that was written"),
        (Witness(keys=(foreign,)), f"manifest key {KEY.key_id.hex()}"),
        (Witness(), "nothing vouches"),
    ):
        with pytest.raises(ManifestNotAuthentic, match=why):
            decode(raw, ID, witness)
    with pytest.raises(ManifestDamaged, match=f"that of {ID}"):
        decode(raw, snapshot_id(2), WITNESS)


def test_a_tag_made_without_the_key_is_false() -> None:
    """Who can write to the store can make any manifest with a right digest, but no tag."""
    raw = encode(header(description="forged"), blocks_of(range(3)), ManifestKey(bytes(32)))
    forged = raw[:-40] + KEY.key_id + raw[-32:]
    with pytest.raises(ManifestNotAuthentic, match="false tag"):
        decode(forged, ID, WITNESS)


def test_a_large_sparse_volume_costs_what_it_holds() -> None:
    """16 TiB with 1 GiB of data in 512 places: some 80 KiB, and the last block of an odd size is shorter."""
    made = BlockListBuilder()
    places = sorted(random.Random(1).sample(range(0, 16 * TIB // BLOCK_SIZE, 4), 512))  # noqa: S311 - a sample
    for first in places:
        made.add_run(first, random.Random(first).randbytes(4 * 32))  # noqa: S311 - a sample
    blocks = made.build()

    raw = encode(header(volume_size=16 * TIB), blocks, KEY)

    assert len(raw) < 2048 * 32 + 512 * 8 + 2048
    assert decode(raw, ID, WITNESS).blocks == blocks
    assert largest_manifest(2048) > len(raw)
    odd = header(volume_size=BLOCK_SIZE + 4096)
    assert (odd.block_count, odd.block_length(0), odd.block_length(1)) == (2, BLOCK_SIZE, 4096)


def test_lists_out_of_order_are_a_mistake() -> None:
    """A builder refuses what does not lie behind the last block, and half a name."""
    made = BlockListBuilder()
    made.add(5, bytes(32))
    for index, names in ((5, bytes(32)), (4, bytes(32)), (6, bytes(31)), (6, b"")):
        with pytest.raises(ValueError, match=r"comes after|no whole number"):
            made.add_run(index, names)
    assert repr(made.build()) == "<1 blocks in 1 runs>"
    assert isinstance(made.build(), BlockList)


def test_times_keep_their_zone() -> None:
    """Times come back as the same instants."""
    moment = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    fields: Header = header(start_time=moment, completion_time=moment + timedelta(hours=1))
    manifest = decode(encode(fields, block_list([]), KEY), ID, WITNESS)
    assert (manifest.header.start_time, manifest.header.completion_time) == (moment, moment + timedelta(hours=1))

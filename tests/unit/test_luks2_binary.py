import gzip
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.errors import HeaderDamaged, HeaderError, HeaderUnsupported
from ebscrypt.luks2 import COPY_SIZE, COPY_SIZES, Header, binary

VECTORS = Path(__file__).parents[1] / "vectors" / "luks2"
SALT = bytes(range(64))


def resized(header: Header, copy_size: int) -> Header:
    """``header`` with copies of another size."""
    config = {"json_size": str(copy_size - 4096), "keyslots_size": str(luks2.DATA_OFFSET - 2 * copy_size)}
    return msgspec.structs.replace(header, copy_size=copy_size, metadata=header.metadata | {"config": config})


def patched(copy: bytes, offset: int, value: bytes) -> bytes:
    """``copy`` with other bytes at ``offset`` and a right checksum."""
    raw = bytearray(copy)
    raw[offset : offset + len(value)] = value
    raw[448:512] = bytes(64)
    raw[448:480] = hashlib.sha256(raw).digest()
    return bytes(raw)


@pytest.mark.parametrize("offset", [0, COPY_SIZE])
def test_every_field_is_where_the_specification_puts_it(volume_header: Header, offset: int) -> None:
    """Read by a second hand, field by field at its documented offset."""
    header = msgspec.structs.replace(volume_header, seqid=258)
    copy = binary.encode(header, offset=offset, salt=SALT)

    assert copy[0:6] == (b"SKUL\xba\xbe" if offset else b"LUKS\xba\xbe")
    assert copy[6:8] == b"\0\2"
    assert copy[8:16] == (16384).to_bytes(8, "big")
    assert copy[16:24] == (258).to_bytes(8, "big")
    assert copy[24:72] == b"vol-0123456789abcdef0".ljust(48, b"\0")
    assert copy[72:104] == b"sha256".ljust(32, b"\0")
    assert copy[104:168] == SALT
    assert copy[168:208] == header.uuid.encode().ljust(40, b"\0")
    assert copy[208:256] == b"ebscrypt".ljust(48, b"\0")
    assert copy[256:264] == offset.to_bytes(8, "big")
    assert copy[264:448] == bytes(184)
    assert copy[448:480] == hashlib.sha256(copy[:448] + bytes(64) + copy[512:]).digest()
    assert copy[480:512] == bytes(32)
    assert copy[512:4096] == bytes(3584)
    assert json.loads(copy[4096:].rstrip(b"\0")) == header.metadata
    assert len(copy) == 16384


@pytest.mark.parametrize("size", COPY_SIZES)
def test_a_copy_of_any_legal_size_reads_back(volume_header: Header, size: int) -> None:
    """16 KiB to 4 MiB, first and second copy."""
    header = resized(volume_header, size)

    for offset in (0, size):
        assert binary.decode(binary.encode(header, offset=offset, salt=SALT), offset) == header


def test_any_changed_byte_is_noticed(volume_header: Header) -> None:
    """Each byte of the binary part, and many of the JSON area, turned: never a header."""
    copy = binary.encode(volume_header, offset=0, salt=SALT)
    places = [*range(480), *range(512, 4096, 7), *range(4096, COPY_SIZE, 31)]

    for place in places:
        damaged = bytearray(copy)
        damaged[place] ^= 0x20
        with pytest.raises(HeaderError):
            binary.decode(bytes(damaged), 0)


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (0, b"SKUL\xba\xbe", "magic"),
        (8, struct.pack(">Q", 0), "size of 0 bytes"),
        (8, struct.pack(">Q", 4096), "size of 4096"),
        (8, struct.pack(">Q", 16385), "size of 16385"),
        (8, struct.pack(">Q", 1 << 23), "size of 8388608"),
        (8, struct.pack(">Q", (1 << 64) - 1), "size of 18446744073709551615"),
        (8, struct.pack(">Q", 1 << 15), "ends within it"),
        (16, b"\xff" * 8, "sequence number"),
        (72, b"sha1\0\0", "checksum algorithm is 'sha1'"),
        (72, b"\xff" * 32, "checksum algorithm"),
        (256, struct.pack(">Q", 16384), "claims to lie at 16384"),
        (4096, b"[", "not one object"),
    ],
)
def test_a_wrong_field_under_a_right_checksum_is_damage(
    volume_header: Header, place: int, value: bytes, why: str
) -> None:
    """A checksum proves nothing about an enemy: each field is judged by itself, and sizes before they are used."""
    copy = binary.encode(volume_header, offset=0, salt=SALT)

    with pytest.raises(HeaderDamaged, match=why):
        binary.decode(patched(copy, place, value), 0)


@pytest.mark.parametrize("version", [0, 1, 3, 65535])
def test_another_version_of_luks_is_unsupported(volume_header: Header, version: int) -> None:
    """It is named, and not called damaged."""
    copy = binary.encode(volume_header, offset=0, salt=SALT)

    with pytest.raises(HeaderUnsupported, match=f"LUKS version {version};"):
        binary.decode(patched(copy, 6, version.to_bytes(2, "big")), 0)


@pytest.mark.parametrize("told", ["12287", "16384", 12288, None])
def test_a_config_that_contradicts_the_copys_size_is_damage(volume_header: Header, told: Any) -> None:
    """The JSON area's size stands in two places, which must agree."""
    config = volume_header.metadata["config"] | {"json_size": told}
    header = msgspec.structs.replace(volume_header, metadata=volume_header.metadata | {"config": config})

    with pytest.raises(HeaderDamaged, match="config says"):
        binary.decode(binary.encode(header, offset=0, salt=SALT), 0)


@pytest.mark.parametrize("length", [0, 1, 511, 4095, 4096, 16383])
def test_a_copy_that_is_cut_off_is_damage(volume_header: Header, length: int) -> None:
    """No length of it is read beyond its end."""
    copy = binary.encode(volume_header, offset=0, salt=SALT)

    with pytest.raises(HeaderDamaged, match="ends within it"):
        binary.decode(copy[:length], 0)


def test_a_label_of_any_bytes_is_kept(volume_header: Header) -> None:
    """Labels that are no UTF-8 come back byte for byte; one that fills its field is read without the last byte."""
    copy = binary.encode(volume_header, offset=0, salt=SALT)

    for label in (b"\xff\xfe caf\xc3\xa9", b"", b"x" * 47):
        raw = patched(copy, 24, label.ljust(48, b"\0"))
        assert binary.encode(binary.decode(raw, 0), offset=0, salt=SALT) == raw
    assert binary.decode(patched(copy, 24, b"y" * 48), 0).label == "y" * 47


@pytest.mark.parametrize(
    "change", [{"label": "x" * 48}, {"label": "a\0b"}, {"uuid": "u" * 40}, {"subsystem": "é" * 24}]
)
def test_a_text_that_does_not_fit_its_field_is_not_written(volume_header: Header, change: dict[str, str]) -> None:
    """Nothing is cut short in silence."""
    with pytest.raises(ValueError, match="does not fit a header field"):
        binary.encode(msgspec.structs.replace(volume_header, **change), offset=0, salt=SALT)


@pytest.mark.parametrize("folder", sorted(VECTORS.iterdir()), ids=lambda folder: folder.name)
def test_headers_of_every_version_are_read_for_ever(folder: Path) -> None:
    """Each golden header gives the values written beside it, and those values give the same bytes again."""
    for vector in sorted(folder.glob("*.json")):
        expected = json.loads(vector.read_text(encoding="utf-8"))
        area = gzip.decompress(vector.with_suffix(".bin.gz").read_bytes())

        reading = luks2.parse(lambda at, length, area=area: area[at : at + length], volume_id=expected["volume_id"])  # type: ignore[misc]

        header = reading.header
        assert reading.repair is None
        assert msgspec.to_builtins(header) == expected["header"]
        # What a later version of ebscrypt added to the token is absent in what older ones wrote.
        later = {"data_encryption_key_id": None}
        assert msgspec.to_builtins(header.token()) == later | expected["token"]
        assert msgspec.to_builtins(header.segment()) == expected["segment"]
        assert msgspec.to_builtins(header.digest()) == expected["digest"]
        assert hashlib.sha256(area).hexdigest() == expected["sha256"]
        size = header.copy_size
        for offset in (0, size):
            salt = area[offset + 104 : offset + 168]
            assert binary.encode(header, offset=offset, salt=salt) == area[offset : offset + size]
    assert list(folder.glob("*.json"))


def test_the_sealed_golden_header_matches_its_data_key() -> None:
    """The digest is PBKDF2-HMAC-SHA-256 of the 64 key bytes, as docs/formats/luks2.md says."""
    expected = json.loads((VECTORS / "v1" / "sealed.json").read_text(encoding="utf-8"))
    digest = msgspec.convert(expected["digest"], luks2.Digest)
    key = bytes.fromhex(expected["data_key"])

    assert hashlib.pbkdf2_hmac("sha256", key, digest.salt, digest.iterations, 32) == digest.digest

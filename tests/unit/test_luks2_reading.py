import contextlib
import errno
import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebscrypt.errors import HeaderDamaged, HeaderError, HeaderUnsupported
from ebscrypt.luks2 import COPY_SIZE, COPY_SIZES, DATA_OFFSET, Header, Reading, binary, parse
from ebscrypt.luks2.reading import Read, holds_luks

SALT = bytes(64)
EMPTY = bytes(COPY_SIZE)


def reader(area: bytes) -> Read:
    return lambda offset, length: area[offset : offset + length]


def copies(first: Header | bytes, second: Header | bytes | None = None) -> bytes:
    """The area of a header: two copies, each a header or the bytes that stand in its place."""
    second = first if second is None else second
    size = max([each.copy_size for each in (first, second) if isinstance(each, Header)], default=COPY_SIZE)
    raw = [
        each if isinstance(each, bytes) else binary.encode(each, offset=offset, salt=SALT)
        for each, offset in ((first, 0), (second, size))
    ]
    return raw[0].ljust(size, b"\0") + raw[1]


def torn(header: Header, offset: int) -> bytes:
    """A copy of ``header`` whose second half was never written."""
    copy = binary.encode(header, offset=offset, salt=SALT)
    return copy[: 4096 + 100] + bytes(len(copy) - 4196)


def at(header: Header, seqid: int, label: str = "") -> Header:
    return msgspec.structs.replace(header, seqid=seqid, label=label)


def test_two_equal_copies_are_read_without_remark(volume_header: Header) -> None:
    """The header, and nothing to repair."""
    assert parse(reader(copies(volume_header))) == Reading(header=volume_header)


@pytest.mark.parametrize(
    ("first", "second", "expected", "offset"), [(4, 5, 5, 0), (5, 4, 5, COPY_SIZE), (1, 2**40, 2**40, 0)]
)
def test_the_higher_sequence_number_counts(
    volume_header: Header, first: int, second: int, expected: int, offset: int
) -> None:
    """Of two sound copies the later state counts; the other one is to be written again."""
    reading = parse(reader(copies(at(volume_header, first), at(volume_header, second))))

    assert reading.header.seqid == expected
    assert reading.repair_offset == offset
    assert "interrupted" in str(reading.repair)


def test_the_first_of_two_different_copies_of_one_state_counts(volume_header: Header) -> None:
    """As libcryptsetup decides; and it is said."""
    reading = parse(reader(copies(at(volume_header, 3, "a"), at(volume_header, 3, "b"))))

    assert reading.header.label == "a"
    assert reading.repair_offset == COPY_SIZE
    assert "differ" in str(reading.repair)


@pytest.mark.parametrize("damage", [torn, lambda *_: EMPTY, lambda *_: b"\xaa" * COPY_SIZE])
def test_one_bad_copy_leaves_the_other(volume_header: Header, damage: Callable[[Header, int], bytes]) -> None:
    """Torn, zeroed or overwritten with noise, first or second: the sound one counts and the bad one is named."""
    first_bad = parse(reader(copies(damage(volume_header, 0), volume_header)))
    second_bad = parse(reader(copies(volume_header, damage(volume_header, COPY_SIZE))))

    assert first_bad.header == second_bad.header == volume_header
    assert (first_bad.repair_offset, second_bad.repair_offset) == (0, COPY_SIZE)
    assert "the first header copy is bad" in str(first_bad.repair)
    assert "the second header copy is bad" in str(second_bad.repair)


def test_a_torn_newer_copy_does_not_win(volume_header: Header) -> None:
    """A sequence number counts only under a right checksum."""
    old, new = at(volume_header, 7), at(volume_header, 8)

    assert parse(reader(copies(torn(new, 0), old))).header == old
    assert parse(reader(copies(old, torn(new, COPY_SIZE)))).header == old


def test_two_bad_copies_are_refused_with_both_reasons(volume_header: Header) -> None:
    """HeaderDamaged tells what is wrong with each and where help may be."""
    with pytest.raises(
        HeaderDamaged, match=r"corrupted or tampered with.*first copy: its checksum.*second copy: its checksum"
    ) as caught:
        parse(reader(copies(torn(volume_header, 0), torn(volume_header, COPY_SIZE))))
    assert "luksHeaderRestore" in str(caught.value.hint)


@pytest.mark.parametrize("area", [b"", bytes(4096), bytes(1 << 20), b"LUKS\xba\xbe", b"\xff" * (1 << 16)])
def test_what_is_no_header_at_all_is_refused(area: bytes) -> None:
    """Nothing, zeros, noise or the magic alone."""
    with pytest.raises(HeaderDamaged, match="no sound LUKS2 header"):
        parse(reader(area))


@pytest.mark.parametrize("size", COPY_SIZES)
def test_the_second_copy_is_found_at_every_legal_offset(volume_header: Header, size: int) -> None:
    """With the first copy gone, its size is gone: the second one is searched for where it may be."""
    config = {"json_size": str(size - 4096), "keyslots_size": str(DATA_OFFSET - 2 * size)}
    header = msgspec.structs.replace(
        volume_header, copy_size=size, metadata=volume_header.metadata | {"config": config}
    )

    reading = parse(reader(bytes(size) + binary.encode(header, offset=size, salt=SALT)))

    assert reading.header == header
    assert reading.repair_offset == 0


def test_a_second_copy_elsewhere_is_not_believed(volume_header: Header) -> None:
    """A copy that lies where it does not say it lies, such as one inside a guest's disk, is none."""
    copy = binary.encode(volume_header, offset=COPY_SIZE, salt=SALT)

    with pytest.raises(HeaderDamaged, match="was found at 32768"):
        parse(reader(bytes(2 * COPY_SIZE) + copy))


def test_luks1_is_named() -> None:
    """A LUKS1 header alone is unsupported, with the version in the message."""
    with pytest.raises(HeaderUnsupported, match="LUKS version 1;"):
        parse(reader(b"LUKS\xba\xbe\0\1".ljust(1 << 20, b"\0")))


@pytest.mark.parametrize(
    ("signature", "offset", "what"),
    [
        (b"XFSB", 0, "xfs"),
        (b"\x53\xef", 1080, "ext"),
        (b"_BHRfS_M", 65600, "btrfs"),
        (b"LABELONE", 512, "LVM"),
        (b"EFI PART", 512, "GPT"),
        (b"EFI PART", 4096, "GPT"),
        (b"\x55\xaa", 510, "partition table"),
        (b"\xfc\x4e\x2b\xa9", 4096, "md array"),
        (b"SWAPSPACE2", 4086, "swap"),
        (b"LUKS\xba\xbe\0\1", 0, "LUKS1"),
    ],
)
def test_a_backing_put_to_another_use_is_not_taken_back(
    volume_header: Header, signature: bytes, offset: int, what: str
) -> None:
    """A file system over the first copy means that the second is a leftover: writing the first again would ruin it."""
    area = bytearray(copies(EMPTY, volume_header).ljust(1 << 17, b"\0"))
    assert parse(reader(bytes(area))).header == volume_header
    area[offset : offset + len(signature)] = signature

    with pytest.raises(HeaderDamaged, match=f"begins with .*{what}") as caught:
        parse(reader(bytes(area)))
    assert "cryptsetup repair" in str(caught.value.hint)


def test_a_copy_that_the_medium_cannot_read_counts_as_bad(volume_header: Header) -> None:
    """EIO in the first copy leaves the second, and the other way round; both is damage, with the reason."""
    area = copies(volume_header)

    def failing(*bad: int) -> Read:
        def read(offset: int, length: int) -> bytes:
            if offset // COPY_SIZE in bad:
                raise OSError(errno.EIO, "Input/output error")
            return area[offset : offset + length]

        return read

    assert parse(failing(0)).repair == "the first header copy is bad: it cannot be read: Input/output error"
    assert parse(failing(1)).repair == "the second header copy is bad: it cannot be read: Input/output error"
    with pytest.raises(HeaderDamaged, match="cannot be read: Input/output error"):
        parse(failing(0, 1))


def test_an_error_of_the_program_is_not_taken_for_damage() -> None:
    """EBADF and the like are not the medium's fault and pass through."""

    def read(*_: int) -> bytes:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file descriptor"):
        parse(read)


def test_never_more_is_read_than_a_legal_header_has(volume_header: Header) -> None:
    """Sizes are checked before they are used: no read is longer than a copy or beyond the last legal place."""
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(offset + length)
        raw = bytearray(binary.encode(volume_header, offset=0, salt=SALT))
        raw[8:16] = b"\x7f" + b"\xff" * 7
        return bytes(raw)[offset : offset + length]

    with pytest.raises(HeaderDamaged):
        parse(read)
    assert max(asked) <= 2 * COPY_SIZES[-1]


def test_a_header_is_noticed_by_either_magic(volume_header: Header) -> None:
    """Even a damaged one, and even when only the second copy is left."""
    assert holds_luks(reader(copies(volume_header)))
    assert holds_luks(reader(copies(torn(volume_header, 0), EMPTY)))
    assert holds_luks(reader(copies(EMPTY, torn(volume_header, COPY_SIZE))))
    assert not holds_luks(reader(bytes(1 << 20)))
    assert not holds_luks(reader(b""))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=8)
    | st.sampled_from(["0", "crypt"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "type", "x"]), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, *above: str) -> list[tuple[str, ...]]:
    """The way to every value inside."""
    if not isinstance(value, dict):
        return [above]
    return [above, *(path for name, inner in value.items() for path in paths(inner, *above, name))]


@settings(max_examples=500)
@given(st.data())
def test_no_metadata_gives_anything_but_a_header_error(volume_header: Header, data: st.DataObject) -> None:
    """Any values anywhere in the JSON, under right checksums: read, or refused with a HeaderError."""
    metadata = json.loads(json.dumps(volume_header.metadata))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([path for path in paths(metadata) if path]))
        place = metadata
        for name in path[:-1]:
            place = place[name]
        if data.draw(st.booleans()):
            place[path[-1]] = data.draw(JSON)
        else:
            del place[path[-1]]
        if not metadata:
            break
    area = copies(msgspec.structs.replace(volume_header, metadata=metadata))

    with contextlib.suppress(HeaderError):
        parse(reader(area)).header.check(volume_header.label)


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.integers(0, 2 * COPY_SIZE - 1), st.binary(min_size=1, max_size=64)), max_size=8),
    st.integers(0, 2 * COPY_SIZE),
)
def test_no_damage_gives_anything_but_the_header_or_a_header_error(
    volume_header: Header, damages: list[tuple[int, bytes]], length: int
) -> None:
    """Overwritten anywhere and cut off anywhere: the true header, or a HeaderError; never another header."""
    area = bytearray(copies(volume_header))
    for place, value in damages:
        area[place : place + len(value)] = value

    with contextlib.suppress(HeaderError):
        assert parse(reader(bytes(area[: 2 * COPY_SIZE - length]))).header == volume_header


@settings(max_examples=500)
@given(st.integers(0, 4095), st.binary(min_size=1, max_size=16))
def test_no_binary_part_under_a_right_checksum_gives_anything_else(
    volume_header: Header, place: int, value: bytes
) -> None:
    """Fields that an enemy chose, with the checksum made right, are read or refused, never stumbled over."""
    raw = bytearray(binary.encode(volume_header, offset=0, salt=SALT))
    raw[place : place + len(value)] = value
    raw[448:512] = bytes(64)
    raw[448:480] = hashlib.sha256(raw).digest()

    with contextlib.suppress(HeaderError):
        parse(reader(bytes(raw)))

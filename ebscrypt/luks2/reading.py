"""Which of a header's two copies counts: the rule, over anything that can be read at an offset.

Both sound: the higher sequence number; the first copy where they are equal. One sound: that one, and the caller is told
which copy to write again. None: nothing is served. The same rule as libcryptsetup's, so that both programs always see
the same header, and its guard as well: where the first copy was overwritten by a file system or a partition table, the
second one is no reason to believe that the volume is still there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

import msgspec

from ebscrypt.errors import HeaderDamaged, HeaderError, HeaderUnsupported
from ebscrypt.luks2 import binary
from ebscrypt.luks2.header import BINARY_SIZE, COPY_SIZES, Header

Read = Callable[[int, int], bytes]
"""(offset, length) → the bytes there, fewer at the end. May raise OSError."""

_MEDIUM_ERRORS: Final = frozenset(
    {errno.EIO, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ, errno.EBADMSG, errno.ETIMEDOUT}
)
"""What block devices answer for a place that cannot be read; the copy there counts as damaged."""

_FOREIGN: Final = (
    (binary.MAGIC_FIRST + b"\0\1", 0, "a LUKS1 header"),
    (b"XFSB", 0, "an xfs file system"),
    (b"\x53\xef", 0x438, "an ext file system"),
    (b"_BHRfS_M", 0x10040, "a btrfs file system"),
    (b"LABELONE", 512, "an LVM physical volume"),
    (b"EFI PART", 512, "a GPT partition table"),
    (b"EFI PART", 4096, "a GPT partition table"),
    (b"\x55\xaa", 510, "a partition table or a FAT file system"),
    (b"\xfc\x4e\x2b\xa9", 4096, "a member of an md array"),
    (b"SWAPSPACE2", 4086, "swap space"),
)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The header that counts. ``repair`` says why a copy has to be written again, None when both are as they should be.

    ``repair_offset`` is where that copy lies.
    """

    header: Header
    repair: str | None = None
    repair_offset: int | None = None


def parse(read: Read, *, volume_id: str | None = None) -> Reading:
    """The header that ``read`` gives, checked as `Header.check` does. Raises `HeaderError`.

    To parse bytes, say those of a header backup: ``parse(lambda at, length: backup[at : at + length])``.
    """
    reading = choose(read)
    reading.header.check(volume_id)
    return reading


def choose(read: Read) -> Reading:
    """The copy that counts, of any LUKS2 header. Raises `HeaderDamaged`; `HeaderUnsupported` where it is not LUKS2."""
    first = _copy(read, 0)
    second = _copy(read, first.copy_size) if isinstance(first, Header) else _find_second(read)
    if isinstance(first, Header) and isinstance(second, Header):
        return _newer(first, second)
    if isinstance(first, Header):
        return Reading(header=first, repair=f"the second header copy is bad: {second}", repair_offset=first.copy_size)
    if isinstance(second, Header):
        _check_foreign(read)
        return Reading(header=second, repair=f"the first header copy is bad: {first}", repair_offset=0)
    if isinstance(first, HeaderUnsupported):
        raise first
    raise HeaderDamaged(
        f"no sound LUKS2 header: it is corrupted or tampered with, or there never was one "
        f"(first copy: {first}; second copy: {second})",
        hint="bring it back from a backup, if there is one: cryptsetup luksHeaderRestore",
    )


def holds_luks(read: Read) -> bool:
    """Whether either copy's magic is where it may be: a header, sound or not, of LUKS1 or LUKS2."""
    return any(_has_magic(read, offset) for offset in (0, *COPY_SIZES))


def _copy(read: Read, offset: int) -> Header | HeaderError:
    try:
        start = read(offset, BINARY_SIZE)
        size = binary.declared_size(start, offset)
        return binary.decode(start + read(offset + BINARY_SIZE, size - BINARY_SIZE), offset)
    except HeaderError as error:
        return error
    except OSError as error:
        if error.errno not in _MEDIUM_ERRORS:
            raise
        return HeaderDamaged(f"it cannot be read: {error.strerror}")


def _find_second(read: Read) -> Header | HeaderError:
    """Without a first copy nothing tells where the second one is: the lowest legal offset that holds a sound one."""
    found: HeaderError = HeaderDamaged("none at any offset where one may be")
    for offset in COPY_SIZES:
        copy = _copy(read, offset)
        if isinstance(copy, Header):
            return copy
        if _has_magic(read, offset):
            found = copy
    return found


def _newer(first: Header, second: Header) -> Reading:
    if first == second:
        return Reading(header=first)
    if first.seqid < second.seqid:
        return Reading(
            header=second,
            repair=f"an update was interrupted: the first header copy has state {first.seqid}, not {second.seqid}",
            repair_offset=0,
        )
    why = (
        f"an update was interrupted: the second header copy has state {second.seqid}, not {first.seqid}"
        if first.seqid > second.seqid
        else f"the header copies differ in state {first.seqid}"
    )
    return Reading(header=first, repair=why, repair_offset=first.copy_size)


def _has_magic(read: Read, offset: int) -> bool:
    return _peek(read, offset).startswith(binary.magic(offset))


def _peek(read: Read, offset: int) -> bytes:
    try:
        return read(offset, BINARY_SIZE)
    except OSError as error:
        if error.errno not in _MEDIUM_ERRORS:
            raise
        return b""


def _check_foreign(read: Read) -> None:
    for signature, offset, what in _FOREIGN:
        if _peek(read, offset // BINARY_SIZE * BINARY_SIZE)[offset % BINARY_SIZE :].startswith(signature):
            raise HeaderDamaged(
                f"the backing begins with {what}, though a second LUKS2 header copy is left: "
                "it was put to another use, or overwritten by mistake",
                hint="if the volume is what you want to keep: cryptsetup repair BACKING",
            )

"""Headers on their backing: read, made, changed and repaired, so that no crash leaves the volume without one.

An update writes one copy, makes it durable, then writes the other and makes it durable. Whatever is cut off where, one
copy is whole; its sequence number tells which state it is. The copy that goes first is the one that is worth less: the
second, unless the first is bad or older already.

Descriptors may be of regular files or block devices, opened with O_DIRECT or without: everything is read and written in
aligned multiples of 4096 bytes from page-aligned memory. The keyslots between header and data are never touched.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

import msgspec

from ebscrypt.errors import HeaderDamaged, StateError
from ebscrypt.luks2 import binary, reencryption
from ebscrypt.luks2.direct import reader, write
from ebscrypt.luks2.header import Header
from ebscrypt.luks2.lock import header_lock
from ebscrypt.luks2.reading import Reading, choose, holds_luks
from ebscrypt.model import MIB

_READINGS: Final = 4
"""How often a header that looks bad is read before it is believed: another program may be in the middle of writing."""


def is_luks(fd: int) -> bool:
    """Whether a LUKS header, sound or not, begins the backing."""
    return holds_luks(reader(fd))


def read_header(fd: int, *, volume_id: str | None = None, reencrypting: bool = False) -> Reading:
    """The header on ``fd``, of ``volume_id`` where given. Takes no lock and writes nothing.

    With ``reencrypting`` that of a volume that is being re-encrypted is taken as well, of which only `reencryption` can
    tell anything: who asks must have thought of it. Look at ``repair``: one copy may be bad, which `repair_header`
    mends. Raises `HeaderDamaged`, `HeaderUnsupported`, `BackingError` for a backing that ends before the volume does,
    OSError.
    """
    reading = _settled(fd)
    served = _served(reading.header, reencrypting=reencrypting)
    served.check(volume_id)
    served.segment().size_on(backing_size(fd))
    return reading


def write_header(fd: int, header: Header, *, reencrypting: bool = False) -> Header:
    """Replace the header that ``header`` was made from, and return it with its new sequence number, durable.

    Raises `StateError` when the header on the backing is not the one that was read: somebody changed it meanwhile.
    Also `HeaderError`, `BackingInUse` (see `header_lock`) and OSError; then the header on the backing is the old or
    the new one, whole. ``reencrypting`` as for `read_header`.
    """
    _served(header, reencrypting=reencrypting).check()
    with header_lock(fd):
        found = choose(reader(fd))
        there = found.header
        if (there.uuid, there.seqid, there.copy_size) != (header.uuid, header.seqid, header.copy_size):
            raise StateError(
                f"the LUKS2 header was changed since it was read: it has state {there.seqid} of {there.uuid}, "
                f"not state {header.seqid} of {header.uuid}",
                hint="run the command again",
            )
        return _write_next(fd, header, first_goes_first=found.repair_offset == 0)


def format_header(fd: int, header: Header) -> Header:
    """Begin a volume: clear everything up to its data, then write ``header``. What was there is lost.

    Whether the backing may be overwritten is for the caller to know. Zeros are not written where zeros are, so a
    sparse file stays sparse. Raises `BackingError` when the backing is too short, `BackingInUse`, OSError.
    """
    header.check()
    segment = header.segment()
    segment.size_on(backing_size(fd))
    with header_lock(fd):
        _clear(fd, segment.data_offset)
        return _write_next(fd, header, first_goes_first=False)


def repair_header(fd: int, *, volume_id: str | None = None, reencrypting: bool = False) -> Reading:
    """Write a bad or older copy again from the one that counts. The reading that comes back says what was mended.

    Raises as `read_header` and `write_header`; a header with no sound copy cannot be mended.
    """
    with header_lock(fd):
        reading = choose(reader(fd))
        _served(reading.header, reencrypting=reencrypting).check(volume_id)
        if reading.repair_offset is not None:
            _write_copy(fd, reading.header, reading.repair_offset)
        return reading


def backing_size(fd: int) -> int:
    """Bytes of a file or block device."""
    return os.lseek(fd, 0, os.SEEK_END)


def _served(header: Header, *, reencrypting: bool) -> Header:
    """The header by which it is judged whether we serve the volume."""
    return reencryption.before(header) if reencrypting else header


def _write_next(fd: int, header: Header, *, first_goes_first: bool) -> Header:
    new = msgspec.structs.replace(header, seqid=header.seqid + 1)
    offsets = (0, new.copy_size) if first_goes_first else (new.copy_size, 0)
    for offset in offsets:
        _write_copy(fd, new, offset)
    return new


def _write_copy(fd: int, header: Header, offset: int) -> None:
    write(fd, binary.encode(header, offset=offset, salt=secrets.token_bytes(binary.SALT_SIZE)), offset)
    os.fsync(fd)


def _settled(fd: int) -> Reading:
    """A sound header at once; of one that looks bad, what is still the same at the next look."""
    seen = _look(fd)
    for _ in range(_READINGS - 1):
        if isinstance(seen, Reading) and seen.repair is None:
            break
        before, seen = seen, _look(fd)
        if repr(seen) == repr(before):
            break
    if isinstance(seen, HeaderDamaged):
        raise seen
    return seen


def _look(fd: int) -> Reading | HeaderDamaged:
    try:
        return choose(reader(fd))
    except HeaderDamaged as error:
        return error


def _clear(fd: int, end: int) -> None:
    read = reader(fd)
    for offset in range(0, end, MIB):
        found = read(offset, min(MIB, end - offset))
        if found.strip(b"\0"):
            write(fd, bytes(len(found)), offset)

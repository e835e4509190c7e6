"""Looks for a data key in the memory of another process, and in its core file, in every form that a cipher gives it.

A 64-byte XTS key is two AES-256 keys. A cipher expands each into 15 round keys of 16 bytes (FIPS 197, 5.2) and, for
decryption by the equivalent inverse cipher, into 13 more (5.3.5); implementations keep them as bytes or as 32-bit words
of either order. The first two round keys are the AES key itself, so whoever finds no round key finds no key, no half
and no expanded key, however they lie. Text forms (hex, base64) are looked for as well.
"""

from __future__ import annotations

import base64
import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK: Final = 1 << 20
NT_PRSTATUS: Final = 1
_RIP_IN_PRSTATUS: Final = 112 + 16 * 8
_ZEROS: Final = bytes(2 * CHUNK)
_KERNELS_OWN: Final = {"[vsyscall]", "[vvar]", "[vvar_vclock]"}
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4


def _double(value: int) -> int:
    """Multiplication by x in AES's field."""
    return (value << 1) ^ (0x11B if value & 0x80 else 0)


def _multiply(left: int, right: int) -> int:
    product = 0
    while right:
        if right & 1:
            product ^= left
        left, right = _double(left), right >> 1
    return product


def _substitution_box() -> bytes:
    box = bytearray(256)
    for value in range(256):
        inverse = next((other for other in range(256) if _multiply(value, other) == 1), 0)
        rotations = (inverse << shift | inverse >> (8 - shift) for shift in range(5))
        result = 0x63
        for rotation in rotations:
            result ^= rotation & 0xFF
        box[value] = result
    return bytes(box)


_SBOX: Final = _substitution_box()


def encryption_schedule(key: bytes) -> list[bytes]:
    """The 15 round keys of a 32-byte AES key (FIPS 197, 5.2)."""
    words = [key[index : index + 4] for index in range(0, 32, 4)]
    constant = 1
    for index in range(8, 60):
        word = words[-1]
        if index % 8 == 0:
            word = bytes(_SBOX[byte] for byte in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _double(constant)
        elif index % 8 == 4:
            word = bytes(_SBOX[byte] for byte in word)
        words.append(bytes(left ^ right for left, right in zip(words[-8], word, strict=True)))
    return [b"".join(words[index : index + 4]) for index in range(0, 60, 4)]


def _inverse_mix_columns(block: bytes) -> bytes:
    rows = ((14, 11, 13, 9), (9, 14, 11, 13), (13, 9, 14, 11), (11, 13, 9, 14))
    mixed = bytearray()
    for start in range(0, 16, 4):
        column = block[start : start + 4]
        for row in rows:
            value = 0
            for factor, byte in zip(row, column, strict=True):
                value ^= _multiply(byte, factor)
            mixed.append(value)
    return bytes(mixed)


def decryption_schedule(key: bytes) -> list[bytes]:
    """The 13 inner round keys of the equivalent inverse cipher (FIPS 197, 5.3.5); its outer two are encryption's."""
    return [_inverse_mix_columns(round_key) for round_key in encryption_schedule(key)[1:-1]]


def patterns(key: bytes) -> dict[bytes, str]:
    """What to look for, each with its name, for a key of two halves."""
    found: dict[bytes, str] = {}
    half = len(key) // 2
    for number, part in enumerate((key[:half], key[half:]), 1):
        schedules = {"encryption": encryption_schedule(part), "decryption": decryption_schedule(part)}
        for direction, schedule in schedules.items():
            for index, round_key in enumerate(schedule):
                swapped = b"".join(round_key[start : start + 4][::-1] for start in range(0, 16, 4))
                name = f"{direction} round key {index} of half {number}"
                found[round_key] = name
                found[swapped] = f"{name}, words swapped"
        found[part.hex().encode()] = f"half {number} in hex"
        found[part.hex().upper().encode()] = f"half {number} in HEX"
    found[base64.b64encode(key).rstrip(b"=")[:-1]] = "key in base64"
    return found


@dataclass(frozen=True)
class Hit:
    """A form of the key at an address. ``where`` names the mapping, segment or note, ``rip`` the thread's place."""

    name: str
    address: int
    where: str
    rip: int | None = None


@dataclass(frozen=True)
class Scan:
    """What a scan found, how much it read, and which ranges refused to be read."""

    hits: list[Hit]
    scanned: int
    unreadable: list[str]

    def plus(self, hits: list[Hit], scanned: int) -> Scan:
        return Scan(self.hits + hits, self.scanned + scanned, self.unreadable)


def _find(data: bytes, wanted: dict[bytes, str]) -> Iterator[tuple[int, str]]:
    for pattern, name in wanted.items():
        position = data.find(pattern)
        while position >= 0:
            yield position, name
            position = data.find(pattern, position + 1)


def _search(read: Callable[[int, int], bytes], start: int, end: int, wanted: dict[bytes, str]) -> list[tuple[int, str]]:
    """Positions and names of what is found between two positions, where ``read(position, length)`` gets bytes.

    Piece by piece, so that each stays in the processor's cache for all the patterns; most of a process is zeros.
    """
    overlap = max(map(len, wanted)) - 1
    found = []
    for position in range(start, end, CHUNK):
        data = read(position, min(end - position, CHUNK + overlap))
        if data != _ZEROS[: len(data)]:
            found += [(position + at, name) for at, name in _find(data, wanted) if at < CHUNK]
    return found


def scan_process(pid: int, key: bytes) -> Scan:
    """Read all of a process's memory through /proc, while it runs."""
    wanted = patterns(key)
    scan = Scan([], 0, [])
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, _, rest = line.partition(" ")
            where = " ".join(rest.split()[4:]) or "anonymous"
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if where in _KERNELS_OWN:
                continue
            try:
                found = _search(lambda position, length: os.pread(memory, length, position), start, end, wanted)
            except OSError:
                scan.unreadable.append(where)
                continue
            scan = scan.plus([Hit(name, address, where) for address, name in found], end - start)
    finally:
        os.close(memory)
    return scan


def write_core(pid: int, folder: Path, *, excluded: bool = True) -> Path:
    """Have gdb write a core file of a running process; ``excluded``: also what the process took out of core files."""
    command = ["gcore", *(["-a"] if excluded else []), "-o", str(folder / "core"), str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    path = folder / f"core.{pid}"
    if not path.exists():
        raise RuntimeError(f"gcore wrote no core file: {done.stdout}{done.stderr}")
    return path


def _notes(core: mmap.mmap, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and length of each note's content."""
    position = start
    while position < start + size:
        name_size, content_size, kind = struct.unpack_from("<III", core, position)
        content = position + 12 + -(-name_size // 4) * 4
        yield kind, content, content_size
        position = content + -(-content_size // 4) * 4


def scan_core(path: Path, key: bytes) -> tuple[Scan, Scan]:
    """Read a core file of a 64-bit process: its memory segments, and apart from them its notes.

    The notes hold each thread's registers at the instant of the stop. A hit there carries the thread's RIP.
    """
    wanted = patterns(key)
    segments, notes = Scan([], 0, []), Scan([], 0, [])
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as core:
        if core[:5] != b"\x7fELF\x02":
            raise RuntimeError(f"{path} is no 64-bit ELF file")
        (table,) = struct.unpack_from("<Q", core, 32)
        entry_size, count = struct.unpack_from("<HH", core, 54)

        def search(start: int, size: int) -> list[tuple[int, str]]:
            return _search(lambda position, length: core[position : position + length], start, start + size, wanted)

        for index in range(count):
            kind, _flags, offset, address, _, size = struct.unpack_from("<IIQQQQ", core, table + index * entry_size)
            if kind == _PT_LOAD:
                found = search(offset, size)
                hits = [Hit(name, address + at - offset, f"segment at {address:#x}") for at, name in found]
                segments = segments.plus(hits, size)
            elif kind == _PT_NOTE:
                rip = None
                for note, start, length in _notes(core, offset, size):
                    if note == NT_PRSTATUS:
                        (rip,) = struct.unpack_from("<Q", core, start + _RIP_IN_PRSTATUS)
                    hits = [Hit(name, at, f"note {note:#x}", rip) for at, name in search(start, length)]
                    notes = notes.plus(hits, length)
    return segments, notes

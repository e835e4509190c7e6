"""What the tests of control know of disks: headers, first bytes, partition tables; and a key that KMS refuses."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from ebscrypt import luks2
from ebscrypt.control.site import Site


def header_of(path: str) -> luks2.Header:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        reading = luks2.read_header(descriptor)
        assert reading.repair is None
        return reading.header
    finally:
        os.close(descriptor)


def start_of(path: str, length: int) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(length)


def partition_table(kind: str, sectors: int) -> bytes:
    """The first sectors of a disk with one partition in a DOS table, or with an empty GPT behind its protective one."""
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE if kind == "gpt" else 0x83, b"\xff" * 3, 1, sectors - 1)
    table = bytes(446) + entry + bytes(48) + b"\x55\xaa"
    if kind == "dos":
        return table
    entries = bytes(128 * 128)
    fields = (
        b"EFI PART",
        0x10000,
        92,
        0,
        0,
        1,
        sectors - 1,
        34,
        sectors - 34,
        b"g" * 16,
        2,
        128,
        128,
        zlib.crc32(entries),
    )
    header = struct.pack("<8sIIIIQQQQ16sQIII", *fields)
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    return table + header.ljust(512, b"\0") + entries


def disabled_key(site: Site) -> str:
    """A key that is disabled; its ARN."""
    key = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    site.kms.call("DisableKey", KeyId=key)
    return key

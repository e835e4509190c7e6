"""libnbd with its strict mode off: requests that no client should send, each refused by its own error, none harmful.

`fails` of the scripts checks the errno; after every script the connection must still serve.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nbd_volume import MIB, ServedVolume, nbdsh, served

SIZE = 128 * MIB

HEALTHY = """
h.pwrite(b"good" * 1024, 4096)
assert h.pread(4096, 4096) == bytearray(b"good" * 1024)
h.flush()
h.shutdown()
"""


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def volume(request: pytest.FixtureRequest) -> Iterator[ServedVolume]:
    """A volume of 128 MiB."""
    with served(SIZE, encrypted=request.param) as volume:
        yield volume


def test_unaligned(volume: ServedVolume) -> None:
    """Any offset and length is served, and leaves its neighbours alone."""
    nbdsh(
        volume.uri,
        f"""
model = bytearray({MIB})
h.zero({MIB}, 0)
import random
rng = random.Random(5)
for _ in range(300):
    offset, length = rng.randrange({MIB} - 20000), rng.randrange(1, 20000)
    kind = rng.randrange(3)
    if kind == 0:
        data = rng.randbytes(length)
        h.pwrite(data, offset)
    elif kind == 1:
        data = bytes(length)
        h.zero(length, offset)
    else:
        data = bytes(h.pread(length, offset))
        assert data == model[offset:offset + length]
    model[offset:offset + length] = data
assert h.pread({MIB}, 0) == model
{HEALTHY}""",
    )


def test_out_of_range(volume: ServedVolume) -> None:
    """Beyond the end: EINVAL for what reads or discards, ENOSPC for what writes."""
    nbdsh(
        volume.uri,
        f"""
size = h.get_size()
assert size == {SIZE}
for offset, length in ((size, 1), (size - 1, 2), (size - 512, 4096), (2**63 - 4096, 4096), (2**62, 512)):
    fails(errno.EINVAL, h.pread, length, offset)
    fails(errno.ENOSPC, h.pwrite, b"x" * length, offset)
    fails(errno.EINVAL, h.trim, length, offset)
    fails(errno.ENOSPC, h.zero, length, offset)
    fails(errno.EINVAL, h.cache, length, offset)
    fails(errno.EINVAL, h.block_status, length, offset, lambda *_: 0)
h.pwrite(b"last", size - 4)
assert h.pread(4, size - 4) == b"last"
{HEALTHY}""",
    )


def test_oversize_payloads(volume: ServedVolume) -> None:
    """32 MiB are read and written whole; one byte more is refused, and the payload that was sent is consumed."""
    nbdsh(
        volume.uri,
        f"""
import os
data = os.urandom(32 * {MIB})
h.pwrite(data, 1)
assert h.pread(len(data), 1) == data
fails(errno.EINVAL, h.pwrite, data + b"x", 0)
fails(errno.EINVAL, h.pwrite, bytes(64 * {MIB}), 0)
assert h.pread(len(data), 1) == data
{HEALTHY}""",
    )


@pytest.mark.parametrize("structured", [True, False])
def test_oversize_reads(*, structured: bool) -> None:
    """A read of more than 32 MiB is EOVERFLOW for clients that know structured replies, EINVAL for the others."""
    expected = "EOVERFLOW" if structured else "EINVAL"
    with served(SIZE) as volume:
        nbdsh(
            volume.uri,
            f"""
h.shutdown()
h = nbd.NBD()
h.set_strict_mode(0)
h.set_request_structured_replies({structured})
h.connect_uri({volume.uri!r})
for length in (32 * {MIB} + 1, 64 * {MIB} - 512, 64 * {MIB}):
    fails(errno.{expected}, h.pread, length, 0)
    fails(errno.{expected}, h.cache, length, 0)
{HEALTHY}""",
        )


def test_long_lengths_are_not_clamped() -> None:
    """Trim, zero and block status take lengths up to 2^32-1, and mean all of them."""
    size = 2**33
    with served(size) as volume:
        nbdsh(
            volume.uri,
            f"""
length = 2**32 - 1
for offset in (0, length - 1, length, length + 1):
    h.pwrite(b"x", offset)
extents = []
h.block_status(length, 0, lambda name, offset, entries, error: extents.extend(entries) or 0)
assert sum(extents[::2]) == length, extents
h.zero(length, 0)
assert h.pread(3, length - 1) == b"\\0xx"
h.pwrite(b"y", length - 1)
h.trim(length, 1)
assert h.pread(1, 1) == b"\\0"
h.zero(length, {size} - length, nbd.CMD_FLAG_FAST_ZERO)
fails(errno.ENOSPC, h.zero, length, {size} - length + 1)
fails(errno.EINVAL, h.trim, length, {size} - length + 1)
{HEALTHY}""",
        )


def test_unknown_flags(volume: ServedVolume) -> None:
    """A flag that a command does not have is EINVAL, and the command is not carried out."""
    nbdsh(
        volume.uri,
        f"""
h.pwrite(b"keep" * 128, 0)
ignore = lambda *_: 0
commands = (
    (lambda flags: h.pread(512, 0, flags=flags), nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_DF),
    (lambda flags: h.pwrite(b"lost" * 128, 0, flags=flags), nbd.CMD_FLAG_FUA),
    (lambda flags: h.trim(512, 0, flags=flags), nbd.CMD_FLAG_FUA),
    (lambda flags: h.zero(512, 0, flags=flags), nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO),
    (lambda flags: h.cache(512, 0, flags=flags), nbd.CMD_FLAG_FUA),
    (lambda flags: h.flush(flags=flags), nbd.CMD_FLAG_FUA),
    (lambda flags: h.block_status(512, 0, ignore, flags=flags), nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_REQ_ONE),
)
for call, allowed in commands:
    call.__name__ = "command"
    for bit in range(16):
        if not allowed >> bit & 1:
            fails(errno.EINVAL, call, 1 << bit)
assert h.pread(512, 0) == bytearray(b"keep" * 128)
{HEALTHY}""",
    )


def test_nothing_at_all(volume: ServedVolume) -> None:
    """A length of zero is a mistake, and told as one."""
    nbdsh(
        volume.uri,
        f"""
fails(errno.EINVAL, h.pread, 0, 0)
fails(errno.EINVAL, h.pwrite, b"", 0)
fails(errno.EINVAL, h.trim, 0, 0)
fails(errno.EINVAL, h.zero, 0, 0)
fails(errno.EINVAL, h.cache, 0, 0)
fails(errno.EINVAL, h.block_status, 0, 0, lambda *_: 0)
{HEALTHY}""",
    )


def test_block_status_without_a_context(volume: ServedVolume) -> None:
    """BLOCK_STATUS of a client that negotiated no context is EINVAL."""
    nbdsh(
        volume.uri,
        f"""
h.shutdown()
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri({volume.uri!r})
fails(errno.EINVAL, h.block_status, 4096, 0, lambda *_: 0)
{HEALTHY}""",
    )


def test_writing_to_a_read_only_volume() -> None:
    """EPERM for everything that writes, and nothing changes; reading and flushing go on."""
    with served(SIZE, read_only=True) as volume:
        nbdsh(
            volume.uri,
            f"""
for offset in (0, {SIZE}):
    fails(errno.EPERM, h.pwrite, b"x" * 512, offset)
    fails(errno.EPERM, h.trim, 512, offset)
    fails(errno.EPERM, h.zero, 512, offset)
assert h.pread(4096, 0) == bytes(4096)
h.flush()
h.shutdown()
""",
        )
        assert volume.operations("write") == 0

"""Structured replies as libnbd sees them: what is told instead of sent, and that it is all told once."""

from __future__ import annotations

import pytest

from tests.nbd_volume import KIB, MIB, nbdsh, served

SIZE = 64 * MIB

COLLECT = """
def chunks_of(length, offset, flags=0):
    seen = []
    def collect(data, at, status, error):
        seen.append((at, len(data), {nbd.READ_DATA: "data", nbd.READ_HOLE: "hole", nbd.READ_ERROR: "error"}[status]))
    data = h.pread_structured(length, offset, collect, flags)
    return bytes(data), seen
"""


@pytest.mark.parametrize("encrypted", [True, False])
def test_holes_are_told(*, encrypted: bool) -> None:
    """A read over holes and data comes as chunks of both; with DF it comes as one, zeros and all."""
    with served(SIZE, encrypted=encrypted) as volume:
        nbdsh(
            volume.uri,
            f"""{COLLECT}
import os
data = os.urandom(256 * {KIB})
h.pwrite(data, {MIB})
expected = bytes({MIB}) + data + bytes({MIB} - len(data))
for flags, chunks in (
    (0, [(0, {MIB}, "hole"), ({MIB}, len(data), "data"), ({MIB} + len(data), {MIB} - len(data), "hole")]),
    (nbd.CMD_FLAG_DF, [(0, 2 * {MIB}, "data")]),
):
    assert chunks_of(2 * {MIB}, 0, flags) == (expected, chunks), chunks_of(2 * {MIB}, 0, flags)[1]
h.shutdown()
""",
        )


def test_zeros_that_are_stored_are_told_too() -> None:
    """Zeros written as data are allocated, as block status says, and still need not be sent."""
    with served(SIZE) as volume:
        nbdsh(
            volume.uri,
            f"""{COLLECT}
h.pwrite(bytes({MIB}), 0)
extents = []
h.block_status({MIB}, 0, lambda name, offset, entries, error: extents.extend(entries) or 0)
assert extents == [{MIB}, 0], extents
assert chunks_of({MIB}, 0) == (bytes({MIB}), [(0, {MIB}, "hole")])
h.shutdown()
""",
        )


def test_any_read_is_told_once() -> None:
    """Reads of any offset and length over a patchwork of data and holes put together to what was written."""
    with served(SIZE) as volume:
        nbdsh(
            volume.uri,
            f"""{COLLECT}
import random
rng = random.Random(6)
model = bytearray({SIZE})
for _ in range(100):
    offset = rng.randrange({SIZE} - 100000)
    data = rng.randbytes(rng.randrange(1, 100000))
    h.pwrite(data, offset)
    model[offset:offset + len(data)] = data
for _ in range(200):
    offset = rng.randrange({SIZE} - 1)
    length = min(rng.choice((1, 511, 4096, 70000, 3000000)), {SIZE} - offset)
    data, chunks = chunks_of(length, offset)
    assert data == model[offset:offset + length]
    assert [at for at, _, _ in chunks] == sorted(at for at, _, _ in chunks)
    assert sum(size for _, size, _ in chunks) == length
    assert all(kind != "hole" or size >= 1 for _, size, kind in chunks)
h.shutdown()
""",
        )


def test_one_extent_at_a_time() -> None:
    """With REQ_ONE a client walks over the volume extent by extent and finds the same as in one go."""
    with served(SIZE) as volume:
        nbdsh(
            volume.uri,
            f"""
for offset in range(0, {SIZE}, 3 * {MIB}):
    h.pwrite(b"x" * 12288, offset)
def ask(offset, flags):
    found = []
    h.block_status({SIZE} - offset, offset, lambda name, at, entries, error: found.extend(entries) or 0, flags)
    return list(zip(found[::2], found[1::2]))
whole, walked, position = ask(0, 0), [], 0
while position < {SIZE}:
    extents = ask(position, nbd.CMD_FLAG_REQ_ONE)
    assert len(extents) == 1
    walked += extents
    position += extents[0][0]
assert walked == whole and sum(length for length, _ in whole) == {SIZE}
h.shutdown()
""",
        )


def test_an_error_carries_a_sentence() -> None:
    """Where replies are structured, a refusal says in words what was wrong."""
    with served(SIZE) as volume:
        nbdsh(
            volume.uri,
            f"""
h.set_debug(True)
said = []
h.set_debug_callback(lambda function, message: said.append(message) or 0)
fails(errno.EINVAL, h.pread, 512, {SIZE})
assert any("the range ends beyond the volume" in line for line in said), said
h.shutdown()
""",
        )

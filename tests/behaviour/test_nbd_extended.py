"""Extended headers, which no client of Debian 12 speaks: 64-bit lengths, one header form, payloads of BLOCK_STATUS."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from tests import nbd_client as nbd
from tests.nbd_client import Extent, RawClient
from tests.nbd_volume import KIB, MIB, SECTOR, TIB, ServedVolume, served

SIZE = 64 * MIB
HOLE, DATA = 3, 0


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def volume(request: pytest.FixtureRequest) -> Iterator[ServedVolume]:
    """A volume of 64 MiB."""
    with served(SIZE, encrypted=request.param) as volume:
        yield volume


@pytest.fixture
def client(volume: ServedVolume) -> Iterator[RawClient]:
    """A connection with extended headers and base:allocation."""
    with RawClient(volume.connect()).negotiate() as client:
        yield client


def test_every_command(client: RawClient) -> None:
    """Everything is served with extended headers, and every reply echoes cookie and offset."""
    data = os.urandom(3 * MIB)
    assert client.write(5 * MIB + 1, data) == 0
    assert client.read(5 * MIB + 1, len(data)) == data
    assert client.write(0, data, flags=nbd.FLAG_FUA) == 0
    assert client.error(nbd.CMD_FLUSH) == 0
    assert client.error(nbd.CMD_CACHE, 0, MIB) == 0
    assert client.error(nbd.CMD_TRIM, 0, SIZE, flags=nbd.FLAG_FUA) == 0
    assert client.error(nbd.CMD_WRITE_ZEROES, 0, SIZE, flags=nbd.FLAG_FAST_ZERO) == 0
    assert client.extents(0, SIZE) == [Extent(SIZE, HOLE)]
    assert client.error(nbd.CMD_WRITE_ZEROES, MIB, MIB, flags=nbd.FLAG_NO_HOLE) == 0
    assert client.read(0, 8 * MIB) == bytes(8 * MIB)
    client.send(nbd.CMD_DISC)
    assert client.ended()


def test_lengths_of_64_bits() -> None:
    """One request zeroes, trims or describes 64 TiB, and lengths around every power of two are told apart."""
    size = 64 * TIB
    with served(size) as volume, RawClient(volume.connect()).negotiate() as client:
        assert client.size == size
        positions = [(1 << shift) + step for shift in range(20, 46, 5) for step in (-SECTOR, 0)]
        for position in positions:
            assert client.write(position, b"x" * SECTOR) == 0
        extents = client.extents(0, size)
        assert sum(extent.length for extent in extents) == size
        assert [extent.state for extent in extents] == [HOLE, DATA] * (len(positions) // 2) + [HOLE]
        assert client.extents(0, size, flags=nbd.FLAG_REQ_ONE) == [Extent(MIB - SECTOR, HOLE)]
        assert client.error(nbd.CMD_TRIM, 0, 1 << 40) == 0
        assert client.extents(0, 1 << 40) == [Extent(1 << 40, HOLE)]
        assert client.read(1 << 40, SECTOR) == b"x" * SECTOR
        assert client.error(nbd.CMD_WRITE_ZEROES, 0, size) == 0
        assert client.extents(0, size) == [Extent(size, HOLE)]
        assert client.error(nbd.CMD_WRITE_ZEROES, 1, size) == errno.ENOSPC
        assert client.error(nbd.CMD_TRIM, size - 1, 2**64 - 1) == errno.EINVAL
        assert os.fstat(volume.backing_fd).st_blocks == 0


def test_compact_clients_see_32_bits_of_it() -> None:
    """A client with structured replies asks for up to 4 GiB - 1 of 64 TiB, and gets exactly that."""
    size, most = 64 * TIB, 2**32 - 1
    with (
        served(size) as volume,
        RawClient(volume.connect()).negotiate(nbd.OPT_STRUCTURED_REPLY) as client,
    ):
        assert client.extents(size - most, most) == [Extent(most, HOLE)]
        assert client.write(size - SECTOR, b"x" * SECTOR) == 0
        assert client.extents(size - most, most) == [Extent(most - SECTOR, HOLE), Extent(SECTOR, DATA)]
        assert client.error(nbd.CMD_WRITE_ZEROES, size - most, most) == 0
        assert client.read(size - SECTOR, SECTOR) == bytes(SECTOR)
        for length in (32 * MIB + 1, most):
            assert client.read_chunks(0, length)[0].error == errno.EOVERFLOW


def test_status_of_chosen_contexts(client: RawClient) -> None:
    """BLOCK_STATUS takes its length and its contexts from a payload; what is wrong is told after reading it."""
    assert client.flags & nbd.FLAG_BLOCK_STATUS_PAYLOAD
    assert client.write(MIB, b"x" * SECTOR) == 0
    asked = struct.pack(">QI", 2 * MIB, 1)
    assert client.extents(0, 0, payload=asked) == client.extents(0, 2 * MIB)
    wrong = {
        "unknown": struct.pack(">QI", 2 * MIB, 2),
        "repeated": struct.pack(">QII", 2 * MIB, 1, 1),
        "none": struct.pack(">Q", 2 * MIB),
        "short": b"\0" * 7,
        "odd": asked + b"\0",
        "beyond": struct.pack(">QI", SIZE + 1, 1),
        "empty": struct.pack(">QI", 0, 1),
        "long": bytes(5 * MIB),
    }
    for name, payload in wrong.items():
        flags = nbd.FLAG_PAYLOAD_LEN
        error = client.error(nbd.CMD_BLOCK_STATUS, 0, len(payload), flags=flags, payload=payload)
        assert error == errno.EINVAL, name
    assert client.extents(0, 0, payload=asked)[0] == Extent(MIB, HOLE)


def test_payload_where_none_belongs(client: RawClient) -> None:
    """Other commands with a payload are EINVAL once it has been read; what looks like a request in it is not one."""
    disguised = client.header(nbd.CMD_DISC, 0, 0) * 1000
    for command in (nbd.CMD_READ, nbd.CMD_FLUSH, nbd.CMD_TRIM, nbd.CMD_CACHE, nbd.CMD_WRITE_ZEROES, 8, 1000):
        error = client.error(command, 0, len(disguised), flags=nbd.FLAG_PAYLOAD_LEN, payload=disguised)
        assert error == errno.EINVAL
    assert client.error(nbd.CMD_FLUSH) == 0


def test_write_without_the_payload_flag(client: RawClient) -> None:
    """A write whose length is not marked as payload has none: EINVAL, and the next bytes are the next request."""
    assert client.error(nbd.CMD_WRITE, 0, SECTOR) == errno.EINVAL
    assert client.read(0, SECTOR) == bytes(SECTOR)


@pytest.mark.parametrize("length", [32 * MIB + 1, 2**32, 2**64 - 1])
def test_payload_beyond_the_maximum_ends_the_connection(volume: ServedVolume, length: int) -> None:
    """A client that announces more payload than it was told is allowed is cut off, and others are not."""
    with RawClient(volume.connect()).negotiate() as client, RawClient(volume.connect()).negotiate() as other:
        client.send(nbd.CMD_WRITE, 0, length, flags=nbd.FLAG_PAYLOAD_LEN)
        assert client.ended()
        assert other.error(nbd.CMD_FLUSH) == 0


def test_compact_header_ends_the_connection(client: RawClient) -> None:
    """After extended headers were agreed on, a compact request cannot be understood."""
    client.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, nbd.CMD_READ, 1, 0, 512) + bytes(4))
    assert client.ended()


def test_errors_are_chunks_with_words(client: RawClient) -> None:
    """Every refusal is one last chunk with an error and a sentence."""
    for command, offset, length, number, words in (
        (nbd.CMD_READ, SIZE, 1, errno.EINVAL, "the range ends beyond the volume"),
        (nbd.CMD_READ, 0, 32 * MIB + 1, errno.EOVERFLOW, "longer than the maximum payload of 32 MiB"),
        (nbd.CMD_WRITE_ZEROES, SIZE - 1, 2, errno.ENOSPC, "the range ends beyond the volume"),
        (nbd.CMD_FLUSH, 1, 0, errno.EINVAL, "offset and length of a flush must be zero"),
        (nbd.CMD_TRIM, 0, 0, errno.EINVAL, "a length of zero"),
        (77, 0, 0, errno.EINVAL, "unknown command"),
    ):
        (chunk,) = client.reply(client.send(command, offset, length), offset)
        assert (chunk.kind, chunk.done, chunk.error, chunk.text) == (nbd.CHUNK_ERROR, True, number, words)


def test_many_extents_are_asked_for_in_turns(client: RawClient) -> None:
    """A reply is bounded; a client that asks on from its end learns of every extent."""
    step = 8 * KIB
    for offset in range(0, SIZE, step):
        assert client.write(offset, b"x") == 0
    found: list[Extent] = []
    while (position := sum(extent.length for extent in found)) < SIZE:
        extents = client.extents(position, SIZE - position)
        assert 1 <= len(extents) <= 4096
        found += extents
    assert found == [Extent(SECTOR, DATA), Extent(SECTOR, HOLE)] * (SIZE // step)

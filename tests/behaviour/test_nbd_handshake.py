"""Option haggling as no library does it: wrong order, wrong lengths, lies, silence."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator

import pytest

from tests import nbd_client as nbd
from tests.nbd_client import EndedError, RawClient, string
from tests.nbd_volume import EXPORT, MIB, ServedVolume, served

SIZE = 16 * MIB
QUERY = string("") + struct.pack(">I", 1) + string("base:allocation")


@pytest.fixture(scope="module")
def volume() -> Iterator[ServedVolume]:
    """A volume of 16 MiB, the same for all tests: none of them may harm it."""
    with served(SIZE, max_connections=4) as volume:
        yield volume
        # Whoever was cut off in the middle has lost its place, and a good client is served.
        with RawClient(volume.connect()).negotiate() as client:
            assert client.error(nbd.CMD_FLUSH) == 0


@pytest.fixture
def client(volume: ServedVolume) -> Iterator[RawClient]:
    """A connection in its option haggling."""
    with RawClient(volume.connect()).greet() as client:
        yield client


@pytest.mark.parametrize("flags", [4, 1 << 16, 2**32 - 1])
def test_unknown_client_flags(volume: ServedVolume, flags: int) -> None:
    """Client flags that were not offered end the connection."""
    with RawClient(volume.connect()).greet(flags) as client:
        assert client.ended()


@pytest.mark.parametrize(("flags", "zeros"), [(0, 124), (nbd.FIXED_NEWSTYLE, 124), (nbd.NO_ZEROES, 0)])
def test_export_name(volume: ServedVolume, flags: int, zeros: int) -> None:
    """The oldest way in still works, with the zeros that it once had, and serves with simple replies."""
    with RawClient(volume.connect()).greet(flags) as client:
        client.send_option(nbd.OPT_EXPORT_NAME, EXPORT.encode())
        size, transmission_flags = struct.unpack(">QH", client.receive(10))
        assert (size, transmission_flags) == (SIZE, volume.server.transmission_flags)
        assert client.receive(zeros) == bytes(zeros)
        assert client.read(0, 512) == bytes(512)


def test_only_export_name_without_fixed_newstyle(volume: ServedVolume) -> None:
    """A client that does not claim fixed newstyle cannot be answered, so any other option ends the connection."""
    with RawClient(volume.connect()).greet(0) as client:
        client.send_option(nbd.OPT_LIST)
        assert client.ended()


def test_unknown_export(client: RawClient) -> None:
    """GO with another name is refused and may be repeated; EXPORT_NAME with another name ends the connection."""
    for code in (nbd.OPT_INFO, nbd.OPT_GO):
        assert client.result(code, string("vol-other") + bytes(2)) == nbd.REP_ERR_UNKNOWN
    client.go("", code=nbd.OPT_INFO)
    client.send_option(nbd.OPT_EXPORT_NAME, b"vol-other")
    assert client.ended()


def test_starttls_and_unknown_options(client: RawClient) -> None:
    """What this server does not have is unsupported, with whatever data, and the haggling goes on."""
    assert client.result(nbd.OPT_STARTTLS) == nbd.REP_ERR_UNSUP
    for code in (0, 4, 12, 2**31, 2**32 - 1):
        assert client.result(code, os.urandom(500)) == nbd.REP_ERR_UNSUP
    client.go()
    assert client.error(nbd.CMD_FLUSH) == 0


def test_what_goes_ahead_in_the_clear_stays_there(client: RawClient) -> None:
    """Options sent behind STARTTLS, before its answer, are answered in their turn: nothing is taken for later."""
    client.send_option(nbd.OPT_STARTTLS)
    client.send_option(nbd.OPT_LIST)
    assert client.option_replies(nbd.OPT_STARTTLS)[-1].kind == nbd.REP_ERR_UNSUP
    assert [reply.kind for reply in client.option_replies(nbd.OPT_LIST)] == [nbd.REP_SERVER, nbd.REP_ACK]


def test_requests_sent_early(client: RawClient) -> None:
    """A request behind GO, in the same packet, is the first of the transmission phase, and an option there is none."""
    go = b"IHAVEOPT" + struct.pack(">II", nbd.OPT_GO, 6) + bytes(6)
    client.sock.sendall(go + client.header(nbd.CMD_READ, 0, 512, cookie=7) + 2 * go)
    assert client.option_replies(nbd.OPT_GO)[-1].kind == nbd.REP_ACK
    assert client.chunk(7, 0, data=512).payload == bytes(512)
    assert client.ended()


def test_contexts_need_chunked_replies(client: RawClient) -> None:
    """Contexts come after structured replies, and count for the name that they were set for, until set again."""
    assert client.result(nbd.OPT_SET_META_CONTEXT, QUERY) == nbd.REP_ERR_INVALID
    assert client.result(nbd.OPT_STRUCTURED_REPLY) == nbd.REP_ACK
    client.structured = True
    assert client.result(nbd.OPT_LIST_META_CONTEXT, QUERY) == nbd.REP_ACK
    assert client.result(nbd.OPT_SET_META_CONTEXT, QUERY) == nbd.REP_ACK
    client.go(EXPORT)
    assert client.error(nbd.CMD_BLOCK_STATUS, 0, 512), "the context was set for the empty name"


def test_header_forms_only_go_up(client: RawClient) -> None:
    """Structured, then extended, each once; back to structured is refused, and EXPORT_NAME then ends it all."""
    assert client.result(nbd.OPT_STRUCTURED_REPLY) == nbd.REP_ACK
    assert client.result(nbd.OPT_STRUCTURED_REPLY) == nbd.REP_ERR_INVALID
    assert client.result(nbd.OPT_EXTENDED_HEADERS, b"x") == nbd.REP_ERR_INVALID
    assert client.result(nbd.OPT_EXTENDED_HEADERS) == nbd.REP_ACK
    assert client.result(nbd.OPT_STRUCTURED_REPLY) == nbd.REP_ERR_EXT_HEADER_REQD
    client.send_option(nbd.OPT_EXPORT_NAME)
    assert client.ended()


def test_lies_about_lengths(client: RawClient) -> None:
    """Lengths inside an option that do not fit its data are invalid, and read nothing beyond them."""
    lies = [b"", bytes(5), struct.pack(">I", 2**32 - 1) + bytes(2), string("") + struct.pack(">H", 9), bytes(6) + b"x"]
    for data in lies:
        assert client.result(nbd.OPT_GO, data) == nbd.REP_ERR_INVALID
    assert client.result(nbd.OPT_STRUCTURED_REPLY) == nbd.REP_ACK
    for data in (
        string("") + struct.pack(">I", 2**32 - 1),
        QUERY[:-1],
        QUERY + b"x",
        string("") + b"\0\0\0\1\xff\xff\xff\xff",
    ):
        assert client.result(nbd.OPT_SET_META_CONTEXT, data) == nbd.REP_ERR_INVALID
    client.go()


def test_too_much_data(client: RawClient) -> None:
    """Data beyond reason are skipped and refused; beyond a megabyte the connection ends at once."""
    assert client.result(nbd.OPT_GO, bytes(MIB)) == nbd.REP_ERR_TOO_BIG
    assert client.result(nbd.OPT_GO, string("n" * 5000) + bytes(2)) == nbd.REP_ERR_TOO_BIG
    client.send_option(nbd.OPT_GO, length=MIB + 1)
    assert client.ended()


def test_endless_haggling(client: RawClient) -> None:
    """A client that never comes to the point is cut off after a number of options that no honest one needs."""

    def haggle() -> None:
        for _ in range(1000):
            client.result(nbd.OPT_LIST)

    with pytest.raises(EndedError):
        haggle()


def test_abort(client: RawClient) -> None:
    """ABORT is acknowledged, its data ignored, and the connection ended."""
    assert client.option(nbd.OPT_ABORT, b"whatever") == [(nbd.REP_ACK, b"")]
    assert client.ended()


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", hashlib.shake_256(b"noise").digest(4096)],
    ids=["HTTP", "TLS", "noise"],
)
def test_other_protocols(volume: ServedVolume, first: bytes) -> None:
    """Whoever speaks something else is cut off."""
    with volume.connect() as stranger:
        stranger.sendall(first)
        client = RawClient(stranger)
        assert client.receive(18) == nbd.GREETING
        stranger.shutdown(1)
        assert client.ended()

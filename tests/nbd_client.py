"""An NBD client for tests, written from the protocol document alone: it sends what it is told, right or wrong.

It knows what Debian 12's libnbd does not: extended headers with 64-bit lengths and payloads of BLOCK_STATUS. It checks
what every client relies on (magics, cookies, offsets, the order of chunks) and leaves the rest to the test.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    import socket

GREETING: Final = b"NBDMAGICIHAVEOPT\x00\x03"
FIXED_NEWSTYLE: Final = 1
NO_ZEROES: Final = 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, _PEEK, OPT_STARTTLS, OPT_INFO, OPT_GO = range(1, 8)
OPT_STRUCTURED_REPLY, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS = range(8, 12)

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = range(1, 5)
REP_ERR_UNSUP: Final = 2**31 + 1
REP_ERR_INVALID: Final = 2**31 + 3
REP_ERR_UNKNOWN: Final = 2**31 + 6
REP_ERR_TOO_BIG: Final = 2**31 + 9
REP_ERR_EXT_HEADER_REQD: Final = 2**31 + 10

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = range(8)

FLAG_FUA, FLAG_NO_HOLE, FLAG_DF, FLAG_REQ_ONE, FLAG_FAST_ZERO, FLAG_PAYLOAD_LEN = (1 << bit for bit in range(6))

CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE = range(3)
CHUNK_BLOCK_STATUS, CHUNK_BLOCK_STATUS_EXT = 5, 6
CHUNK_ERROR: Final = 2**15 + 1

FLAG_BLOCK_STATUS_PAYLOAD: Final = 1 << 12


class OptionReply(NamedTuple):
    """One reply to an option."""

    kind: int
    data: bytes


class Chunk(NamedTuple):
    """One reply chunk; a simple reply is one that has no kind."""

    kind: int | None
    done: bool
    payload: bytes
    error: int = 0
    text: str = ""


class Extent(NamedTuple):
    """A run of the export in one state: 0 data, 3 a hole that reads as zeros."""

    length: int
    state: int


class EndedError(Exception):
    """The server closed the connection."""


def string(text: bytes | str) -> bytes:
    """A string as options carry it."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(data)) + data


@dataclass
class RawClient:
    """One connection."""

    sock: socket.socket
    structured: bool = False
    extended: bool = False
    size: int = 0
    flags: int = 0
    cookies: itertools.count[int] = field(default_factory=lambda: itertools.count(0x1000))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def receive(self, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        data = bytearray()
        while len(data) < length:
            try:
                got = self.sock.recv(min(length - len(data), 1 << 20))
            except ConnectionResetError as error:
                raise EndedError from error
            if not got:
                raise EndedError
            data += got
        return bytes(data)

    def ended(self) -> bool:
        """Whether the server has closed the connection, with nothing left to read. Waits for one or the other."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    # The handshake.

    def greet(self, client_flags: int = FIXED_NEWSTYLE | NO_ZEROES) -> Self:
        """Take the greeting, answer with the client's flags."""
        assert self.receive(18) == GREETING
        self.sock.sendall(struct.pack(">I", client_flags))
        return self

    def send_option(self, code: int, data: bytes = b"", *, length: int | None = None) -> None:
        """Send an option; ``length`` lies about its data."""
        self.sock.sendall(b"IHAVEOPT" + struct.pack(">II", code, len(data) if length is None else length) + data)

    def option_replies(self, code: int) -> list[OptionReply]:
        """The replies to an option, up to and with the last."""
        replies: list[OptionReply] = []
        while not replies or replies[-1].kind in {REP_SERVER, REP_INFO, REP_META_CONTEXT}:
            magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
            assert (magic, option) == (0x3E889045565A9, code)
            replies.append(OptionReply(kind, self.receive(length)))
        return replies

    def option(self, code: int, data: bytes = b"") -> list[OptionReply]:
        """Send an option and take its replies."""
        self.send_option(code, data)
        return self.option_replies(code)

    def result(self, code: int, data: bytes = b"") -> int:
        """Send an option; the kind of its last reply."""
        return self.option(code, data)[-1].kind

    def go(self, name: str = "", wishes: tuple[int, ...] = (), *, code: int = OPT_GO) -> dict[int, bytes]:
        """Enter the transmission phase (or, by INFO, only ask); the information by type."""
        replies = self.option(code, string(name) + struct.pack(f">H{len(wishes)}H", len(wishes), *wishes))
        assert replies[-1] == (REP_ACK, b""), replies
        information = {struct.unpack_from(">H", reply.data)[0]: reply.data[2:] for reply in replies[:-1]}
        self.size, self.flags = struct.unpack(">QH", information[0])
        return information

    def negotiate(self, form: int | None = OPT_EXTENDED_HEADERS, *, name: str = "", context: bool = True) -> Self:
        """The whole handshake, as a well-behaved client does it."""
        self.greet()
        if form is not None:
            assert self.result(form) == REP_ACK
            self.extended, self.structured = form == OPT_EXTENDED_HEADERS, form == OPT_STRUCTURED_REPLY
            if context:
                query = string(name) + struct.pack(">I", 1) + string("base:allocation")
                assert [reply.kind for reply in self.option(OPT_SET_META_CONTEXT, query)] == [REP_META_CONTEXT, REP_ACK]
        self.go(name)
        return self

    # Transmission.

    def header(self, command: int, offset: int, length: int, *, flags: int = 0, cookie: int = 0) -> bytes:
        """A request's header in the negotiated form."""
        magic, last = (0x21E41C71, "Q") if self.extended else (0x25609513, "I")
        return struct.pack(f">IHHQQ{last}", magic, flags, command, cookie, offset, length)

    def send(self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, payload: bytes = b"") -> int:
        """Send a request; its cookie."""
        cookie = next(self.cookies)
        self.sock.sendall(self.header(command, offset, length, flags=flags, cookie=cookie) + payload)
        return cookie

    def chunk(self, cookie: int, offset: int, *, data: int = 0) -> Chunk:
        """The next reply, which must be to this request; ``data`` bytes follow a simple one without an error."""
        magic = struct.unpack(">I", self.receive(4))[0]
        if magic == 0x67446698:
            assert not self.extended, "no simple replies with extended headers"
            error, answered = struct.unpack(">IQ", self.receive(12))
            assert answered == cookie
            return Chunk(None, True, b"" if error else self.receive(data), error)
        assert magic == (0x6E8A278C if self.extended else 0x668E33EF)
        flags, kind, answered = struct.unpack(">HHQ", self.receive(12))
        assert (answered, flags & ~1) == (cookie, 0)
        if self.extended:
            echoed, length = struct.unpack(">QQ", self.receive(16))
            assert echoed == offset
        else:
            length = struct.unpack(">I", self.receive(4))[0]
        payload = self.receive(length)
        if kind & 0x8000:
            error, text_length = struct.unpack_from(">IH", payload)
            assert error
            return Chunk(kind, bool(flags), payload, error, payload[6 : 6 + text_length].decode())
        return Chunk(kind, bool(flags), payload)

    def reply(self, cookie: int, offset: int = 0, *, data: int = 0) -> list[Chunk]:
        """All chunks of a reply."""
        chunks = [self.chunk(cookie, offset, data=data)]
        while not chunks[-1].done:
            chunks.append(self.chunk(cookie, offset))
        return chunks

    def error(self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, payload: bytes = b"") -> int:
        """Send a request without data in its reply; the error, 0 for success."""
        return self.reply(self.send(command, offset, length, flags=flags, payload=payload), offset)[-1].error

    def write(self, offset: int, data: bytes, *, flags: int = 0) -> int:
        """Write; the error, 0 for success."""
        flags |= FLAG_PAYLOAD_LEN if self.extended else 0
        return self.error(CMD_WRITE, offset, len(data), flags=flags, payload=data)

    def read_chunks(self, offset: int, length: int, *, flags: int = 0) -> list[Chunk]:
        """Read; the chunks as they came."""
        cookie = self.send(CMD_READ, offset, length, flags=flags)
        return self.reply(cookie, offset, data=length)

    def read(self, offset: int, length: int, *, flags: int = 0) -> bytes:
        """Read; the data, put together. Every byte must be told exactly once."""
        data, told = bytearray(length), 0
        for chunk in self.read_chunks(offset, length, flags=flags):
            assert not chunk.error, chunk
            if chunk.kind is None:
                return chunk.payload
            if chunk.kind == CHUNK_OFFSET_DATA:
                start = struct.unpack_from(">Q", chunk.payload)[0] - offset
                data[start : start + len(chunk.payload) - 8] = chunk.payload[8:]
                told += len(chunk.payload) - 8
            elif chunk.kind == CHUNK_OFFSET_HOLE:
                told += struct.unpack(">QI", chunk.payload)[1]
        assert (told, len(data)) == (length, length)
        return bytes(data)

    def extents(self, offset: int, length: int, *, flags: int = 0, payload: bytes = b"") -> list[Extent]:
        """Ask for the extents of a range; with a payload, its length is in there."""
        sent = len(payload) if payload else length
        flags |= FLAG_PAYLOAD_LEN if payload else 0
        (chunk,) = self.reply(self.send(CMD_BLOCK_STATUS, offset, sent, flags=flags, payload=payload), offset)
        assert not chunk.error, chunk
        if chunk.kind == CHUNK_BLOCK_STATUS_EXT:
            context, count = struct.unpack_from(">II", chunk.payload)
            found = [Extent(*pair) for pair in struct.iter_unpack(">QQ", chunk.payload[8:])]
            assert (context, count) == (1, len(found))
            return found
        assert chunk.kind == CHUNK_BLOCK_STATUS
        assert struct.unpack_from(">I", chunk.payload) == (1,)
        return [Extent(*pair) for pair in struct.iter_unpack(">II", chunk.payload[4:])]

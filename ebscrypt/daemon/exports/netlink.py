"""Generic netlink for one family, ``nbd``: how nbd.ko is told to connect, reconnect, resize and disconnect a device.

Messages are built and taken apart by pure functions (bytes in, values out); `NbdControl` adds the socket. The layouts
are the kernel's: include/uapi/linux/netlink.h, genetlink.h, nbd-netlink.h. All integers are in the machine's own order.

    nlmsghdr   length u32 | type u16 | flags u16 | sequence u32 | port u32
    genlmsghdr command u8 | version u8 | reserved u16
    nlattr     length u16 | type u16 | value | padding to 4, repeated
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from types import TracebackType
from typing import Final, NamedTuple, Self

_MESSAGE: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct("=BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")

_NETLINK_GENERIC: Final = 16
_GENL_ID_CTRL: Final = 0x10
_CTRL_CMD_GETFAMILY: Final = 3
_CTRL_ATTR_FAMILY_ID: Final = 1
_CTRL_ATTR_FAMILY_NAME: Final = 2
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF
_VERSION: Final = 1
_ANSWER_SIZE: Final = 65_536
"""Bytes one read may bring; the kernel's own answers stay under 8 KiB (NLMSG_GOODSIZE)."""


class Command(IntEnum):
    """NBD_CMD_* of nbd-netlink.h."""

    CONNECT = 1
    DISCONNECT = 2
    RECONFIGURE = 3
    LINK_DEAD = 4
    STATUS = 5


class Attribute(IntEnum):
    """NBD_ATTR_* of nbd-netlink.h."""

    INDEX = 1
    SIZE_BYTES = 2
    BLOCK_SIZE_BYTES = 3
    TIMEOUT = 4
    SERVER_FLAGS = 5
    CLIENT_FLAGS = 6
    SOCKETS = 7
    DEAD_CONN_TIMEOUT = 8
    DEVICE_LIST = 9
    BACKEND_IDENTIFIER = 10


SOCK_ITEM: Final = 1
SOCK_FD: Final = 1


class Message(NamedTuple):
    """One netlink message: its type, and what follows the netlink header."""

    kind: int
    body: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded so that the next one is aligned; the length counts the header, not the padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def u64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=Q", value))


def text(kind: int, value: str) -> bytes:
    """A string with its final zero, as libnl sends it."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, attributes: bytes) -> bytes:
    return attribute(kind | _NLA_F_NESTED, attributes)


def sockets(descriptors: Iterable[int]) -> bytes:
    """The list of connected sockets that CONNECT and RECONFIGURE take."""
    return nested(Attribute.SOCKETS, b"".join(nested(SOCK_ITEM, u32(SOCK_FD, fd)) for fd in descriptors))


def request(family: int, command: int, attributes: bytes, sequence: int) -> bytes:
    """One request that asks for an acknowledgement."""
    body = _GENERIC.pack(command, _VERSION, 0) + attributes
    return _MESSAGE.pack(_MESSAGE.size + len(body), family, _NLM_F_REQUEST | _NLM_F_ACK, sequence, 0) + body


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data`` as (type without flags, value). Raises ValueError on a length that cannot be."""
    while data:
        if len(data) < _ATTRIBUTE.size:
            raise ValueError(f"{len(data)} bytes after the last netlink attribute")
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            raise ValueError(f"a netlink attribute of {length} bytes where {len(data)} are left")
        yield kind & _NLA_TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]


def messages(data: bytes) -> Iterator[Message]:
    """The messages in one datagram. Raises ValueError on a length that cannot be."""
    while data:
        if len(data) < _MESSAGE.size:
            raise ValueError(f"{len(data)} bytes after the last netlink message")
        length, kind, _flags, _sequence, _port = _MESSAGE.unpack_from(data)
        if not _MESSAGE.size <= length <= len(data):
            raise ValueError(f"a netlink message of {length} bytes where {len(data)} are left")
        yield Message(kind, data[_MESSAGE.size : length])
        data = data[length + -length % 4 :]


def outcome(message: Message) -> int | None:
    """The errno in an NLMSG_ERROR message (0: acknowledged), None for any other message."""
    if message.kind != _NLMSG_ERROR:
        return None
    if len(message.body) < struct.calcsize("=i"):
        raise ValueError("a netlink error message without its error")
    return -int(struct.unpack_from("=i", message.body)[0])


class NbdControl:
    """A netlink socket for the kernel's ``nbd`` family.

    Construction raises FileNotFoundError where the kernel has no such family (nbd.ko is not loaded), and OSError.
    A method raises OSError with the errno that nbd.ko gave.
    """

    def __init__(self, family: str = "nbd") -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            self._family = self._resolve(family)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def connect(self, settings: bytes) -> int:
        """Connect a free device; ``settings`` are the encoded attributes. Gives its index."""
        for body in self._ask(self._family, Command.CONNECT, settings):
            for kind, value in attributes(body[_GENERIC.size :]):
                if kind == Attribute.INDEX:
                    return int(struct.unpack("=I", value)[0])
        raise OSError(errno.EPROTO, "nbd.ko connected a device and did not say which")

    def reconfigure(self, settings: bytes, *, index: int) -> None:
        """Give a connected device new sockets, a new size, new timeouts: what ``settings`` has."""
        self._ask(self._family, Command.RECONFIGURE, u32(Attribute.INDEX, index) + settings)

    def disconnect(self, index: int) -> None:
        """Disconnect /dev/nbd``index``: requests under way fail, the device ends."""
        self._ask(self._family, Command.DISCONNECT, u32(Attribute.INDEX, index))

    def _resolve(self, name: str) -> int:
        for body in self._ask(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, text(_CTRL_ATTR_FAMILY_NAME, name)):
            for kind, value in attributes(body[_GENERIC.size :]):
                if kind == _CTRL_ATTR_FAMILY_ID:
                    return int(struct.unpack("=H", value)[0])
        raise OSError(errno.EPROTO, f"the kernel knows the netlink family {name} and did not say its number")

    def _ask(self, family: int, command: int, settings: bytes) -> list[bytes]:
        """Send one request; the bodies of what came before the acknowledgement."""
        self._sequence += 1
        self._socket.send(request(family, command, settings, self._sequence))
        bodies: list[bytes] = []
        while True:
            for message in messages(self._socket.recv(_ANSWER_SIZE)):
                failure = outcome(message)
                if failure is None:
                    bodies.append(message.body)
                elif failure:
                    raise OSError(failure, os.strerror(failure))
                else:
                    return bodies

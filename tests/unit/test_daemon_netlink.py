"""The netlink messages to nbd.ko: the bytes that go out, and what is made of those that come back."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from ebscrypt.config import AttachSettings
from ebscrypt.daemon.exports import nbd_device, netlink
from ebscrypt.daemon.exports.netlink import Attribute, Command, NbdControl

FAMILY = 0x1D
VOLUME_ID = "vol-0123456789abcdef0"

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes below are little-endian")


class Kernel:
    """The kernel's end of a netlink socket, as far as one conversation needs it: answers first, requests afterwards."""

    def __init__(self) -> None:
        self.end, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = NbdControl.__new__(NbdControl)
        self.control._socket, self.control._family, self.control._sequence = ours, FAMILY, 0

    def will_answer(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.end.send(datagram)

    def asked(self) -> bytes:
        return self.end.recv(65_536)

    def close(self) -> None:
        self.end.close()
        self.control._socket.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A scripted kernel and the client that talks to it."""
    scripted = Kernel()
    yield scripted
    scripted.close()


def acknowledgement(failure: int = 0) -> bytes:
    """NLMSG_ERROR, whose error is zero or a negative errno, with the header of the request it answers."""
    return struct.pack("=IHHII", 36, 2, 0, 1, 77) + struct.pack("=i", -failure) + bytes(16)


def answer(attributes: bytes, command: int = Command.CONNECT) -> bytes:
    body = struct.pack("=BBH", command, 1, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), FAMILY, 0, 1, 77) + body


def test_u32_attribute() -> None:
    """A 32-bit attribute is a length of 8, its type and four bytes in the machine's order."""
    assert netlink.u32(Attribute.INDEX, 7) == bytes.fromhex("0800 0100 07000000")


def test_u64_attribute() -> None:
    """A 64-bit attribute has a length of 12."""
    assert netlink.u64(Attribute.SIZE_BYTES, 10 << 30) == bytes.fromhex("0c00 0200 0000008002000000")


def test_text_attribute_is_padded() -> None:
    """A string carries its final zero; the padding to four bytes is not counted in the length."""
    expected = bytes.fromhex("1a00 0a00") + VOLUME_ID.encode() + bytes(1) + bytes(2)
    assert netlink.text(Attribute.BACKEND_IDENTIFIER, VOLUME_ID) == expected


def test_sockets_are_nested_twice() -> None:
    """NBD_ATTR_SOCKETS holds one NBD_SOCK_ITEM a socket, which holds one NBD_SOCK_FD; both carry NLA_F_NESTED."""
    assert netlink.sockets([5, 9]) == bytes.fromhex(
        "1c00 0780"  # NBD_ATTR_SOCKETS
        "0c00 0180  0800 0100 05000000"
        "0c00 0180  0800 0100 09000000"
    )


def test_request_header() -> None:
    """A request is a netlink header that asks for an acknowledgement, a generic header, and the attributes."""
    assert netlink.request(FAMILY, Command.DISCONNECT, netlink.u32(Attribute.INDEX, 3), 4) == bytes.fromhex(
        "1c000000 1d00 0500 04000000 00000000"  # length 28, family, NLM_F_REQUEST | NLM_F_ACK, sequence, port
        "02 01 0000"  # NBD_CMD_DISCONNECT, version 1
        "0800 0100 03000000"
    )


def test_connect_message(kernel: Kernel) -> None:
    """CONNECT carries size, block size, flags, both timeouts, the volume's id and the sockets, and no index."""
    kernel.will_answer(answer(netlink.u32(Attribute.INDEX, 12)), acknowledgement())
    index = nbd_device.connect(
        kernel.control,
        VOLUME_ID,
        [5],
        size=10 << 30,
        block_size=4096,
        server_flags=0x56D,
        attach=AttachSettings(io_timeout=60, dead_connection_timeout=300),
    )
    assert index == 12
    assert kernel.asked() == bytes.fromhex(
        "7c000000 1d00 0500 01000000 00000000"
        "01 01 0000"
        "0c00 0200 0000008002000000"  # NBD_ATTR_SIZE_BYTES
        "0c00 0300 0010000000000000"  # NBD_ATTR_BLOCK_SIZE_BYTES
        "0c00 0500 6d05000000000000"  # NBD_ATTR_SERVER_FLAGS
        "0c00 0400 3c00000000000000"  # NBD_ATTR_TIMEOUT, seconds
        "0c00 0800 2c01000000000000"  # NBD_ATTR_DEAD_CONN_TIMEOUT, seconds
        "1a00 0a00 766f6c2d3031323334353637383961626364656630 00 0000"  # NBD_ATTR_BACKEND_IDENTIFIER
        "1000 0780 0c00 0180 0800 0100 05000000"  # NBD_ATTR_SOCKETS
    )


def test_reconnect_message(kernel: Kernel) -> None:
    """RECONFIGURE names the device and the volume, sets the timeouts again and brings one socket."""
    kernel.will_answer(acknowledgement())
    attach = AttachSettings(io_timeout=60, dead_connection_timeout=300)
    nbd_device.reconnect(kernel.control, VOLUME_ID, [6], index=2, attach=attach)
    assert kernel.asked() == bytes.fromhex(
        "60000000 1d00 0500 01000000 00000000"
        "03 01 0000"
        "0800 0100 02000000"
        "0c00 0400 3c00000000000000"
        "0c00 0800 2c01000000000000"
        "1a00 0a00 766f6c2d3031323334353637383961626364656630 00 0000"
        "1000 0780 0c00 0180 0800 0100 06000000"
    )


def test_reconnect_waits_for_the_dead_socket(kernel: Kernel) -> None:
    """ENOSPC means that the kernel has not noticed yet that the old daemon is gone: the request is made again."""
    kernel.will_answer(acknowledgement(errno.ENOSPC), acknowledgement())
    nbd_device.reconnect(kernel.control, VOLUME_ID, [6], index=2, attach=AttachSettings())
    first, second = kernel.asked(), kernel.asked()
    assert first[16:] == second[16:]


def test_resize_message(kernel: Kernel) -> None:
    """A new size is a RECONFIGURE with the size and the volume's id, without which nbd.ko refuses."""
    kernel.will_answer(acknowledgement())
    nbd_device.resize(kernel.control, VOLUME_ID, index=2, size=1 << 40)
    assert kernel.asked() == bytes.fromhex(
        "44000000 1d00 0500 01000000 00000000"
        "03 01 0000"
        "0800 0100 02000000"
        "0c00 0200 0000000000010000"
        "1a00 0a00 766f6c2d3031323334353637383961626364656630 00 0000"
    )


def test_io_timeout_message(kernel: Kernel) -> None:
    """A new I/O timeout, here none, is a RECONFIGURE with nothing else but the device and the volume's id."""
    kernel.will_answer(acknowledgement())
    nbd_device.set_io_timeout(kernel.control, VOLUME_ID, index=2, seconds=0)
    assert kernel.asked() == bytes.fromhex(
        "44000000 1d00 0500 01000000 00000000"
        "03 01 0000"
        "0800 0100 02000000"
        "0c00 0400 0000000000000000"
        "1a00 0a00 766f6c2d3031323334353637383961626364656630 00 0000"
    )


def test_refusal_is_an_oserror(kernel: Kernel) -> None:
    """A negative error in NLMSG_ERROR is raised as the OSError of that errno."""
    kernel.will_answer(acknowledgement(errno.EPERM))
    with pytest.raises(PermissionError):
        kernel.control.disconnect(3)


def test_connect_without_index_is_refused(kernel: Kernel) -> None:
    """An acknowledged CONNECT that does not say which device it took is a protocol error, not device 0."""
    kernel.will_answer(acknowledgement())
    with pytest.raises(OSError, match="did not say which") as raised:
        kernel.control.connect(b"")
    assert raised.value.errno == errno.EPROTO


def test_answer_and_acknowledgement_in_one_datagram(kernel: Kernel) -> None:
    """The kernel may put several messages in one datagram."""
    kernel.will_answer(answer(netlink.u32(Attribute.INDEX, 1)) + acknowledgement())
    assert kernel.control.connect(b"") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x00",  # cut off inside the header
        bytes.fromhex("0800 0100 0000"),  # cut off inside the value
        bytes.fromhex("0300 0100"),  # shorter than its own header
        bytes.fromhex("0800 0100 07000000 ff"),  # a rest
    ],
)
def test_broken_attributes_are_refused(data: bytes) -> None:
    """A length that cannot be is a ValueError, never a wrong value or an endless loop."""
    with pytest.raises(ValueError, match="netlink attribute"):
        list(netlink.attributes(data))


@pytest.mark.parametrize("length", [0, 15, 17, 1 << 31])
def test_broken_messages_are_refused(length: int) -> None:
    """The same for whole messages."""
    with pytest.raises(ValueError, match="netlink message"):
        list(netlink.messages(struct.pack("=IHHII", length, FAMILY, 0, 1, 1)))


def test_error_message_without_error_is_refused() -> None:
    """An NLMSG_ERROR of no length says nothing: it is not taken for success."""
    with pytest.raises(ValueError, match="without its error"):
        netlink.outcome(netlink.Message(2, b""))


def test_nested_flag_is_taken_off() -> None:
    """Types come back without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
    assert list(netlink.attributes(netlink.nested(Attribute.DEVICE_LIST, b""))) == [(Attribute.DEVICE_LIST, b"")]


def test_real_kernel_resolves_a_family() -> None:
    """The kernel understands the messages: it resolves its own control family, whose number is fixed."""
    with NbdControl("nlctrl") as control:
        assert control._family == 0x10


def test_real_kernel_without_the_family() -> None:
    """A family that the kernel does not have is FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        NbdControl("no-such-family")

"""Which export a daemon takes when it may choose."""

from __future__ import annotations

from ebscrypt.daemon.exports import nbd_device
from ebscrypt.model import MIB, ExportKind
from tests.behaviour.daemon.bench import Bench


def test_root_gets_a_block_device(bench: Bench) -> None:
    """With root's privileges there is a block device: nbd if the kernel has it, else a loop device over FUSE."""
    daemon = bench.start(bench.volume(8 * MIB, export=ExportKind.AUTO))
    best = ExportKind.NBD if nbd_device.is_available() else ExportKind.FUSE
    assert daemon.attachment.export is best
    assert daemon.device.startswith("/dev/nbd" if best is ExportKind.NBD else "/dev/loop")
    daemon.detach()


def test_without_privileges_there_is_the_socket(bench: Bench) -> None:
    """Root of a user namespace may neither configure nbd nor mount here: it gets the socket, and hears why."""
    command = bench.command
    bench.command = ["unshare", "--user", "--map-root-user", *command]
    try:
        daemon = bench.start(bench.volume(8 * MIB, export=ExportKind.AUTO))
    finally:
        bench.command = command
    assert daemon.attachment.export is ExportKind.SOCKET
    assert daemon.device.startswith("nbd+unix:///vol-")
    assert any("the fuse export did not work" in note for note in daemon.attachment.notes)
    daemon.detach()

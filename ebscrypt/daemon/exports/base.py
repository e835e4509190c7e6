"""What every export is to the daemon: something to start, to ask and to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from ebscrypt.config import AttachSettings
from ebscrypt.daemon.runtime import RuntimeDirectory
from ebscrypt.daemon.volume import OpenVolume
from ebscrypt.model import AttachmentSpec, ExportKind


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Where an export can be found: the fields of the same names in `Attachment`."""

    device: str
    socket: str | None = None
    nbd_index: int | None = None
    loop_device: str | None = None
    mountpoint: str | None = None


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What an export is made from. ``notes`` is added to: what the user should know of this export on this machine."""

    volume: OpenVolume
    spec: AttachmentSpec
    attach: AttachSettings
    runtime: RuntimeDirectory
    notes: list[str]

    @property
    def volume_id(self) -> str:
        return self.spec.volume_id

    @property
    def file(self) -> Path:
        """The FUSE export's file, named by the volume so that a udev rule can tell whose loop device it is."""
        return self.runtime.mountpoint / self.volume_id


class Export(Protocol):
    """One way to reach an open volume, in two steps, since the daemon gives up its privileges somewhere between.

    Capabilities belong to threads, so where they are all that can be given up (see privileges.py) that must happen
    before the first thread is started: after `prepare`, before `serve`.
    """

    kind: ExportKind

    def prepare(self) -> None:
        """Everything that needs privileges, in this thread. Raises `ExportUnavailable`, and has undone it then."""

    async def serve(self) -> None:
        """Let threads serve, and return when the device answers.

        Raises `ExportUnavailable` or OSError; then what `access` has is to be taken down.
        """

    @property
    def access(self) -> Access:
        """Where the export is: complete once `serve` has returned, what is there so far before."""

    @property
    def clients(self) -> int:
        """Who would lose their device if the export stopped now: connections, or open handles of the file."""

    @property
    def ended(self) -> bool:
        """Whether the kernel or an administrator took the export away: nobody can reach the volume any more."""

    @property
    def lost(self) -> bool:
        """Whether the kernel still has the device, but no connection to this process, and waits for another."""

    async def resized(self) -> None:
        """The device has a new size: forget the old one. What only the kernel can tell is left to `teardown.grow`."""

    async def stop(self, patience: float) -> bool:
        """Take no more requests and let those under way finish, within ``patience`` seconds. Needs no privilege.

        False when somebody had to be cut off.
        """

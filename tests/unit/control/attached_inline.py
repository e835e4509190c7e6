"""A volume attached in the process of the test: the daemon's own service over the core, and the records that it makes.

Control speaks to it through its socket, as to any daemon; only device, privileges and process are missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import trio

from ebscrypt.control import runtime
from ebscrypt.control.site import Site
from ebscrypt.daemon.changes import change_path
from ebscrypt.daemon.control_socket import serve_control
from ebscrypt.daemon.exports.base import Export
from ebscrypt.daemon.listening import listen_privately
from ebscrypt.daemon.notify import Notifier
from ebscrypt.daemon.service import Service
from ebscrypt.daemon.volume import OpenVolume, open_volume
from ebscrypt.model import Attachment, AttachmentSpec, ExportKind, Volume, VolumeState, utc_now


class NoExport:
    """An export that nobody uses."""

    clients = 0
    ended = lost = False

    async def stop(self, _timeout: float) -> bool:
        return True

    async def resized(self) -> None:
        pass


class Attached:
    """An attachment; ``device`` is what its users write to, ``service`` the daemon's."""

    def __init__(self, site: Site, volume: Volume, **wish: Any) -> None:
        self.site, self.volume_id = site, volume.volume_id
        self.spec = AttachmentSpec(
            volume_id=volume.volume_id,
            backing=volume.backing,
            backing_kind=volume.backing_kind,
            encrypted=volume.encrypted,
            size=volume.size,
            kms_key_arn=volume.kms_key_arn,
            **wish,
        )
        runtime.write_spec(site.settings, self.spec)
        self.notes: list[str] = []
        self.volume: OpenVolume = open_volume(self.spec, site.settings, self.notes, tracked=True)
        self.device = self.volume.device
        site.catalog.change_state(self.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
        self.attachment = self._described()
        runtime.write_attachment(site.settings, self.attachment)
        place = runtime.directory(site.settings, self.volume_id)
        self._lock = place.acquire()
        self._path = place.control_socket
        self._finished = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._serve))
        self._thread.start()
        assert self._ready.wait(10)

    def _described(self) -> Attachment:
        began = Path("/proc/self/stat").read_text().rpartition(")")[2].split(maxsplit=20)[19]
        return Attachment(
            volume_id=self.volume_id,
            pid=os.getpid(),
            pid_start=int(began),
            export=ExportKind.SOCKET,
            device="nbd+unix:///",
            backing=self.spec.backing,
            size=self.spec.size,
            read_only=self.spec.read_only,
            key_memory=self.volume.key_memory,
            attach_time=utc_now(),
        )

    async def _serve(self) -> None:
        self.service = Service(self.volume, cast("Export", NoExport()), self.attachment, Notifier())
        with listen_privately(self._path) as listener:
            self._ready.set()
            await serve_control(
                listener,
                self.service.operations,
                owner=os.geteuid(),
                finished=lambda: self._finished,
                taking=self.service.taking,
            )

    def note(self) -> None:
        """What the daemon does every second: write down the backing's mark."""
        assert self.volume.changes is not None
        self.volume.changes.note()

    def detach(self) -> None:
        """End it in order."""
        self._hang_up()
        self.service.snapshotting.end()
        self.volume.close()
        self._forget()

    def die(self) -> None:
        """End it as a kill does: what is in the files is what was there before, and nobody says goodbye."""
        self._hang_up()
        kept = [change_path(self.site.settings, self.volume_id)]
        kept.append(kept[0].with_name(f"{kept[0].name}.seen"))
        aside = [path.with_name(f"{path.name}.aside") for path in kept]
        for path, copy in zip(kept, aside, strict=True):
            shutil.copyfile(path, copy)
        self.service.snapshotting.end()
        self.volume.close()
        for path, copy in zip(kept, aside, strict=True):
            copy.replace(path)
        self._forget()

    def _hang_up(self) -> None:
        self._finished = True
        with socket.socket(socket.AF_UNIX) as last:  # a peer that comes and goes lets the server look at it
            last.settimeout(5)
            if last.connect_ex(str(self._path)) == 0:
                last.shutdown(socket.SHUT_WR)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _forget(self) -> None:
        os.close(self._lock)
        runtime.remove(self.site.settings, self.volume_id)
        self.site.catalog.change_state(self.volume_id, VolumeState.IN_USE, VolumeState.AVAILABLE)


@contextmanager
def attached(site: Site, volume: Volume, **wish: Any) -> Iterator[Attached]:
    """``volume`` attached for the time of the block, unless it ends the attachment itself."""
    there = Attached(site, volume, **wish)
    try:
        yield there
    finally:
        if there._thread.is_alive():
            there.detach()

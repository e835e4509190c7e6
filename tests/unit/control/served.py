"""A volume that is attached as far as control can see: records, and a control socket that answers as a daemon would."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from ebscrypt.control import runtime
from ebscrypt.control.site import Site
from ebscrypt.core import SecretMemory
from ebscrypt.daemon.control_socket import serve_control
from ebscrypt.daemon.listening import listen_privately
from ebscrypt.errors import DaemonError
from ebscrypt.model import Access, Attachment, AttachmentSpec, ExportKind, OnKeyUnusable, Volume, VolumeState, utc_now


class Served:
    """``access`` is what the daemon's users may do, ``asked`` every operation but status, ``fails`` those that fail."""

    def __init__(self, site: Site, volume: Volume) -> None:
        self.access = Access.READ_WRITE
        self.before = Access.READ_WRITE
        self.asked: list[str] = []
        self.fails: set[str] = set()
        self.flushed = True
        self.connections = 1
        self.path = runtime.directory(site.settings, volume.volume_id).control_socket
        self.finished = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._serve))

    async def _serve(self) -> None:
        operations = {name: getattr(self, name) for name in ("status", "set_access", "suspend", "abort")}
        with listen_privately(self.path) as listener:
            self._ready.set()
            await serve_control(
                listener,
                operations,
                owner=os.geteuid(),
                finished=lambda: self.finished,
                taking={"resume": self.resume},
            )

    async def status(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        return {"access": self.access, "connections": self.connections}

    async def set_access(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self._note(f"set_access {parameters['access']}")
        self.access = Access(parameters["access"])
        return {"access": self.access}

    async def suspend(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        self._note("suspend")
        self.before, self.access = self.access, Access.SUSPENDED
        return {"access": self.access, "flushed": self.flushed}

    async def resume(self, _parameters: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        self._note("resume")
        assert descriptor is not None
        # Real secret memory, or `adopt` would refuse it.
        SecretMemory.adopt(descriptor).wipe()
        self.access = self.before
        return {"access": self.access}

    async def abort(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        self._note("abort")
        return {}

    def _note(self, what: str) -> None:
        self.asked.append(what)
        if what.split(maxsplit=1)[0] in self.fails:
            raise DaemonError(f"no {what}")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self.finished = True
        with socket.socket(socket.AF_UNIX) as last:  # a peer that comes and goes lets the server look at `finished`
            last.settimeout(5)
            if last.connect_ex(str(self.path)) == 0:
                last.shutdown(socket.SHUT_WR)
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextmanager
def served(site: Site, volume: Volume, mode: OnKeyUnusable, **wish: Any) -> Iterator[Served]:
    """``volume`` attached with this ``on_key_unusable``; this process stands for its daemon's."""
    site.catalog.correct(volume.volume_id, on_key_unusable=mode.value)
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    spec = AttachmentSpec(
        volume_id=volume.volume_id,
        backing=volume.backing,
        backing_kind=volume.backing_kind,
        encrypted=volume.encrypted,
        size=volume.size,
        kms_key_arn=volume.kms_key_arn,
        on_key_unusable=mode,
        **wish,
    )
    runtime.write_spec(site.settings, spec)
    began = Path("/proc/self/stat").read_text().rpartition(")")[2].split(maxsplit=20)[19]
    attachment = Attachment(
        volume_id=volume.volume_id,
        pid=os.getpid(),
        pid_start=int(began),
        export=ExportKind.SOCKET,
        device="nbd+unix:///",
        backing=volume.backing,
        size=volume.size,
        read_only=spec.read_only,
        key_memory="memfd_secret",
        attach_time=utc_now(),
    )
    runtime.write_attachment(site.settings, attachment)
    daemon = Served(site, volume)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()

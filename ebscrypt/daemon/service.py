"""A volume being served: what the control socket can ask of it, and how it ends.

Whatever may wait for the backing runs in a thread, so that `status` is answered even while the backing hangs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import Any, Final

import msgspec
import trio

from ebscrypt.core import OperationStatistics, SecretMemory
from ebscrypt.daemon.changes import INTERVAL
from ebscrypt.daemon.exports.base import Export
from ebscrypt.daemon.filling import FillService
from ebscrypt.daemon.notify import Notifier
from ebscrypt.daemon.snapshotting import Snapshotting
from ebscrypt.daemon.suspension import resume, suspend
from ebscrypt.daemon.volume import OpenVolume
from ebscrypt.errors import DaemonError, InvalidParameter, StateError, VolumeInUse
from ebscrypt.model import Access, Attachment

STOP_TIMEOUT: Final = 20.0
"""Seconds that requests under way may take to finish when the daemon is told to stop."""
_WATCH: Final = 2.0
"""Seconds between two looks at a device's connection."""
_LEAVING: Final = 1.0
"""Seconds for the last client to be gone."""

_log = logging.getLogger(__name__)


class Service:
    """The open volume, its export and its attachment record, under the operations of protocol.py."""

    def __init__(self, volume: OpenVolume, export: Export, attachment: Attachment, notifier: Notifier) -> None:
        self._volume = volume
        self._export = export
        self._notifier = notifier
        self._filling = FillService(volume.device)
        self.attachment = attachment
        self.snapshotting = Snapshotting(volume, self._refuse_when_stopping)
        self._changing = trio.Lock()
        self._stopping = False
        self.stopped = False
        self.clean = False
        """Whether, once stopped, everything acknowledged is durable."""

    @property
    def operations(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "statistics": self.statistics,
            "flush": self.flush,
            "grow": self.grow,
            "set_access": self.set_access,
            "suspend": self.suspend,
            "abort": self.abort,
            "shutdown": self.shutdown,
            **self.snapshotting.operations,
            **self._filling.operations,
        }

    @property
    def taking(self) -> dict[str, Any]:
        """The operations that take over a descriptor."""
        return {"resume": self.resume, **self.snapshotting.taking, **self._filling.taking}

    async def status(self, parameters: dict[str, Any]) -> dict[str, Any]:
        _take(parameters)
        attachment = msgspec.structs.replace(self.attachment, size=self._volume.device.size)
        return {
            "attachment": attachment,
            "connections": self._export.clients,
            "state": self._state(),
            "access": self._volume.access,
        }

    async def statistics(self, parameters: dict[str, Any]) -> dict[str, Any]:
        _take(parameters)
        self._refuse_when_stopping()
        return {name: _plain(counters) for name, counters in self._volume.device.statistics().items()}

    async def flush(self, parameters: dict[str, Any]) -> dict[str, Any]:
        _take(parameters)
        self._refuse_when_stopping()
        # While it is suspended a flush would wait as well, and everything that was acknowledged is durable.
        if not self._volume.spec.read_only and self._volume.access is not Access.SUSPENDED:
            await trio.to_thread.run_sync(self._volume.device.flush)
        return {}

    async def grow(self, parameters: dict[str, Any]) -> dict[str, Any]:
        size = _take(parameters, size=int)["size"]
        async with self._changing:
            self._refuse_when_stopping()
            if self._volume.access is Access.SUSPENDED:
                raise StateError(
                    f"volume {self.attachment.volume_id} is suspended: its KMS key cannot be used",
                    hint="make the key usable again, then resize it",
                )
            await trio.to_thread.run_sync(self._volume.grow, size)
            await self._export.resized()
        _log.info("the volume has %d bytes now", size)
        return {"size": size}

    async def set_access(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Let requests write, or not. Nothing when it is so already; from a suspension only `resume` leads back."""
        wanted = _take(parameters, access=str).get("access")
        if wanted not in (Access.READ_WRITE, Access.READ_ONLY):
            raise InvalidParameter("the parameter 'access' is neither read-write nor read-only")
        async with self._changing:
            self._refuse_when_stopping()
            await trio.to_thread.run_sync(self._volume.device.set_access, str(wanted))
        _log.info("the volume is %s now", wanted)
        return {"access": self._volume.access}

    async def suspend(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Let requests wait, and keep nothing by which the volume could be read: neither here nor with systemd."""
        _take(parameters)
        async with self._changing:
            self._refuse_when_stopping()
            flushed = await trio.to_thread.run_sync(suspend, self._volume)
            # Its memory holds zeros by now, whoever has the descriptor.
            self._notifier.forget_key()
        _log.warning("the volume is suspended and its data key wiped%s", "" if flushed else "; the flush failed")
        self._notifier.status(f"suspended {self.attachment.volume_id}: its KMS key cannot be used")
        return {"access": self._volume.access, "flushed": flushed}

    async def resume(self, parameters: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        """End a suspension with the data key in the secret memory behind ``descriptor``, which is taken over."""
        if descriptor is None:
            raise InvalidParameter("a data key's descriptor must come with this request")
        try:
            _take(parameters)
        except InvalidParameter:
            os.close(descriptor)
            raise
        # It takes the descriptor over even where it refuses it: closed once more, that could be another one by then.
        key = SecretMemory.adopt(descriptor)
        async with self._changing:
            self._refuse_when_stopping()
            keep = self._notifier.active
            await trio.to_thread.run_sync(lambda: resume(self._volume, key, keep=keep))
            if (kept := self._volume.key) is not None and not await trio.to_thread.run_sync(
                self._notifier.store_key, kept.fileno()
            ):
                _log.warning("systemd did not keep the data key: after a crash KMS is needed again")
        _log.info("the volume is %s again", self._volume.access)
        self._notifier.status(f"serving {self.attachment.volume_id} at {self.attachment.device}")
        return {"access": self._volume.access}

    async def abort(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Fail the requests that wait for a suspension to end: for who has to end the volume's users then."""
        _take(parameters)
        # Not under the lock, since it is what ends a suspension that waits for a backing that hangs.
        await trio.to_thread.run_sync(self._volume.device.abort)
        return {}

    async def shutdown(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Refuse while somebody uses the volume, unless forced; else make all durable, wipe, and end the process."""
        force = _take(parameters, force=bool).get("force", False)
        async with self._changing:
            self._refuse_when_stopping()
            clients = 0 if force else await self._remaining_clients()
            if clients:
                raise VolumeInUse(
                    f"volume {self.attachment.volume_id} has {clients} client{'s' if clients > 1 else ''}",
                    hint="let them end first, or detach with --force",
                )
            await self._stop()
        return {}

    async def terminate(self) -> None:
        """End whoever uses the volume: SIGTERM. Raises `DaemonError` as `shutdown` does. Idempotent."""
        async with self._changing:
            if not self._stopping:
                await self._stop()

    async def crash_when_lost(self) -> None:
        """End like a crash when the kernel has hung up but keeps the device: only a new daemon may reconnect it.

        That takes privileges which this one has given up. The kernel hangs up when a request took longer than the I/O
        timeout, say on a backing that hung for a while. Under systemd the next daemon is there at once, finds the key
        in the descriptor store, and nobody above the device sees an error.
        """
        while not self._stopping:
            await trio.sleep(_WATCH)
            if not self._export.lost or self._stopping:
                continue
            _log.error("the kernel has hung up on %s, and waits for a new daemon", self.attachment.device)
            with trio.move_on_after(STOP_TIMEOUT), contextlib.suppress(OSError):
                await trio.to_thread.run_sync(self._volume.device.flush, abandon_on_cancel=True)
            signal.raise_signal(signal.SIGKILL)

    async def note_changes(self) -> None:
        """Write the backing's mark down while the volume is served, so that a crash costs little of what is known."""
        while self._volume.changes is not None:
            with contextlib.suppress(OSError):  # then everything counts as changed, once this process has died
                await trio.to_thread.run_sync(self._volume.changes.note, abandon_on_cancel=True)
            await trio.sleep(INTERVAL)

    async def _stop(self) -> None:
        """Serve no more, flush, wipe the keys; then `stopped` is True, and `clean` says how it went.

        Raises `DaemonError` when the last flush failed: what was acknowledged before it may not be durable.
        """
        self._stopping = True
        await trio.to_thread.run_sync(self.snapshotting.end)
        if self._volume.access is Access.SUSPENDED:
            self._volume.device.abort()
        try:
            if not await self._export.stop(STOP_TIMEOUT):
                _log.warning("requests under way did not finish within %g s and were cut off", STOP_TIMEOUT)
            await trio.to_thread.run_sync(self._volume.close)
            self.clean = True
        except OSError as error:
            raise DaemonError(
                f"the last flush of volume {self.attachment.volume_id} failed: {error.strerror}: "
                "writes since the flush before it may be lost",
                hint="look at the kernel's log for errors of the backing, and check the file system on the volume",
            ) from error
        finally:
            self.stopped = True

    async def _remaining_clients(self) -> int:
        """Who is still there: after a device was taken down it takes a moment until its end arrives here."""
        with trio.move_on_after(_LEAVING):
            while self._export.clients:  # noqa: ASYNC110 - the core's threads count connections, and wake nobody
                await trio.sleep(0.01)
        return self._export.clients

    def _state(self) -> str:
        if self._stopping:
            return "stopping"
        return "ended" if self._export.ended else "serving"

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise StateError(f"volume {self.attachment.volume_id} is being detached")


def _take(parameters: dict[str, Any], **known: type) -> dict[str, Any]:
    """The parameters, if they are the known ones. Raises `InvalidParameter`. ``size`` has no default."""
    for name, value in parameters.items():
        if name not in known or type(value) is not known[name]:
            raise InvalidParameter(f"{name[:40]!r} is not a parameter here, or has a value of another kind")
    if "size" in known and "size" not in parameters:
        raise InvalidParameter("the parameter 'size' is missing")
    return parameters


def _plain(counters: OperationStatistics) -> dict[str, Any]:
    return {
        "operations": counters.operations,
        "bytes": counters.bytes,
        "errors": counters.errors,
        "latency": list(counters.latency),
    }

"""The process of one attachment, from nothing to serving and back: ``python -m ebscrypt.daemon VOL [--ready-fd N]``.

    settings, lock                   one daemon a volume
    harden                           before anything secret is in this process
    open the volume                  backing, header, key, core (volume.py)
    store the key with systemd       where it listens; else the raw key is wiped by now
    start the export                 the last thing that needs privileges
    control socket, attachment.json  who reads it can use it
    drop privileges, say ready
    serve until SIGTERM or shutdown
    stop the export, flush, wipe, exit

On failure ``failure.json`` has the error, the exit status is 1, and neither key nor export is left.
"""

from __future__ import annotations

import contextlib
import getopt
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import msgspec
import trio

from ebscrypt import config
from ebscrypt.config import Settings
from ebscrypt.core import SecretMemory, harden_process
from ebscrypt.daemon import privileges
from ebscrypt.daemon.control_socket import serve_control
from ebscrypt.daemon.exports.base import Export, Setting
from ebscrypt.daemon.exports.start import prepare_export
from ebscrypt.daemon.exports.teardown import is_gone, teardown
from ebscrypt.daemon.listening import listen_privately
from ebscrypt.daemon.memory import give_back
from ebscrypt.daemon.notify import Notifier, take_stored_key
from ebscrypt.daemon.runtime import RuntimeDirectory
from ebscrypt.daemon.service import Service
from ebscrypt.daemon.volume import OpenVolume, open_volume
from ebscrypt.errors import DaemonError, EbscryptError
from ebscrypt.model import Attachment, AttachmentSpec, check_volume_id, utc_now

_END: Final = (signal.SIGTERM, signal.SIGINT)
_UNDO_TIMEOUT: Final = 5.0
_TOO_EARLY: Final = "told to stop before the volume was served"

_log = logging.getLogger(__name__)


class _Start(msgspec.Struct, frozen=True):
    """What the daemon begins with."""

    spec: AttachmentSpec
    settings: Settings
    runtime: RuntimeDirectory
    notifier: Notifier
    notes: list[str]
    ready_fd: int | None


def main(arguments: list[str]) -> int:
    """Serve one volume. The exit status: 0 when it ended as told and all is durable, else 1 (2: usage)."""
    volume_id, ready_fd = _words(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGTERM, _end_early)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = config.load()
        runtime = RuntimeDirectory(settings.runtime_dir(check_volume_id(volume_id)))
        runtime.check_socket_paths()
        lock = runtime.acquire()
    except (EbscryptError, OSError) as error:
        # Without the lock the directory is somebody else's: nothing is written to it.
        _log.error("%s", error)
        return 1
    try:
        runtime.forget_failure()
        return _run(_Start(runtime.read_spec(), settings, runtime, Notifier(), [], ready_fd))
    except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told
        return _fail(runtime, error)
    finally:
        os.close(lock)


def _words(arguments: list[str]) -> tuple[str, int | None]:
    """The volume's id, and the descriptor that gets one byte when it is served. argparse would be kept for life."""
    try:
        options, [volume_id] = getopt.gnu_getopt(arguments, "", ["ready-fd="])
        return volume_id, int(options[-1][1]) if options else None
    except (getopt.GetoptError, ValueError):
        sys.stderr.write("usage: python -m ebscrypt.daemon VOL [--ready-fd N]\n")
        sys.exit(2)


def _run(start: _Start) -> int:
    """Everything between taking the lock and letting go of it."""
    start.notes.extend(harden_process(lock_memory=True, io_flusher=True))
    try:
        stored_key = _stored_key(start)
        keep_key = start.notifier.active
        with open_volume(
            start.spec, start.settings, start.notes, stored_key=stored_key, keep_key=keep_key, tracked=True
        ) as volume:
            if volume.key is not None and volume.key is not stored_key:
                _store_key(start, volume.key)
            # From here on a signal waits until trio looks at it.
            signal.pthread_sigmask(signal.SIG_BLOCK, _END)
            return trio.run(_Daemon(start, volume).run)
    finally:
        # Only a daemon that was killed leaves its key with systemd.
        start.notifier.forget_key()


def _stored_key(start: _Start) -> SecretMemory | None:
    """The data key that systemd kept from an earlier life of this unit. What is no secret memory is no key."""
    if (stored := take_stored_key()) is None:
        return None
    try:
        return SecretMemory.adopt(stored)
    except OSError as error:
        start.notes.append(f"what systemd kept is not a data key ({error.strerror}): KMS was asked")
        return None


def _store_key(start: _Start, key: SecretMemory) -> None:
    if not start.notifier.store_key(key.fileno()):
        start.notes.append("systemd did not keep the data key: after a crash KMS is needed again")


class _Daemon:
    """One run under trio: start the export, serve, stop; whatever happens, leave nothing of it behind."""

    def __init__(self, start: _Start, volume: OpenVolume) -> None:
        self._start = start
        self._volume = volume
        self._service: Service | None = None
        self._failure: Exception | None = None

    async def run(self) -> int:
        """The exit status. Raises what kept the volume from being served."""
        with trio.open_signal_receiver(*_END) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _END)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signal, signals, nursery.cancel_scope)
                try:
                    await self._serve()
                except Exception as error:  # noqa: BLE001 - told below, outside of the nursery, which would wrap it
                    self._failure = error
                nursery.cancel_scope.cancel()
            # A second signal must not spoil an orderly end.
            signal.pthread_sigmask(signal.SIG_BLOCK, _END)
        if self._failure is not None:
            raise self._failure
        if self._service is None:
            raise DaemonError(_TOO_EARLY)
        return 0 if self._service.clean else 1

    async def _serve(self) -> None:
        start = self._start
        setting = Setting(
            volume=self._volume,
            spec=start.spec,
            attach=start.settings.attach,
            runtime=start.runtime,
            notes=start.notes,
        )
        owner, identity = os.geteuid(), privileges.target(start.settings.attach.user)
        export = prepare_export(setting)
        try:
            with listen_privately(start.runtime.control_socket) as listener:
                if identity.early:
                    privileges.become(identity)
                await export.serve()
                attachment = _describe(start, self._volume, export)
                start.runtime.write_attachment(attachment)
                if not identity.early:
                    privileges.become(identity)
                self._service = Service(self._volume, export, attachment, start.notifier)
                await self._converse(self._service, listener, owner)
        finally:
            if self._service is None:
                await _undo(start, self._volume, export)
            _remove_sockets(start.runtime)

    async def _converse(self, service: Service, listener: socket.socket, owner: int) -> None:
        os.chdir("/")
        _say_ready(self._start, service.attachment)
        give_back()
        async with trio.open_nursery() as nursery:
            if service.attachment.nbd_index is not None:
                nursery.start_soon(service.crash_when_lost)
            nursery.start_soon(service.note_changes)
            nursery.start_soon(service.snapshotting.expire)
            await serve_control(
                listener, service.operations, owner=owner, finished=lambda: service.stopped, taking=service.taking
            )
            nursery.cancel_scope.cancel()

    async def _end_on_signal(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for _number in signals:
            self._start.notifier.stopping()
            if self._service is not None:
                try:
                    await self._service.terminate()
                except DaemonError as error:
                    _log.error("%s", error)
            scope.cancel()
            return


def _describe(start: _Start, volume: OpenVolume, export: Export) -> Attachment:
    access = export.access
    return Attachment(
        volume_id=start.spec.volume_id,
        pid=os.getpid(),
        pid_start=_started_at(),
        export=export.kind,
        device=access.device,
        socket=access.socket,
        nbd_index=access.nbd_index,
        loop_device=access.loop_device,
        mountpoint=access.mountpoint,
        backing=start.spec.backing,
        size=volume.device.size,
        read_only=start.spec.read_only,
        key_memory=volume.key_memory,
        attach_time=utc_now(),
        notes=start.notes,
    )


def _started_at() -> int:
    """This process's start in clock ticks since boot. The command's name, in brackets, may hold anything."""
    return int(Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])


def _say_ready(start: _Start, attachment: Attachment) -> None:
    _log.info("volume %s is served at %s", attachment.volume_id, attachment.device)
    for note in start.notes:
        _log.info("note: %s", note)
    start.notifier.ready(f"serving {attachment.volume_id} at {attachment.device}")
    if start.ready_fd is not None:
        with contextlib.suppress(OSError):  # whoever waited may have gone; the volume is served all the same
            os.write(start.ready_fd, b"1")
        os.close(start.ready_fd)


async def _undo(start: _Start, volume: OpenVolume, export: Export) -> None:
    """Nobody was told of the device: take it away again, while it is still being served.

    Not one that was to be taken up again: the kernel keeps it for the next daemon. What cannot be taken away for want
    of a privilege is described, so that control can.
    """
    attachment = _describe(start, volume, export)
    with trio.CancelScope(shield=True):
        if attachment.nbd_index is None or attachment.nbd_index != start.spec.nbd_index:
            with contextlib.suppress(OSError, EbscryptError):
                await trio.to_thread.run_sync(lambda: teardown(attachment, force=True))
        await export.stop(_UNDO_TIMEOUT)
    # Another user by now may not even look, or write: then what was written before it became one says enough.
    with contextlib.suppress(OSError):
        if not is_gone(attachment):
            start.runtime.write_attachment(attachment)


def _remove_sockets(runtime: RuntimeDirectory) -> None:
    """Where we may: as another user control removes the whole directory."""
    for path in (runtime.control_socket, runtime.nbd_socket):
        with contextlib.suppress(OSError):
            path.unlink()


def _end_early(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    raise DaemonError(_TOO_EARLY)


def _fail(runtime: RuntimeDirectory, error: Exception) -> int:
    """Write down why, for whoever waits, and for the log."""
    if isinstance(error, EbscryptError):
        told = error
    elif isinstance(error, OSError):
        told = DaemonError(f"the daemon failed: {error}")
    else:
        _log.error("the daemon failed for no known reason", exc_info=error)
        told = DaemonError(f"internal error: {type(error).__name__}: {error}", hint="please report it, with daemon.log")
    _log.error("%s%s", told.message, f" (hint: {told.hint})" if told.hint else "")
    with contextlib.suppress(OSError):
        runtime.write_failure(told)
    return 1

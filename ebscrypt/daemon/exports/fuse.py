"""The ``fuse`` export: one plaintext file, and as root a loop device over it, for kernels without nbd.

    mkfs, mount → /dev/loopN (direct I/O) → <runtime>/mount/<volume id> → this process → core device

The file is opened with direct_io, and the loop device past the page cache too, so that nothing is cached twice and
every write reaches the core. pyfuse3 cannot pass on discards (fallocate): a loop device over the file cannot trim, and
the export says so in its notes.

The session has a thread and an event loop of its own, so that the control socket answers whatever a request waits
for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading

import pyfuse3
import trio

from ebscrypt.daemon.exports import loop, mount
from ebscrypt.daemon.exports.base import Access, Setting
from ebscrypt.daemon.exports.fuse_file import TASKS, VolumeFile
from ebscrypt.daemon.exports.ready import wait_until_answering
from ebscrypt.errors import DaemonError, ExportUnavailable
from ebscrypt.model import ExportKind

_log = logging.getLogger(__name__)


class FuseExport:
    """See `Export`."""

    kind = ExportKind.FUSE
    lost = False

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._file = VolumeFile(setting.volume.device, setting.volume_id, read_only=setting.spec.read_only)
        self._loop: str | None = None
        self._session = threading.Thread(target=self._run_session, name="fuse", daemon=True)
        self._token: trio.lowlevel.TrioToken | None = None
        self._begun = threading.Event()
        self._mounted = False
        self._with_loop = False

    def prepare(self) -> None:
        """Mount. As root also see that there are loop devices, since nothing can be done about it later."""
        try:
            self._with_loop = os.geteuid() == 0 and self._loop_devices_work()
            self._mount()
        except (OSError, DaemonError) as error:
            if isinstance(error, ExportUnavailable):
                raise
            raise ExportUnavailable(f"cannot make a FUSE file: {error}", hint="use --export socket") from error

    async def serve(self) -> None:
        """Answer the kernel, and as root make the loop device: in a thread, for it reads from our own file."""
        self._session.start()
        if not self._with_loop:
            return
        setting = self._setting
        device = await trio.to_thread.run_sync(self._attach_loop)
        await wait_until_answering(device, lambda: loop.size(device))
        if not loop.uses_direct_io(device):
            setting.notes.append(
                f"{device} has no direct I/O: what is written stays in memory twice until it is flushed"
            )
        setting.notes.append(f"{device} cannot pass on discards (trim): space that was written stays in use")

    @property
    def access(self) -> Access:
        return Access(
            device=self._loop or str(self._setting.file),
            mountpoint=str(self._setting.runtime.mountpoint),
            loop_device=self._loop,
        )

    @property
    def clients(self) -> int:
        """Open handles of the file, without the loop device's own."""
        if self.ended:
            return 0
        own = self._loop is not None and loop.is_over(self._loop, self._setting.volume_id)
        return max(0, self._file.handles - own)

    @property
    def ended(self) -> bool:
        return self._begun.is_set() and not self._session.is_alive()

    async def resized(self) -> None:
        """Nothing to forget: the kernel is told to keep the file's attributes for no time at all."""

    async def stop(self, patience: float) -> bool:
        """End the session. The mount stays, answering ENOTCONN, until somebody with the privilege takes it down."""
        if not self._mounted:
            return True
        if self._session.is_alive():
            await trio.to_thread.run_sync(self._end_session, patience)
        if self._session.is_alive():
            return False
        self._mounted = False
        pyfuse3.close(unmount=False)
        return True

    def _loop_devices_work(self) -> bool:
        try:
            loop.check()
        except OSError as error:
            if self._setting.spec.export is not ExportKind.FUSE:
                raise
            self._setting.notes.append(f"there are no loop devices ({error}): the volume is a file, no block device")
            return False
        return True

    def _mount(self) -> None:
        setting, mountpoint = self._setting, self._setting.runtime.mountpoint
        if not os.access(mount.FUSE_DEVICE, os.R_OK | os.W_OK):
            raise ExportUnavailable(f"{mount.FUSE_DEVICE} is not there or not ours to open", hint="try `modprobe fuse`")
        # What a dead daemon left is dead as well: whoever holds this volume's lock may take it away.
        mount.unmount(mountpoint, lazy=True)
        mountpoint.mkdir(mode=0o700)
        options = {*pyfuse3.default_options, f"fsname={setting.volume_id}", "subtype=ebscrypt"}
        try:
            pyfuse3.init(self._file, str(mountpoint), options | ({"ro"} if setting.spec.read_only else set()))
        except RuntimeError as error:
            mountpoint.rmdir()
            raise ExportUnavailable(
                f"cannot mount FUSE on {mountpoint}: {error}",
                hint="is fuse3 installed? daemon.log has libfuse's own words",
            ) from None
        self._mounted = True

    def _run_session(self) -> None:
        try:
            trio.run(self._answer_kernel)
        except Exception:  # noqa: BLE001
            # The volume is still to be flushed and closed as usual: the rest of the daemon must not end with this.
            _log.exception("the FUSE session failed")
        finally:
            self._begun.set()

    async def _answer_kernel(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._begun.set()
        await pyfuse3.main(min_tasks=1, max_tasks=TASKS)

    def _end_session(self, patience: float) -> None:
        """Read no more requests, and wait for those under way."""
        self._begun.wait(patience)
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(pyfuse3.terminate)
        self._session.join(patience)

    def _attach_loop(self) -> str:
        setting = self._setting
        self._loop = loop.attach(setting.file, block_size=setting.volume.block_size, read_only=setting.spec.read_only)
        return self._loop

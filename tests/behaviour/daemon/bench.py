"""Volumes made by hand and daemons started directly: what these tests have instead of control.

Everything is real: header, KMS (the embedded one), daemon process, kernel. A daemon that a test leaves behind is ended,
and its devices are taken down, whatever became of the test.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import ebscrypt
from ebscrypt import config, luks2
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.exports import is_gone, teardown
from ebscrypt.daemon.runtime import RuntimeDirectory
from ebscrypt.errors import EbscryptError, from_record
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import (
    MIB,
    Attachment,
    AttachmentSpec,
    BackingKind,
    ExportKind,
    encryption_context,
    new_volume_id,
)
from tests.behaviour.daemon.systemd_stand_in import Systemd, systemd

SOURCE = Path(ebscrypt.__file__).parents[1]
START_TIMEOUT = 60.0


class Daemon:
    """A daemon that serves, and what it said of itself."""

    def __init__(self, process: subprocess.Popen[bytes], runtime: RuntimeDirectory, spec: AttachmentSpec) -> None:
        self.process = process
        self.runtime = runtime
        self.spec = spec
        self.attachment = msgspec.json.decode((runtime.path / "attachment.json").read_bytes(), type=Attachment)

    @property
    def device(self) -> str:
        return self.attachment.device

    def call(self, op: str, *, timeout: float = 60, **parameters: Any) -> dict[str, Any]:
        with DaemonClient(self.runtime.control_socket) as client:
            return client.call(op, timeout=timeout, **parameters)

    def detach(self) -> None:
        """As control does: device first, then the daemon, which must end well."""
        teardown(self.attachment)
        self.call("shutdown")
        assert self.process.wait(30) == 0
        assert is_gone(self.attachment)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def log(self) -> str:
        return self.runtime.log.read_text()


class Bench:
    """A state directory with an embedded KMS, in which volumes are made and daemons started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            "EBSCRYPT_STATE_DIR": str(directory),
            "EBSCRYPT_RUNTIME_DIR": str(directory / "run"),
            "EBSCRYPT_CONFIG": os.devnull,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH")))),
            "PATH": os.environ["PATH"],
        }
        self.settings = config.load(self.environ)
        self.kms = KmsClient(self.settings)
        self.command = [sys.executable, "-m", "ebscrypt.daemon"]
        self.key_arn = self.kms.resolve_key(None).arn
        self._processes: list[tuple[subprocess.Popen[bytes], RuntimeDirectory]] = []

    def volume(
        self,
        size: int = 64 * MIB,
        *,
        encrypted: bool = True,
        sector_size: int = 4096,
        backing: str | None = None,
        key_arn: str | None = None,
        **wish: Any,
    ) -> AttachmentSpec:
        """A new volume, not attached yet, and the spec to attach it by; ``wish`` goes into the spec."""
        volume_id = new_volume_id()
        path = Path(backing or self.directory / f"{volume_id}.luks")
        offset = luks2.DATA_OFFSET if encrypted else 0
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if backing is None:
                os.ftruncate(fd, offset + size)
            if encrypted:
                luks2.format_header(fd, self.header(volume_id, size, sector_size, key_arn))
        finally:
            os.close(fd)
        kind = BackingKind.BLOCK if path.is_block_device() else BackingKind.FILE
        wish.setdefault("export", ExportKind.SOCKET)
        return AttachmentSpec(
            volume_id=volume_id, backing=str(path), backing_kind=kind, encrypted=encrypted, size=size, **wish
        )

    @staticmethod
    def again(spec: AttachmentSpec, **wish: Any) -> AttachmentSpec:
        """The spec with other wishes."""
        return msgspec.structs.replace(spec, **wish)

    @staticmethod
    def changed(attachment: Attachment, **fields: Any) -> Attachment:
        return msgspec.structs.replace(attachment, **fields)

    def header(self, volume_id: str, size: int, sector_size: int = 4096, key_arn: str | None = None) -> luks2.Header:
        context = encryption_context(volume_id)
        wrapped = self.kms.generate_data_key_without_plaintext(key_arn or self.key_arn, context)
        token = luks2.KmsToken(
            volume_id=volume_id,
            kms_key_arn=wrapped.key_arn,
            wrapped_key=wrapped.blob,
            encryption_context=context,
            region=self.kms.region,
            sealed=False,
        )
        return luks2.create_header(token, size=size, sector_size=sector_size)

    def data_key(self, spec: AttachmentSpec) -> bytes:
        """What no process that lives on may hold; a test must, to look for it."""
        token = self.read_header(spec).token()
        return self.kms.decrypt(token.wrapped_key, token.encryption_context).plaintext

    def moved_to(self, runtime: Path) -> Bench:
        """The same volumes and KMS, with runtime directories elsewhere."""
        moved = Bench.__new__(Bench)
        moved.__dict__ |= self.__dict__ | {"environ": self.environ | {"EBSCRYPT_RUNTIME_DIR": str(runtime)}}
        moved.settings = config.load(moved.environ)
        moved._processes = []
        return moved

    def read_header(self, spec: AttachmentSpec) -> luks2.Header:
        """The header on a volume's backing."""
        with Path(spec.backing).open("rb") as file:
            return luks2.read_header(file.fileno()).header

    def runtime(self, volume_id: str) -> RuntimeDirectory:
        return RuntimeDirectory(self.settings.runtime_dir(volume_id))

    def systemd(self) -> contextlib.AbstractContextManager[Systemd]:
        """Something to speak to as to systemd."""
        return systemd(self.directory / "notify")

    def start(self, spec: AttachmentSpec, *, under: Systemd | None = None, **environ: Any) -> Daemon:
        """A daemon that serves ``spec``, ``under`` systemd with what is in its store. Fails with the daemon's log."""
        process, runtime, ready = self.launch(spec, under=under, **environ)
        if not ready:
            process.wait(START_TIMEOUT)
            pytest.fail(f"the daemon did not start: {runtime.log.read_text()}")
        return Daemon(process, runtime, spec)

    def refusal(self, spec: AttachmentSpec, **environ: Any) -> EbscryptError:
        """Why a daemon would not serve ``spec``, as it wrote it down."""
        process, runtime, ready = self.launch(spec, **environ)
        assert not ready, "it serves"
        assert process.wait(START_TIMEOUT) == 1
        return from_record(msgspec.json.decode((runtime.path / "failure.json").read_bytes()))

    def launch(
        self, spec: AttachmentSpec, *, under: Systemd | None = None, **environ: Any
    ) -> tuple[subprocess.Popen[bytes], RuntimeDirectory, bool]:
        """A daemon's process, and whether it said that it is ready before it closed the pipe."""
        reading, writing = os.pipe()
        process, runtime = self.spawn(spec, "--ready-fd", str(writing), pass_fds=(writing,), under=under, **environ)
        os.close(writing)
        readable, _, _ = select.select([reading], [], [], START_TIMEOUT)
        ready = bool(readable) and os.read(reading, 1) == b"1"
        os.close(reading)
        return process, runtime, ready

    def spawn(
        self,
        spec: AttachmentSpec,
        *arguments: str,
        write_spec: bool = True,
        pass_fds: tuple[int, ...] = (),
        under: Systemd | None = None,
        **environ: Any,
    ) -> tuple[subprocess.Popen[bytes], RuntimeDirectory]:
        """A daemon's process, not waited for."""
        runtime = self.runtime(spec.volume_id)
        runtime.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if write_spec:
            (runtime.path / "spec.json").write_bytes(msgspec.json.encode(spec))
        command = [*self.command, spec.volume_id, *arguments]
        if under is not None:
            command, pass_fds, environ = self._handed_over(command, pass_fds, environ, under)
        with runtime.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ | environ,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        self._processes.append((process, runtime))
        return process, runtime

    @staticmethod
    def _handed_over(
        command: list[str], pass_fds: tuple[int, ...], environ: dict[str, str], under: Systemd
    ) -> tuple[list[str], tuple[int, ...], dict[str, str]]:
        """A command that begins with systemd's descriptors as 3, 4, …; the shell knows the pid to name."""
        environ = environ | {"NOTIFY_SOCKET": under.address}
        if not under.store:
            return command, pass_fds, environ
        ((name, fd),) = under.store.items()
        environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": name}
        # The ready pipe may be 3 already: it moves out of the way, and the command is told its new number.
        (ready,) = pass_fds
        command[command.index(str(ready))] = "9"
        script = (
            f"import os, sys; os.dup2({ready}, 9); os.dup2({fd}, 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
            "os.closerange(4, 9); os.closerange(10, 100); os.execv(sys.argv[1], sys.argv[1:])"
        )
        return [sys.executable, "-c", script, *command], (ready, fd), environ

    def clear(self) -> None:
        """End what the test left."""
        for process, runtime in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(30)
            with contextlib.suppress(FileNotFoundError, EbscryptError):
                record = (runtime.path / "attachment.json").read_bytes()
                teardown(msgspec.json.decode(record, type=Attachment), force=True)
            shutil.rmtree(runtime.path, ignore_errors=True)
        self._processes.clear()


def run(*command: str | Path, timeout: float = 120) -> str:
    """What a command prints; it must succeed."""
    result = subprocess.run([*map(str, command)], capture_output=True, timeout=timeout, check=False)
    assert result.returncode == 0, (
        command,
        result.returncode,
        result.stdout.decode()[-2000:],
        result.stderr.decode()[-2000:],
    )
    return result.stdout.decode()


def wait_until(condition: Callable[[], bool], timeout: float = 20) -> None:
    """Return when ``condition`` holds; fail when it does not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@contextlib.contextmanager
def silent_kms() -> Iterator[str]:
    """The URL of an endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def mounted(device: str, where: Path, *options: str) -> Iterator[Path]:
    """The file system on ``device``, mounted on ``where`` for the time of the block."""
    where.mkdir(exist_ok=True)
    run("mount", *options, device, where)
    try:
        yield where
    finally:
        run("umount", where)

"""The runtime directory of one volume, from the daemon's side; `ebscrypt.control.runtime` is the other.

    <runtime>/<volume id>/      0700
        lock                    held (flock) by the daemon for life: whoever can take it knows that no daemon lives
        spec.json               AttachmentSpec, written by control before the daemon starts
        attachment.json         Attachment, written by the daemon when the device answers
        failure.json            an error's record, written by the daemon when it gives up
        control.sock            0600, JSON lines (control_socket.py)
        nbd.sock                0600, the socket export
        mount/<volume id>       the FUSE export's file
        daemon.log              the daemon's stderr where there is no systemd

The directory stays in the hands of whoever started the attachment (root, as a rule) even where the daemon becomes
another user: a daemon taken over by an attacker must not be able to plant what control, as root, reads or removes.
Records are written beside, synced and renamed, so that a reader sees all of one or nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from ebscrypt.errors import ConfigError, DaemonError, EbscryptError, NotFound, VolumeInUse
from ebscrypt.model import Attachment, AttachmentSpec

MAX_SOCKET_PATH: Final = 107
"""Bytes of a Unix socket's path: sun_path is 108 with its final zero (unix(7))."""


class RuntimeDirectory:
    """One volume's runtime directory at ``path`` (`Settings.runtime_dir`)."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def volume_id(self) -> str:
        return self.path.name

    @property
    def control_socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def nbd_socket(self) -> Path:
        return self.path / "nbd.sock"

    @property
    def mountpoint(self) -> Path:
        return self.path / "mount"

    @property
    def log(self) -> Path:
        return self.path / "daemon.log"

    def check_socket_paths(self) -> None:
        """Raise `ConfigError` when the kernel could not bind a socket in here."""
        length = len(os.fsencode(self.control_socket))
        if length > MAX_SOCKET_PATH:
            raise ConfigError(
                f"the socket path {self.control_socket} has {length} bytes, over the limit of {MAX_SOCKET_PATH}",
                hint="set EBSCRYPT_RUNTIME_DIR to a shorter directory",
            )

    def read_spec(self) -> AttachmentSpec:
        """What control asked for. Raises `NotFound` when nothing was, `DaemonError` when it cannot be understood."""
        path = self.path / "spec.json"
        try:
            spec = msgspec.json.decode(path.read_bytes(), type=AttachmentSpec)
        except FileNotFoundError:
            raise NotFound(
                f"nobody asked to attach {self.volume_id}: there is no {path}",
                hint=f"run `ebscrypt attach {self.volume_id}`",
            ) from None
        except msgspec.DecodeError as error:
            raise DaemonError(
                f"{path} cannot be understood: {error}", hint="attach with the same version of ebscrypt"
            ) from None
        if spec.volume_id != self.volume_id:
            raise DaemonError(f"{path} is about volume {spec.volume_id}", hint=f"detach {self.volume_id} with --force")
        return spec

    def write_attachment(self, attachment: Attachment) -> None:
        self._write("attachment.json", msgspec.json.encode(attachment))

    def write_failure(self, error: EbscryptError) -> None:
        self._write("failure.json", msgspec.json.encode(error.record()))

    def forget_failure(self) -> None:
        """Remove why an earlier daemon gave up. Its attachment stays: it tells what may have to be taken down."""
        (self.path / "failure.json").unlink(missing_ok=True)

    def acquire(self) -> int:
        """Take the lock that says "a daemon lives here", until the returned descriptor is closed.

        Raises `VolumeInUse` when another process has it.
        """
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise VolumeInUse(
                f"volume {self.volume_id} is already served by another process",
                hint=f"see `ebscrypt show {self.volume_id}`; `ebscrypt detach {self.volume_id}` ends it",
            ) from None
        return fd

    def _write(self, name: str, data: bytes) -> None:
        """Replace ``name`` as a whole: a crash leaves the old record or the new one."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            beside = f".{name}.{os.getpid()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(beside, flags, 0o600, dir_fd=directory), "wb") as file:  # noqa: PTH123 - dir_fd needs os.open
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        finally:
            os.close(directory)

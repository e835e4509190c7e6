"""The servers compared: each gives an NBD socket over a file of its own, and the process whose CPU time counts."""

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

PASSPHRASE = "bench"
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Served:
    """A running server: how fio reaches it (an NBD URI, or the path of a file or device), and its processes."""

    target: str
    pids: tuple[int, ...]


class Server(ABC):
    """One way to serve a file. ``prepare`` is not measured and runs once."""

    name: ClassVar[str]
    encrypted: ClassVar[bool]
    direct: ClassVar[bool] = False
    """Whether the backing is opened with O_DIRECT where `main` asks for that."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory / self.name.replace(" ", "-")
        self.directory.mkdir(parents=True)
        self.size = size

    @abstractmethod
    def prepare(self) -> None: ...

    @abstractmethod
    def serving(self) -> AbstractContextManager[Served]:
        """Start, yield, end."""


class Ebscrypt(Server):
    """A volume made and attached at the command line, as users do."""

    name, encrypted, direct = "ebscrypt", True, True
    options: ClassVar[tuple[str, ...]] = ()
    export: ClassVar[str] = "socket"

    def prepare(self) -> None:
        self.volume = self._run("create", "--size", f"{self.size}B", *self.options).strip()

    @contextmanager
    def serving(self) -> Iterator[Served]:
        device = self._run("attach", "--export", self.export, self.volume).strip()
        try:
            record = json.loads((self.directory / "run" / self.volume / "attachment.json").read_text())
            yield Served(self._target(device, record), (record["pid"],))
        finally:
            self._run("detach", self.volume)

    def _target(self, device: str, _record: dict[str, Any]) -> str:
        return device

    def _run(self, *arguments: str) -> str:
        return run(self.directory, *arguments)


class EbscryptDirect(Ebscrypt):
    """The volume's file opened with O_DIRECT: past the page cache, to the disk."""

    name = "ebscrypt O_DIRECT"

    def _run(self, *arguments: str) -> str:
        return run(self.directory, *arguments, cache="none")


class EbscryptLoop(Ebscrypt):
    """The same volume as a loop device over a FUSE file."""

    name, export = "ebscrypt loop", "fuse"


class EbscryptFuse(EbscryptLoop):
    """The plaintext file itself, below the loop device."""

    name = "ebscrypt FUSE"

    def _target(self, _device: str, record: dict[str, Any]) -> str:
        return str(Path(record["mountpoint"]) / self.volume)


class EbscryptPlain(Ebscrypt):
    """The same data path without the cipher."""

    name, encrypted, options = "ebscrypt plain", False, ("--no-encrypted",)


class Spawned(Server):
    """A peer that is one command with a socket."""

    def prepare(self) -> None:
        self.file = self.directory / "disk"
        self._format()

    def _format(self) -> None:
        with self.file.open("wb") as file:
            file.truncate(self.size)

    @abstractmethod
    def command(self, socket: Path) -> list[str]: ...

    @contextmanager
    def serving(self) -> Iterator[Served]:
        socket = self.directory / "sock"
        socket.unlink(missing_ok=True)
        with subprocess.Popen(self.command(socket)) as process:
            try:
                deadline = time.monotonic() + START_TIMEOUT
                while not _answers(socket):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"bench: {self.name} did not start: {' '.join(self.command(socket))}")
                    time.sleep(0.01)
                yield Served(f"nbd+unix:///?socket={socket}", (process.pid,))
            finally:
                process.terminate()


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    uri = f"nbd+unix:///?socket={socket}"
    return subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode == 0


class Nbdkit(Spawned):
    name, encrypted = "nbdkit file", False
    threads: ClassVar[tuple[str, ...]] = ()

    def command(self, socket: Path) -> list[str]:
        return ["nbdkit", "-f", *self.threads, "-U", str(socket), "file", str(self.file)]


class NbdkitOneThread(Nbdkit):
    name, threads = "nbdkit file -t 1", ("-t", "1")


class _Luks1(Spawned):
    """The LUKS1 file that nbdkit and qemu read; made by qemu-img with its quickest key derivation."""

    encrypted = True

    def _format(self) -> None:
        secret = f"secret,id=s,data={PASSPHRASE}"
        command = ["qemu-img", "create", "-q", "-f", "luks", "--object", secret, "-o", "key-secret=s,iter-time=10"]
        for last in (False,) * 9 + (True,):
            # On a busy machine its key derivation often finds no "accurate CPU usage", and gives up.
            if subprocess.run([*command, str(self.file), str(self.size)], check=last).returncode == 0:
                return


class NbdkitLuks(_Luks1):
    name = "nbdkit luks"
    threads: ClassVar[tuple[str, ...]] = ()

    def command(self, socket: Path) -> list[str]:
        luks = ["--filter=luks", "file", str(self.file), f"passphrase={PASSPHRASE}"]
        return ["nbdkit", "-f", *self.threads, "-U", str(socket), *luks]


class NbdkitLuksOneThread(NbdkitLuks):
    name, threads = "nbdkit luks -t 1", ("-t", "1")


class QemuLuks(_Luks1):
    name = "qemu-nbd luks"

    def command(self, socket: Path) -> list[str]:
        options = f"driver=luks,key-secret=s,file.filename={self.file}"
        secret = f"secret,id=s,data={PASSPHRASE}"
        return ["qemu-nbd", "-t", "-e", "16", "-k", str(socket), "--object", secret, "--image-opts", options]


class QemuLuksDirect(QemuLuks):
    name, direct = "qemu-nbd luks O_DIRECT", True

    def command(self, socket: Path) -> list[str]:
        return [word.replace("driver=luks,", "driver=luks,cache.direct=on,") for word in super().command(socket)]


def run(directory: Path, *arguments: str, cache: str = "writeback") -> str:
    """What an `ebscrypt` command prints, with its state under ``directory``."""
    environ = os.environ | {
        "EBSCRYPT_STATE_DIR": str(directory / "state"),
        "EBSCRYPT_RUNTIME_DIR": str(directory / "run"),
        "EBSCRYPT_KMS": "embedded",
        "EBSCRYPT_ATTACH_CACHE": cache,
    }
    return subprocess.run(
        [sys.executable, "-m", "ebscrypt.cli.main", *arguments],
        env=environ,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout


NBD: tuple[type[Server], ...] = (
    Ebscrypt,
    EbscryptPlain,
    Nbdkit,
    NbdkitOneThread,
    NbdkitLuks,
    NbdkitLuksOneThread,
    QemuLuks,
)
DIRECT: tuple[type[Server], ...] = (EbscryptDirect, QemuLuksDirect)

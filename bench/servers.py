"""The servers compared: each gives an NBD socket over a file of its own, and the process whose CPU time counts."""

import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

PASSPHRASE = "bench"
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Served:
    """A running server: how fio reaches it, and the process to watch."""

    uri: str
    pid: int


class Server(ABC):
    """One way to serve a file. ``prepare`` is not measured and runs once."""

    name: ClassVar[str]
    encrypted: ClassVar[bool]

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

    name, encrypted = "ebscrypt", True
    options: ClassVar[tuple[str, ...]] = ()

    def prepare(self) -> None:
        self.volume = self._run("create", "--size", f"{self.size}B", *self.options).strip()

    @contextmanager
    def serving(self) -> Iterator[Served]:
        uri = self._run("attach", "--export", "socket", self.volume).strip()
        try:
            record = json.loads((self.directory / "run" / self.volume / "attachment.json").read_text())
            yield Served(uri, record["pid"])
        finally:
            self._run("detach", self.volume)

    def _run(self, *arguments: str) -> str:
        environ = os.environ | {
            "EBSCRYPT_STATE_DIR": str(self.directory / "state"),
            "EBSCRYPT_RUNTIME_DIR": str(self.directory / "run"),
            "EBSCRYPT_KMS": "embedded",
        }
        return subprocess.run(
            ["ebscrypt", *arguments], env=environ, check=True, text=True, stdout=subprocess.PIPE
        ).stdout


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
                yield Served(f"nbd+unix:///?socket={socket}", process.pid)
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
        subprocess.run([*command, str(self.file), str(self.size)], check=True)


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


ALL: tuple[type[Server], ...] = (
    Ebscrypt,
    EbscryptPlain,
    Nbdkit,
    NbdkitOneThread,
    NbdkitLuks,
    NbdkitLuksOneThread,
    QemuLuks,
)

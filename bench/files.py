"""The peers that show one plaintext file through FUSE."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.servers import PASSPHRASE, START_TIMEOUT, EbscryptFuse, EbscryptLoop, NbdkitLuks, Served, Server


class Gocryptfs(Server):
    """A directory of encrypted files; the load uses one file in it."""

    name, encrypted = "gocryptfs", True

    def prepare(self) -> None:
        self.cipher, self.mount = self.directory / "cipher", self.directory / "mount"
        for folder in (self.cipher, self.mount):
            folder.mkdir()
        self._gocryptfs("-init", "-scryptn", "10", str(self.cipher))

    @contextmanager
    def serving(self) -> Iterator[Served]:
        command = ["gocryptfs", "-q", "-fg", "-extpass", f"echo {PASSPHRASE}", str(self.cipher), str(self.mount)]
        with subprocess.Popen(command) as process:
            try:
                _await(self.mount.is_mount, process)
                file = self.mount / "disk"
                with file.open("wb") as made:
                    made.truncate(self.size)
                yield Served(str(file), (process.pid,))
            finally:
                subprocess.run(["fusermount3", "-u", str(self.mount)], check=False)

    def _gocryptfs(self, *arguments: str) -> None:
        subprocess.run(["gocryptfs", "-q", "-extpass", f"echo {PASSPHRASE}", *arguments], check=True)


class NbdfuseLuks(NbdkitLuks):
    """nbdkit's luks filter, and nbdfuse that shows it as a file: two processes, both of which count."""

    name = "nbdfuse over nbdkit luks"

    @contextmanager
    def serving(self) -> Iterator[Served]:
        mount = self.directory / "mount"
        mount.mkdir(exist_ok=True)
        with super().serving() as served, subprocess.Popen(["nbdfuse", str(mount), served.target]) as process:
            try:
                _await(mount.is_mount, process)
                yield Served(str(mount / "nbd"), (*served.pids, process.pid))
            finally:
                subprocess.run(["fusermount3", "-u", str(mount)], check=False)


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"bench: {process.args!r} did not start")
        time.sleep(0.01)


ALL: tuple[type[Server], ...] = (EbscryptFuse, EbscryptLoop, Gocryptfs, NbdfuseLuks)

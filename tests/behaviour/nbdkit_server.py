"""A volume and an nbdkit that serves it through the plugin."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebscrypt import config, luks2
from ebscrypt.catalog.catalog import Catalog
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import MIB

TREE = Path(__file__).parents[2]
PLUGIN = TREE / "plugins" / "ebscrypt.py"
SIZE = 32 * MIB
SECTOR = 4096
BOTH_WAYS = pytest.mark.parametrize("by", ["volume", "backing"])


class Volume:
    """An encrypted volume in a state directory of its own, with the environment in which it is found."""

    def __init__(self, state: Path, *, customer_key: bool = False) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EBSCRYPT_", "AWS_"))}
        packages = sysconfig.get_path("purelib")
        self.environment = kept | {"EBSCRYPT_STATE_DIR": str(state), "PYTHONPATH": f"{TREE}:{packages}"}
        self.settings = config.load(self.environment)
        create = [sys.executable, "-m", "ebscrypt.cli.main", "create", "--size", str(SIZE)]
        if customer_key:
            create += ["--kms-key-id", self.kms().call("CreateKey")["KeyMetadata"]["Arn"]]
        self.volume_id = self.run(*create).strip()
        with Catalog(self.settings.catalog_path) as catalog:
            self.backing = Path(catalog.volume(self.volume_id).backing)

    def run(self, *command: str | Path, status: int = 0, timeout: float = 60) -> str:
        """The output of a command, both streams; it must end with ``status``."""
        result = subprocess.run(
            [*map(str, command)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        output = result.stdout.decode()
        assert result.returncode == status, (command, output)
        return output

    def parameter(self, by: str) -> str:
        """How the plugin is told of this volume."""
        return f"volume={self.volume_id}" if by == "volume" else f"backing={self.backing}"

    def captive(self, client: str, *options: str, parameters: tuple[str, ...] | None = None, status: int = 0) -> str:
        """What a shell command prints with ``$uri`` served by nbdkit, which forks for it."""
        given = (self.parameter("backing"),) if parameters is None else parameters
        with short_folder() as folder:
            return self.run(
                "nbdkit", "--unix", folder / "s", *options, "python", PLUGIN, *given, "--run", client, status=status
            )

    @contextlib.contextmanager
    def served(self, *options: str, parameters: tuple[str, ...] = ()) -> Iterator[Server]:
        """A server in the foreground, without a fork; ``parameters`` are the filter's."""
        with short_folder() as folder:
            command = ["nbdkit", "--foreground", "--unix", f"{folder}/s", "--pidfile", f"{folder}/pid", *options]
            command += ["python", f"{PLUGIN}", self.parameter("backing"), *parameters]
            with subprocess.Popen(command, env=self.environment) as process:
                try:
                    until(lambda: (folder / "pid").exists() or process.poll() is not None)
                    assert process.poll() is None
                    yield Server(self, process.pid, f"nbd+unix:///?socket={folder / 's'}")
                    process.terminate()
                    assert process.wait(30) == 0
                finally:
                    process.kill()

    def kms(self) -> KmsClient:
        return KmsClient(self.settings)

    def key(self) -> bytes:
        """The plaintext data key, as KMS gives it to the owner."""
        token = self.header().token()
        return self.kms().decrypt(token.wrapped_key, token.encryption_context).plaintext

    def header(self) -> luks2.Header:
        with self.backing.open("rb", buffering=0) as file:
            return luks2.read_header(file.fileno()).header


class Server:
    """A running nbdkit."""

    def __init__(self, volume: Volume, pid: int, uri: str) -> None:
        self.volume = volume
        self.pid = pid
        self.uri = uri

    def run(self, *command: str | Path, status: int = 0) -> str:
        return self.volume.run(*command, status=status)

    def qemu_io(self, *commands: str, status: int = 0) -> str:
        return self.run(
            "qemu-io",
            "-t",
            "writeback",
            "-f",
            "raw",
            *[word for each in commands for word in ("-c", each)],
            self.uri,
            status=status,
        )

    def map(self) -> list[tuple[int, int, str]]:
        """The extents as nbdinfo tells them: offset, length, description; neighbours in one state joined."""
        joined: list[tuple[int, int, str]] = []
        for each in json.loads(self.run("nbdinfo", "--map", "--json", self.uri)):
            if joined and joined[-1][2] == each["description"]:
                offset, length, what = joined.pop()
                joined.append((offset, length + each["length"], what))
            else:
                joined.append((each["offset"], each["length"], each["description"]))
        return joined


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for a Unix socket, whose path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ebs", dir="/tmp") as folder:
        yield Path(folder)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute in vain"
        time.sleep(0.01)

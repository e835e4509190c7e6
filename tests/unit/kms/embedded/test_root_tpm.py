"""The root key sealed by a TPM: one in software (swtpm), by the real `systemd-creds`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError
from ebscrypt.kms.embedded import root_change, root_key
from ebscrypt.kms.embedded.root_change import Sealing
from tests.unit.kms.embedded.changing import names, opens


class Tpm:
    """A TPM in software, on a socket. It has no resource manager, so it is started afresh for each use, state kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "tpm"

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Switched on, meanwhile."""
        paths = [f"--server=type=unixio,path={self.socket}", f"--ctrl=type=unixio,path={self.socket}.ctrl"]
        command = ["swtpm", "socket", "--tpm2", f"--tpmstate=dir={self.directory}", *paths]
        with subprocess.Popen(
            [*command, "--flags=not-need-init,startup-clear"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                self._wait()
                yield
                self._shut_down()
            finally:
                process.terminate()

    def _shut_down(self) -> None:
        """TPM2_Shutdown(CLEAR), as an operating system says it: a TPM that just loses power suspects an attack."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.socket))
            link.sendall(bytes.fromhex("8001 0000000c 00000145 0000"))
            assert link.recv(64).hex() == "80010000000a00000000"

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(f"{self.socket}.ctrl")
                except OSError:
                    assert time.monotonic() < deadline, "swtpm does not come up"
                    time.sleep(0.01)
                else:
                    return


@pytest.fixture
def new_tpm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Tpm]]:
    """Makes TPMs, of which the last one is this machine's."""
    made: list[Path] = []

    def make() -> Tpm:
        made.append(Path(tempfile.mkdtemp(prefix="ec-", dir="/tmp")))
        tpm = Tpm(made[-1])
        monkeypatch.setenv("SYSTEMD_TPM2_DEVICE", f"swtpm:path={tpm.socket}")
        return tpm

    yield make
    for directory in made:
        shutil.rmtree(directory)


@pytest.mark.parametrize("with_key", ["tpm2", "host+tpm2"])
def test_sealed_with_a_tpm(with_key: str, used: tuple[Settings, bytes], new_tpm: Callable[[], Tpm]) -> None:
    """Sealed by a TPM it opens with that TPM only; rotated it is sealed by the same keys; unsealed it needs none."""
    settings, blob = used
    tpm = new_tpm()

    with tpm.on():
        root_change.seal(settings, Sealing(with_key=with_key))
    assert root_key.places(settings) == [root_key.sealed_place(settings)]
    with tpm.on():
        assert opens(settings, blob)
    with tpm.on():
        root_change.rotate(settings)
    with tpm.on():
        assert root_change.status(settings).sealed_with == with_key
    with new_tpm().on(), pytest.raises(ConfigError, match="cannot open the sealed root key") as caught:
        opens(settings, blob)
    assert "kms import" in str(caught.value.hint)
    os.environ["SYSTEMD_TPM2_DEVICE"] = f"swtpm:path={tpm.socket}"
    with tpm.on():
        root_change.unseal(settings)
    assert opens(settings, blob)
    assert names(settings) == {"README", "root.key", "keys.db"}


def test_without_its_tpm_a_root_key_put_back_opens_the_store(
    used: tuple[Settings, bytes], new_tpm: Callable[[], Tpm]
) -> None:
    """When the TPM is gone, the file in clear from a backup is enough, with the credential still there."""
    settings, blob = used
    saved = (settings.kms_dir / "root.key").read_bytes()
    tpm = new_tpm()
    with tpm.on():
        root_change.seal(settings, Sealing(with_key="tpm2"))

    (settings.kms_dir / "root.key").touch(0o600)
    (settings.kms_dir / "root.key").write_bytes(saved)

    assert opens(settings, blob)

"""What the nbdkit plugin does before it serves: settings, header, key, lock; and how it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.model import MIB
from tests import keyscan
from tests.behaviour.nbdkit_server import PLUGIN, Volume, short_folder, until


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """A new volume of 32 MiB that was never attached."""
    return Volume(tmp_path / "state")


@pytest.fixture(scope="module")
def untouched_volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """The same for tests in which nothing is served."""
    return Volume(tmp_path_factory.mktemp("untouched") / "state")


def test_the_first_start_seals_the_header_and_each_later_one_checks_it(volume: Volume) -> None:
    """Like an attachment: the digest is put in once, and a volume whose key does not match it is not served."""
    assert not volume.header().token().sealed
    volume.captive("true")
    sealed = volume.header()
    assert sealed.token().sealed
    volume.captive("true")
    assert volume.header() == sealed

    digest = sealed.metadata["digests"]["0"]
    forged = sealed.metadata["digests"] | {"0": digest | {"salt": digest["digest"]}}
    write_header(volume.backing, sealed, metadata=sealed.metadata | {"digests": forged})
    output = volume.captive("true", status=1)

    assert "data key" in output
    assert "corrupted or tampered with" in output


def write_header(backing: Path, header: luks2.Header, **changes: object) -> None:
    with backing.open("r+b", buffering=0) as file:
        luks2.write_header(file.fileno(), msgspec.structs.replace(header, **changes))


def test_a_damaged_header_copy_is_mended_and_said(volume: Volume) -> None:
    """What an attachment would tell the user, nbdkit prints."""
    with volume.backing.open("r+b", buffering=0) as file:
        file.write(bytes(4096))

    output = volume.captive("true")

    assert "the first header copy is bad" in output
    assert "written again" in output
    with volume.backing.open("rb", buffering=0) as file:
        assert luks2.read_header(file.fileno()).repair is None


def test_a_key_that_kms_refuses_is_not_served_and_says_why(tmp_path: Path) -> None:
    """A disabled KMS key ends nbdkit before it forks: status 1, KMS's reason and what to do, and no client is run."""
    volume = Volume(tmp_path / "state", customer_key=True)
    volume.kms().call("DisableKey", KeyId=volume.header().token().kms_key_arn)

    output = volume.captive("echo served", status=1)

    assert "served" not in output
    assert "is disabled" in output
    assert "hint: " in output


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ((), "say which volume"),
        (("volume=vol-1",), "is not a volume id"),
        (("volume=vol-00000000000000000",), "does not exist"),
        (("volume=vol-00000000000000000", "backing=BACKING"), "not of vol-00000000000000000"),
        (("backing=/nonexistent",), "No such file or directory"),
        (("backing=/dev/null",), "no sound LUKS2 header"),
        (("backing=BACKING", "backing=BACKING"), "given twice"),
        (("backing=BACKING", "read_only=maybe"), "neither true nor false"),
        (("backing=BACKING", "colour=red"), "no parameter 'colour'"),
    ],
)
def test_parameters_that_make_no_sense_are_told(
    untouched_volume: Volume, parameters: tuple[str, ...], why: str
) -> None:
    """The server ends with status 1 and the reason before it serves anything."""
    given = [each.replace("BACKING", str(untouched_volume.backing)) for each in parameters]

    output = untouched_volume.captive("echo served", parameters=tuple(given), status=1)

    assert why in output
    assert "served" not in output


def test_a_volume_is_served_once(volume: Volume) -> None:
    """The lock on the backing keeps a second nbdkit away, and goes with the first."""
    with volume.served():
        assert "is in use by another process" in volume.captive("true", status=1)
    volume.captive("true")


def test_a_backing_that_may_only_be_read_is_left_as_it_is(volume: Volume) -> None:
    """With read_only=true not even the header is sealed; and what that costs is said."""
    before = volume.backing.read_bytes()

    output = volume.captive(
        'qemu-io -r -f raw -c "read -P 0 0 4k" "$uri"', parameters=(volume.parameter("backing"), "read_only=true")
    )

    assert "not sealed yet" in output
    assert volume.backing.read_bytes() == before


def test_a_daemonised_server_ends_on_a_signal_with_all_written(volume: Volume, tmp_path: Path) -> None:
    """A server in the background forks as well; SIGTERM ends it, and what was flushed is on the backing."""
    pidfile = tmp_path / "pid"
    with short_folder() as folder:
        volume.run("nbdkit", "-U", folder / "s", "-P", pidfile, "python", PLUGIN, volume.parameter("backing"))
        until(lambda: pidfile.exists() and pidfile.read_text().endswith("\n"))
        pid = int(pidfile.read_text())
        try:
            uri = f"nbd+unix:///?socket={folder / 's'}"
            volume.run("qemu-io", "-f", "raw", "-c", "write -P 9 4k 4k", "-c", "flush", uri)
        finally:
            os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}/exe").exists())
    volume.captive('qemu-io -f raw -c "read -P 9 4k 4k" "$uri"')


def test_a_backing_needs_no_catalog(volume: Volume, tmp_path: Path) -> None:
    """Named by its backing, the volume is served without SQLAlchemy, and with the catalog gone."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sqlalchemy.py").write_text("raise RuntimeError('imported')")
    volume.environment["PYTHONPATH"] = f"{broken}:{volume.environment['PYTHONPATH']}"
    assert "imported" in volume.captive("true", parameters=(volume.parameter("volume"),), status=1)
    volume.settings.catalog_path.unlink()

    volume.captive('nbdinfo "$uri"')


def test_the_server_has_no_key_in_its_memory(volume: Volume) -> None:
    """Root reads all of nbdkit's memory while it serves: neither the data key nor any round key is there."""
    key = volume.key()
    with volume.served() as server:
        server.qemu_io("write -P 0x5a 0 8M", "flush", "read -P 0x5a 0 8M")
        scan = keyscan.scan_process(server.pid, key)

    assert scan.hits == []
    assert scan.scanned > 10 * MIB
    assert any("secretmem" in where for where in scan.unreadable)

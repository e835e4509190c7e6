"""The nbdkit plugin, by the clients that people use: nbdinfo, nbdcopy, qemu-io, and nbdkit's own filters."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from ebscrypt.luks2 import DATA_OFFSET
from ebscrypt.model import KIB, MIB
from tests.behaviour.nbdkit_server import SECTOR, SIZE, Volume


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """A new volume of 32 MiB that was never attached."""
    return Volume(tmp_path / "state")


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A file of the volume's size: random bytes with a hole in the middle."""
    path = tmp_path / "content"
    source = random.Random(0)  # noqa: S311 - reproducible, not secret
    with path.open("wb") as file:
        file.write(source.randbytes(12 * MIB))
        file.seek(20 * MIB)
        file.write(source.randbytes(12 * MIB))
    return path


@pytest.mark.parametrize("by", ["volume", "backing"])
def test_nbdinfo_sees_the_whole_device(volume: Volume, by: str) -> None:
    """Size, block sizes and every capability, whether the volume is named by id or by its backing."""
    output = volume.captive('nbdinfo --json "$uri"', parameters=(volume.parameter(by),))

    (export,) = json.loads(output[output.index("{") :])["exports"]
    assert export["export-size"] == SIZE
    assert export["block_size_minimum"] == 1
    assert export["block_size_preferred"] == SECTOR
    assert export["block_size_maximum"] == 32 * MIB
    assert export["is_read_only"] is False
    for can in ("can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_fast_zero", "can_df"):
        assert export[can] is True


def test_what_nbdcopy_writes_it_reads_and_the_backing_holds_only_ciphertext(
    volume: Volume, content: Path, tmp_path: Path
) -> None:
    """A round trip over several connections; each stored sector is what `cryptography` computes, holes stay holes."""
    back = tmp_path / "back"
    with volume.served() as server:
        server.run("nbdcopy", "--connections=4", "--flush", content, server.uri)
        server.run("nbdcopy", "--connections=4", server.uri, back)
        assert [what for *_, what in server.map()] == ["data", "hole,zero", "data"]

    plaintext, stored = content.read_bytes(), volume.backing.read_bytes()[DATA_OFFSET:]
    assert back.read_bytes() == plaintext
    key = volume.key()
    for offset in range(0, SIZE, SECTOR):
        sector, cleartext = stored[offset : offset + SECTOR], plaintext[offset : offset + SECTOR]
        if cleartext.strip(b"\0"):
            tweak = (offset // 512).to_bytes(16, "little")
            encryptor = Cipher(AES(key), XTS(tweak)).encryptor()
            assert sector == encryptor.update(cleartext)
        else:
            assert sector == bytes(SECTOR)


def test_fua_zero_trim_and_unaligned_requests(volume: Volume) -> None:
    """Each does what it says through the plugin, and what was trimmed or zeroed is a hole of the backing."""
    with volume.served() as server:
        server.qemu_io(
            "write -f -P 0xa1 0 1M",
            "write -P 0xb2 1000 333",
            "write -z -u 256k 256k",
            "discard 512k 256k",
            "write -z 768k 4k",
            "flush",
            "read -P 0xa1 0 1000",
            "read -P 0xb2 1000 333",
            "read -P 0xa1 1333 1k",
            "read -P 0 256k 512k",
            "read -P 0 768k 4k",
            "read -P 0xa1 772k 252k",
        )
        holes = [(offset, length) for offset, length, what in server.map() if "hole" in what]
        output = server.qemu_io("read -P 0xff 0 4k", status=1)

    assert "Pattern verification failed" in output
    assert holes == [(256 * KIB, 512 * KIB), (1 * MIB, SIZE - 1 * MIB)]


def test_a_filter_in_front(volume: Volume, content: Path, tmp_path: Path) -> None:
    """The cow filter lets a client write what the volume never sees."""
    before, changed = tmp_path / "before", tmp_path / "changed"
    with volume.served() as server:
        server.run("nbdcopy", "--flush", content, server.uri)
    stored = volume.backing.read_bytes()

    with volume.served("--filter=cow") as server:
        server.run("nbdcopy", server.uri, before)
        server.qemu_io("write -P 0xcc 4k 64k", "flush", "read -P 0xcc 4k 64k")
        server.run("nbdcopy", server.uri, changed)

    plaintext = content.read_bytes()
    assert before.read_bytes() == plaintext
    assert changed.read_bytes() == plaintext[: 4 * KIB] + b"\xcc" * (64 * KIB) + plaintext[68 * KIB :]
    assert volume.backing.read_bytes() == stored


def test_a_filters_error_reaches_the_client_and_nothing_is_written(volume: Volume) -> None:
    """The error filter above the plugin: the client gets the errno, the volume stays as it was."""
    with volume.served("--filter=error", parameters=("error-pwrite=ENOSPC", "error-pwrite-rate=100%")) as server:
        assert "No space left on device" in server.qemu_io("write -P 1 0 4k", status=1)
        server.qemu_io("read -P 0 0 4k")


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "ebscrypt-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_the_cores_errno_reaches_the_client(small_file_system: Path) -> None:
    """A backing whose file system is full gives ENOSPC, not EIO, and the server goes on."""
    volume = Volume(small_file_system / "state")
    with volume.served() as server:
        server.qemu_io("write -P 1 0 4k")
        assert "No space left on device" in server.qemu_io("write -P 1 8M 8M", status=1)
        server.qemu_io("read -P 1 0 4k", "discard 8M 8M", "write -P 2 8M 4k", "read -P 2 8M 4k")


@pytest.mark.parametrize(("options", "parameter"), [(("--readonly",), ()), ((), ("read_only=true",))])
def test_a_read_only_server_takes_no_writes(
    volume: Volume, options: tuple[str, ...], parameter: tuple[str, ...]
) -> None:
    """By nbdkit's own -r or by our parameter: reads work, writes are refused."""
    volume.captive('qemu-io -f raw -c "write -P 7 0 4k" "$uri"')
    parameters = (volume.parameter("backing"), *parameter)

    volume.captive('qemu-io -r -f raw -c "read -P 7 0 4k" "$uri"', *options, parameters=parameters)
    volume.captive('qemu-io -f raw -c "write -P 8 0 4k" "$uri"', *options, parameters=parameters, status=1)

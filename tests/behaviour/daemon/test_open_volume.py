"""`open_volume` as the nbdkit plugin uses it: in a process that is no daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.daemon.volume import PLAIN_BLOCK_SIZE, open_volume
from ebscrypt.errors import BackingInUse, InvalidParameter, KeyMismatch, OutOfSpace
from ebscrypt.model import KIB, MIB
from tests.behaviour.daemon.bench import SOURCE, Bench


@pytest.fixture(autouse=True)
def settings_of_the_bench(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unwrap process reads its settings from this process's environment."""
    for name, value in bench.environ.items():
        if name.startswith("EBSCRYPT_"):
            monkeypatch.setenv(name, value)


def test_it_needs_neither_event_loop_nor_boto3() -> None:
    """A process that opens a volume carries no event loop, no AWS client and no catalog for it."""
    program = "import sys, ebscrypt.daemon.volume; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    environ = os.environ | {"PYTHONPATH": str(SOURCE)}
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environ
    ).stdout
    assert "'msgspec'" in loaded
    assert not [
        name for name in ("trio", "boto3", "botocore", "sqlalchemy", "pyfuse3", "asyncio") if f"'{name}'" in loaded
    ]


def test_bytes_come_back(bench: Bench) -> None:
    """What is written through one opening is read through the next, and holes are zeros."""
    spec = bench.volume(8 * MIB)
    notes: list[str] = []
    with open_volume(spec, bench.settings, notes) as volume:
        assert volume.block_size == 4096
        assert volume.key is None, "nobody asked to keep the raw key"
        assert volume.key_memory == "memfd_secret"
        volume.device.pwrite(b"secret" * 1000, 12_345, fua=True)
    with open_volume(spec, bench.settings, notes) as volume:
        assert volume.device.pread(6000, 12_345) == b"secret" * 1000
        assert volume.device.pread(4096, 1 * MIB) == bytes(4096)
    assert b"secretsecret" not in Path(spec.backing).read_bytes()


def test_second_opening_is_refused(bench: Bench) -> None:
    """An open volume's backing is locked, in the same process too; closing frees it."""
    spec = bench.volume(8 * MIB)
    with open_volume(spec, bench.settings, []), pytest.raises(BackingInUse, match=spec.backing):
        open_volume(spec, bench.settings, [])
    open_volume(spec, bench.settings, []).close()


def test_closing_twice(bench: Bench) -> None:
    """Closing is idempotent, and leaves no descriptor behind."""
    spec = bench.volume(8 * MIB)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    volume = open_volume(spec, bench.settings, [])
    volume.close()
    volume.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("encrypted", [True, False])
def test_growth(bench: Bench, encrypted: bool) -> None:  # noqa: FBT001
    """The backing is made longer, the header and the device follow, and what was there stays."""
    spec = bench.volume(8 * MIB, encrypted=encrypted)
    offset = 16 * MIB if encrypted else 0
    with open_volume(spec, bench.settings, []) as volume:
        volume.device.pwrite(b"x" * 512, 0)
        volume.grow(24 * MIB)
        volume.device.pwrite(b"y" * 512, 24 * MIB - 512)
        assert volume.device.pread(512, 0) == b"x" * 512
        volume.grow(24 * MIB)
        with pytest.raises(InvalidParameter, match="cannot shrink"):
            volume.grow(8 * MIB)
        with pytest.raises(InvalidParameter, match="not a multiple"):
            volume.grow(24 * MIB + 100)
        assert volume.device.size == 24 * MIB
    assert Path(spec.backing).stat().st_size == offset + 24 * MIB
    with open_volume(bench.again(spec, size=24 * MIB), bench.settings, []) as volume:
        assert volume.device.pread(512, 24 * MIB - 512) == b"y" * 512


def test_growth_beyond_what_a_file_may_have(bench: Bench, tmp_path: Path) -> None:
    """A file system's limit is told as a lack of space, and the volume keeps its size."""
    spec = bench.volume(8 * MIB)
    with open_volume(spec, bench.settings, []) as volume:
        largest = limit(tmp_path)
        if largest is not None:
            with pytest.raises(OutOfSpace, match="cannot extend"):
                volume.grow(largest)
        assert volume.device.size == 8 * MIB
        assert bench.read_header(spec).segment().size == 8 * MIB


def limit(where: Path) -> int | None:
    """A size over the file system's limit for files that a volume may still have, if there is one."""
    probe = where / "probe"
    probe.touch()
    for size in (1 << 44, 1 << 45, 1 << 46):
        try:
            os.truncate(probe, size)
        except OSError:
            return size
    return None


def test_plain_volume(bench: Bench) -> None:
    """A plain volume needs neither header nor KMS."""
    spec = bench.volume(64 * KIB, encrypted=False)
    with open_volume(spec, bench.settings, []) as volume:
        assert volume.block_size == PLAIN_BLOCK_SIZE
        assert volume.key_memory is None
        volume.device.pwrite(b"p" * 512, 512)
        volume.device.flush()
    assert Path(spec.backing).read_bytes()[512:1024] == b"p" * 512


def test_a_context_that_is_not_the_volumes_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """KMS is not asked: under a grant it would refuse that as access denied, and say nothing of the header."""
    spec = bench.volume(8 * MIB)
    header = bench.read_header(spec)
    token = msgspec.structs.replace(header.token(), encryption_context={"aws:ebs:id": "vol-00000000000000000"})
    with Path(spec.backing).open("r+b") as backing:
        luks2.write_header(backing.fileno(), header.with_token(token))
    asked: list[object] = []
    monkeypatch.setattr("ebscrypt.daemon.volume_key.unwrap_key", lambda *_, **__: asked.append(None))

    with pytest.raises(KeyMismatch, match="encryption context in the header"):
        open_volume(spec, bench.settings, [])

    assert asked == []

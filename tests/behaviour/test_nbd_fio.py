"""fio's NBD engine with checksums in every block: what was written is what is read, whatever comes in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nbd_volume import KIB, MIB, ServedVolume, run, served

SIZE = 192 * MIB
VERIFY = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1")


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def volume(request: pytest.FixtureRequest) -> Iterator[ServedVolume]:
    """A volume of 192 MiB."""
    with served(SIZE, encrypted=request.param) as volume:
        yield volume


def fio(volume: ServedVolume, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run jobs on the volume; what they say, once none has failed."""
    report = folder / "report.json"
    run(
        *("fio", "--ioengine=nbd", f"--uri={volume.uri}", f"--output={report}", "--output-format=json"),
        *("--randrepeat=1", f"--aux-path={folder}", *arguments),
    )
    text = report.read_text()
    # The engine greets on the output, before the JSON begins.
    jobs: list[dict[str, Any]] = json.loads(text[text.index("{") :])["jobs"]
    assert all(job["error"] == 0 for job in jobs)
    return jobs


def test_random_writes_of_mixed_sizes(volume: ServedVolume, tmp_path: Path) -> None:
    """Blocks from 512 bytes to 1 MiB at random places, thirty-two at a time, read back while writing goes on."""
    (job,) = fio(
        *(volume, tmp_path, "--name=mixed", "--rw=randwrite", "--bsrange=512-1m", "--bs_unaligned=0", "--size=128m"),
        *(*VERIFY, "--iodepth=32", "--verify_backlog=100", "--fsync=200"),
    )
    assert job["write"]["io_bytes"] == 128 * MIB
    # Every written block is read once for its checksum, but those that later blocks cover.
    assert job["read"]["total_ios"] > job["write"]["total_ios"] // 2
    assert volume.operations("flush") > 0


def test_unaligned_blocks(volume: ServedVolume, tmp_path: Path) -> None:
    """Blocks that end in the middle of sectors, so that neighbours share them, several at a time."""
    (job,) = fio(
        *(volume, tmp_path, "--name=odd", "--rw=randwrite", "--bs=3584", "--size=16m", *VERIFY),
        "--iodepth=16",
    )
    assert job["write"]["io_bytes"] > 15 * MIB


def test_writes_among_trims(volume: ServedVolume, tmp_path: Path) -> None:
    """Every block is trimmed before it is written, others are trimmed beside it, and all writes are there after."""
    jobs = fio(
        *(volume, tmp_path, "--bs=16k", "--iodepth=16", "--size=64m"),
        *("--name=written", "--rw=randtrimwrite", *VERIFY, "--name=trimmed", "--rw=randtrim", "--offset=64m"),
    )
    assert [job["trim"]["total_ios"] for job in jobs] == [64 * MIB // (16 * KIB)] * 2
    assert jobs[0]["write"]["io_bytes"] == jobs[0]["read"]["io_bytes"] == 64 * MIB
    assert volume.operations("discard") == 2 * 64 * MIB // (16 * KIB)


def test_many_connections(volume: ServedVolume, tmp_path: Path) -> None:
    """Eight jobs, each with its connection and its part of the volume, at the same time."""
    jobs = fio(
        *(volume, tmp_path, "--name=many", "--numjobs=8", "--size=16m", "--offset_increment=16m", "--rw=randrw"),
        *("--bsrange=4k-256k", *VERIFY, "--iodepth=8", "--serialize_overlap=1"),
    )
    assert len(jobs) == 8
    assert all(job["write"]["io_bytes"] > 0 for job in jobs)


def test_written_by_one_run_verified_by_the_next(volume: ServedVolume, tmp_path: Path) -> None:
    """What one run of fio wrote, over connections long closed, another verifies."""
    common = ("--name=twice", "--rw=write", "--bs=128k", f"--size={100 * MIB}", "--verify=crc32c", "--iodepth=4")
    fio(volume, tmp_path, *common, "--do_verify=0", "--end_fsync=1")
    (job,) = fio(volume, tmp_path, *common, "--verify_only")
    assert job["read"]["total_ios"] == 100 * MIB // (128 * KIB)


def test_a_wrong_byte_is_found(volume: ServedVolume, tmp_path: Path) -> None:
    """The verification is able to fail: one changed byte is enough."""
    common = ("--name=bad", "--rw=write", "--bs=4k", "--size=1m", "--verify=crc32c", "--iodepth=4")
    fio(volume, tmp_path, *common, "--do_verify=0")
    volume.device.pwrite(b"\0", 512 * KIB + 2000)
    with pytest.raises(AssertionError, match="verify"):
        fio(volume, tmp_path, *common, "--verify_only", "--verify_fatal=1")

"""The FUSE export with a loop device: a real block device on a kernel without nbd, under real file systems."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ebscrypt.daemon.exports import flush, grow, is_gone, loop, mount, teardown
from ebscrypt.errors import DaemonError, VolumeInUse
from ebscrypt.model import MIB, CacheMode, ExportKind
from tests.behaviour.daemon.bench import Bench, Daemon, mounted, run, wait_until

FUSE = ExportKind.FUSE
FILE_SYSTEMS = {
    "ext4": ("mkfs.ext4 -q", "e2fsck -f -n"),
    "xfs": ("mkfs.xfs -q", "xfs_repair -n"),
    "btrfs": ("mkfs.btrfs -q", "btrfs check"),
}


def fill(where: Path, count: int = 24) -> dict[str, str]:
    """Files of many sizes, durable; their checksums."""
    sums = {}
    for number in range(count):
        data = os.urandom(number * 37_003 + 1)
        with (where / f"file-{number}").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sums[f"file-{number}"] = hashlib.sha256(data).hexdigest()
    return sums


def checksums(where: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in where.glob("file-*")}


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_file_system_lives_through_a_detach(bench: Bench, tmp_path: Path, kind: str) -> None:
    """Made, mounted, filled, checked; after a detach and a second attach everything is there and still sound."""
    make, check = FILE_SYSTEMS[kind]
    spec = bench.volume(320 * MIB, export=FUSE)
    daemon = bench.start(spec)
    run(*make.split(), daemon.device)
    with mounted(daemon.device, tmp_path / "mnt") as where:
        sums = fill(where)
        if kind == "btrfs":
            assert "no errors found" in run("btrfs", "scrub", "start", "-B", where)
    run(*check.split(), daemon.device)
    flush(daemon.attachment)
    daemon.detach()

    daemon = bench.start(spec)
    with mounted(daemon.device, tmp_path / "mnt", "-o", "ro") as where:
        assert checksums(where) == sums
    run(*check.split(), daemon.device)
    daemon.detach()


@pytest.mark.parametrize(("kind", "resize"), [("xfs", "xfs_growfs"), ("btrfs", "btrfs filesystem resize max")])
def test_growth_under_a_mounted_file_system(bench: Bench, tmp_path: Path, kind: str, resize: str) -> None:
    """The device grows while mounted; the file system follows and uses the new space."""
    make, check = FILE_SYSTEMS[kind]
    daemon = bench.start(bench.volume(320 * MIB, export=FUSE))
    run(*make.split(), daemon.device)
    with mounted(daemon.device, tmp_path / "mnt") as where:
        sums = fill(where, 8)
        daemon.call("grow", size=448 * MIB)
        grow(daemon.attachment, 448 * MIB)
        assert loop.size(daemon.device) == 448 * MIB
        run(*resize.split(), where)
        assert os.statvfs(where).f_blocks * os.statvfs(where).f_frsize > 380 * MIB
        assert checksums(where) == sums
    run(*check.split(), daemon.device)
    daemon.detach()


def test_growth_of_an_unmounted_file_system(bench: Bench, tmp_path: Path) -> None:
    """The same for ext4, unmounted: growing it online needs CAP_SYS_RESOURCE, which a container's root may not have."""
    daemon = bench.start(bench.volume(64 * MIB, export=FUSE))
    run("mkfs.ext4", "-q", daemon.device)
    with mounted(daemon.device, tmp_path / "mnt") as where:
        sums = fill(where, 8)
    daemon.call("grow", size=128 * MIB)
    grow(daemon.attachment, 128 * MIB)
    run("e2fsck", "-f", "-n", daemon.device)
    run("resize2fs", daemon.device)
    with mounted(daemon.device, tmp_path / "mnt") as where:
        assert os.statvfs(where).f_blocks * os.statvfs(where).f_frsize > 100 * MIB
        assert checksums(where) == sums
    run("e2fsck", "-f", "-n", daemon.device)
    daemon.detach()


def test_fio_verifies_the_block_device(bench: Bench) -> None:
    """Asynchronous direct writes of mixed sizes read back with their checksums, many at a time."""
    daemon = bench.start(bench.volume(64 * MIB, export=FUSE))
    run(
        "fio", "--name=verify", f"--filename={daemon.device}", "--direct=1", "--ioengine=libaio", "--iodepth=16",
        "--rw=randwrite", "--bsrange=4k-512k", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
        "--verify_state_save=0",
    )  # fmt: skip
    daemon.detach()


def test_badblocks_finds_none(bench: Bench) -> None:
    """Four patterns over the whole device come back as they were written."""
    daemon = bench.start(bench.volume(16 * MIB, export=FUSE))
    assert run("badblocks", "-w", "-s", "-b", "4096", daemon.device) == ""
    daemon.detach()


@pytest.mark.parametrize(
    ("encrypted", "sector_size", "shown"), [(True, 4096, 4096), (True, 512, 512), (False, 4096, 512)]
)
def test_logical_block_size(bench: Bench, encrypted: bool, sector_size: int, shown: int) -> None:  # noqa: FBT001
    """The device has the header's sector size, as dm-crypt would show it; a plain volume that of any disk."""
    daemon = bench.start(bench.volume(32 * MIB, encrypted=encrypted, sector_size=sector_size, export=FUSE))
    queue = Path("/sys/block") / Path(daemon.device).name / "queue"
    assert int((queue / "logical_block_size").read_text()) == shown
    assert loop.uses_direct_io(daemon.device)
    daemon.detach()


def test_direct_backing(bench: Bench) -> None:
    """With O_DIRECT on the backing as well, unaligned requests and all, data comes back."""
    daemon = bench.start(bench.volume(32 * MIB, sector_size=512, export=FUSE, cache=CacheMode.NONE))
    run("fio", "--name=v", f"--filename={daemon.device}", "--direct=1", "--rw=randwrite", "--bsrange=512-64k",
        "--size=8M", "--verify=crc32c", "--verify_fatal=1",
        "--verify_state_save=0")  # fmt: skip
    daemon.detach()


def test_block_device_as_backing(bench: Bench, tmp_path: Path) -> None:
    """A volume on a block device works like one in a file, and nobody else can mount or attach what is under it."""
    under = tmp_path / "disk"
    under.touch()
    os.truncate(under, 96 * MIB)
    disk = loop.attach(under, block_size=512, read_only=False)
    try:
        daemon = bench.start(bench.volume(64 * MIB, backing=disk, export=FUSE))
        run("mkfs.ext4", "-q", daemon.device)
        with pytest.raises(OSError, match="busy"):
            os.open(disk, os.O_RDWR | os.O_EXCL)
        daemon.detach()
    finally:
        loop.detach(disk, "disk", timeout=5)


def test_read_only_device(bench: Bench) -> None:
    """A read-only attachment makes a read-only block device."""
    spec = bench.volume(32 * MIB, export=FUSE)
    bench.start(spec).detach()
    daemon = bench.start(bench.again(spec, read_only=True))
    assert run("blockdev", "--getro", daemon.device).strip() == "1"
    with Path(daemon.device).open("rb") as disk:
        assert disk.read(4096) == bytes(4096)
    wrote = subprocess.run(
        ["dd", "if=/dev/zero", f"of={daemon.device}", "bs=4k", "count=1"], capture_output=True, check=False
    )
    assert wrote.returncode != 0
    daemon.detach()


def test_users_of_the_device_hold_it(bench: Bench, tmp_path: Path) -> None:
    """While the device is mounted it can be taken from nobody: neither torn down nor shut down without force."""
    daemon = bench.start(bench.volume(32 * MIB, export=FUSE))
    run("mkfs.ext4", "-q", daemon.device)
    with mounted(daemon.device, tmp_path / "mnt") as where:
        with pytest.raises(DaemonError, match="still open"):
            teardown(daemon.attachment, timeout=0.2)
        fill(where, 3)
    wait_until(lambda: not loop.is_over(daemon.device, daemon.spec.volume_id))
    daemon.detach()


def test_open_file_holds_the_daemon(bench: Bench) -> None:
    """A program that has the file itself open is a client like any other."""
    daemon = bench.start(bench.volume(32 * MIB, export=FUSE))
    assert daemon.attachment.mountpoint is not None
    with (Path(daemon.attachment.mountpoint) / daemon.spec.volume_id).open("rb"):
        assert daemon.call("status")["connections"] == 1
        with pytest.raises(VolumeInUse, match="1 client"):
            daemon.call("shutdown")
    wait_until(lambda: daemon.call("status")["connections"] == 0)
    daemon.detach()


def test_file_behaves_like_a_device(bench: Bench) -> None:
    """Its size cannot be set, O_TRUNC changes nothing, the end is the end, and no other file is there."""
    daemon = bench.start(bench.volume(8 * MIB, export=FUSE))
    assert daemon.attachment.mountpoint is not None
    folder = Path(daemon.attachment.mountpoint)
    assert [entry.name for entry in folder.iterdir()] == [daemon.spec.volume_id]
    path = folder / daemon.spec.volume_id
    assert path.stat().st_mode & 0o777 == 0o600
    fd = os.open(path, os.O_RDWR | os.O_TRUNC)
    try:
        assert os.fstat(fd).st_size == 8 * MIB
        assert os.pwrite(fd, b"x" * 8192, 8 * MIB - 4096) == 4096, "a write over the end is cut at it"
        assert os.pread(fd, 8192, 8 * MIB - 4096) == b"x" * 4096
        assert os.pread(fd, 10, 8 * MIB) == b""
        assert failure(lambda: os.pwrite(fd, b"x", 8 * MIB)) == errno.ENOSPC
        assert failure(lambda: os.ftruncate(fd, MIB)) == errno.EINVAL
        assert failure(lambda: path.chmod(0o666)) == errno.EPERM
        assert failure((folder / "other").touch) in (errno.ENOSYS, errno.ENOENT, errno.EACCES)
        os.fsync(fd)
    finally:
        os.close(fd)
    wait_until(lambda: daemon.call("status")["connections"] == 0)
    daemon.detach()


def write_durably(path: Path) -> None:
    """A file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(b"x" * MIB)
        file.flush()
        os.fsync(file.fileno())


def failure(call: object) -> int | None:
    """The errno that a call fails with."""
    try:
        call()  # type: ignore[operator]
    except OSError as error:
        return error.errno
    return None


def test_an_unmount_from_outside_is_noticed(bench: Bench) -> None:
    """When somebody takes the export away, the daemon says that it has ended, and still ends well."""
    daemon = bench.start(bench.volume(8 * MIB, export=FUSE))
    teardown(daemon.attachment)
    wait_until(lambda: daemon.call("status")["state"] == "ended")
    daemon.call("shutdown")
    assert daemon.process.wait(30) == 0


def test_two_volumes_side_by_side(bench: Bench) -> None:
    """Each has a loop device of its own, and neither's end touches the other."""
    first, second = (bench.start(bench.volume(8 * MIB, export=FUSE)) for _ in range(2))
    assert first.device != second.device
    first.detach()
    assert not is_gone(second.attachment)
    run("dd", "if=/dev/zero", f"of={second.device}", "bs=1M", "count=8", "oflag=direct")
    second.detach()


def test_teardown_leaves_a_reused_loop_device_alone(bench: Bench, tmp_path: Path) -> None:
    """A loop device that has gone to somebody else since is theirs: teardown does not touch it."""
    daemon = bench.start(bench.volume(8 * MIB, export=FUSE))
    daemon.detach()
    other = tmp_path / "other"
    other.touch()
    os.truncate(other, MIB)
    device = loop.attach(other, block_size=512, read_only=False)
    try:
        stale = bench.changed(daemon.attachment, device=device, loop_device=device)
        assert is_gone(stale)
        teardown(stale, force=True)
        assert loop.backing_file(device) == str(other)
    finally:
        loop.detach(device, "other", timeout=5)


def test_without_root_the_file_is_the_device(tmp_path: Path) -> None:
    """An ordinary user gets the file, by fusermount3, and can take it down again; what is not protected is said."""
    # Where no udev runs, /dev/fuse may be root's alone: the test has one as udev makes it, in a mount namespace.
    node = tmp_path / "fuse"
    os.mknod(node, stat.S_IFCHR | 0o666, Path("/dev/fuse").stat().st_rdev)
    node.chmod(0o666)
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import os, pathlib, tempfile
os.setgid(65534); os.setgroups([]); os.setuid(65534)
from tests.behaviour.daemon.bench import Bench
from ebscrypt.model import ExportKind, MIB
directory = pathlib.Path(tempfile.mkdtemp(prefix="eb-", dir="/tmp"))
bench = Bench(directory)
daemon = bench.start(bench.volume(8 * MIB, export=ExportKind.FUSE))
assert daemon.device == f"{{directory}}/run/{{daemon.spec.volume_id}}/mount/{{daemon.spec.volume_id}}", daemon.device
path = pathlib.Path(daemon.device)
with path.open("r+b", buffering=0) as file:
    file.write(b"hello")
    os.fsync(file.fileno())
assert daemon.attachment.loop_device is None
assert any("memory" in note for note in daemon.attachment.notes), daemon.attachment.notes
daemon.detach()
daemon = bench.start(bench.again(daemon.spec))
assert path.read_bytes()[:5] == b"hello"
daemon.kill()
from ebscrypt.daemon.exports import teardown, is_gone
teardown(daemon.attachment)
assert is_gone(daemon.attachment)
bench.clear()
import shutil; shutil.rmtree(directory)
print("fine")
"""
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev/fuse && exec "$@"', node,
         sys.executable, "-c", program],
        capture_output=True, text=True, check=False, timeout=120, cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )  # fmt: skip
    assert ran.stdout == "fine\n", ran.stderr[-3000:]


def test_a_crash_leaves_what_can_be_taken_down(bench: Bench, tmp_path: Path) -> None:
    """After kill -9 under a mounted file system nothing hangs, and teardown leaves neither mount nor loop device."""
    daemon: Daemon = bench.start(bench.volume(32 * MIB, export=FUSE))
    run("mkfs.ext4", "-q", daemon.device)
    with mounted(daemon.device, tmp_path / "mnt") as where:
        fill(where, 2)
        daemon.kill()
        assert failure(lambda: write_durably(where / "late")) in (errno.EIO, errno.EROFS)
    teardown(daemon.attachment)
    assert is_gone(daemon.attachment)
    assert daemon.attachment.mountpoint is not None
    assert not mount.is_mounted(Path(daemon.attachment.mountpoint))
    assert loop.backing_file(daemon.device) is None or not loop.is_over(daemon.device, daemon.spec.volume_id)

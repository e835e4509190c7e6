"""A daemon from start to end: sealing, ends of every kind, and every refusal, after which nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.daemon.backing import claim
from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.exports import is_gone, teardown
from ebscrypt.errors import (
    BackingError,
    BackingInUse,
    BackingMissing,
    DaemonLost,
    ExportUnavailable,
    HeaderDamaged,
    HeaderUnsupported,
    InvalidParameter,
    KeyMismatch,
    KmsInvalidCiphertext,
    KmsKeyDisabled,
    KmsUnreachable,
    NotFound,
    StateError,
)
from ebscrypt.model import MIB, Attachment, AttachmentSpec, BackingKind, CacheMode, ExportKind, encryption_context
from tests.behaviour.daemon.bench import Bench, run, silent_kms, wait_until

FUSE = ExportKind.FUSE


def assert_nothing_left(bench: Bench, spec: AttachmentSpec) -> None:
    """Nobody has the lock or answers, the backing is free, and there is no NBD socket, mount or device.

    The runtime directory itself is control's to remove.
    """
    runtime = bench.runtime(spec.volume_id)
    os.close(runtime.acquire())
    with pytest.raises(DaemonLost):
        DaemonClient(runtime.control_socket).call("status")
    assert not runtime.nbd_socket.exists()
    assert str(runtime.mountpoint) not in Path("/proc/self/mountinfo").read_text()
    assert not [
        path for path in Path("/sys/block").glob("loop*/loop/backing_file") if spec.volume_id in path.read_text()
    ]
    if Path(spec.backing).exists():
        with Path(spec.backing).open("r+b") as file:
            claim(file.fileno())


def damage(spec: AttachmentSpec, *offsets: int) -> None:
    """Break the header copies at these offsets."""
    with Path(spec.backing).open("r+b") as file:
        for offset in offsets:
            file.seek(offset + 4096 + 100)
            file.write(b"\xff" * 8)


def rewrite(spec: AttachmentSpec, header: luks2.Header) -> None:
    """Put another header on the backing."""
    with Path(spec.backing).open("r+b") as file:
        there = luks2.read_header(file.fileno()).header
        luks2.write_header(file.fileno(), msgspec.structs.replace(header, uuid=there.uuid, seqid=there.seqid))


def test_first_attachment_seals(bench: Bench) -> None:
    """The first daemon writes the key's digest into both copies; cryptsetup accepts it for this key and no other."""
    spec = bench.volume(8 * MIB)
    assert not bench.read_header(spec).token().sealed
    bench.start(spec).detach()
    header = bench.read_header(spec)
    assert header.token().sealed
    key = bench.directory / "vol-key"
    for content, status in ((bench.data_key(spec), 0), (os.urandom(64), 2)):
        key.write_bytes(content)
        opening = ["cryptsetup", "open", "--test-passphrase", "--key-size", "512", "--volume-key-file", str(key)]
        opened = subprocess.run([*opening, spec.backing], input=b"", capture_output=True, check=False)
        assert opened.returncode == status
    bench.start(spec).detach()
    assert bench.read_header(spec) == header, "a sealed header is not written again"


def test_sealing_by_one_daemon_lets_the_next_check(bench: Bench) -> None:
    """Once sealed, a wrapped key of another data key is refused before a byte is served, though KMS unwraps it."""
    spec = bench.volume(8 * MIB)
    bench.start(spec).detach()
    header = bench.read_header(spec)
    other = bench.kms.generate_data_key_without_plaintext(bench.key_arn, encryption_context(spec.volume_id))
    token = msgspec.structs.replace(header.token(), wrapped_key=other.blob)
    rewrite(spec, header.with_token(token))
    error = bench.refusal(spec)
    assert type(error) is KeyMismatch
    assert "corrupted or tampered with" in error.message
    assert_nothing_left(bench, spec)


def test_read_only_first_attachment_writes_nothing(bench: Bench) -> None:
    """A volume that was never attached can be read only; it stays unsealed, and the notes say so."""
    spec = bench.volume(8 * MIB, read_only=True)
    before = bench.read_header(spec)
    daemon = bench.start(spec)
    assert any("not sealed" in note for note in daemon.attachment.notes)
    daemon.detach()
    assert bench.read_header(spec) == before


@pytest.mark.parametrize("export", [ExportKind.SOCKET, FUSE])
def test_sigterm_ends_it_well(bench: Bench, export: ExportKind) -> None:
    """SIGTERM: what was acknowledged is durable, the exit status is 0, and the key goes; teardown leaves nothing."""
    spec = bench.volume(16 * MIB, export=export)
    daemon = bench.start(spec)
    if export is FUSE:
        run("dd", "if=/dev/urandom", f"of={daemon.device}", "bs=1M", "count=4", "oflag=direct")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(30) == 0
    teardown(daemon.attachment)
    assert is_gone(daemon.attachment)
    assert_nothing_left(bench, spec)


@pytest.mark.parametrize("export", [ExportKind.SOCKET, FUSE])
def test_sigkill_leaves_what_can_be_taken_down(bench: Bench, export: ExportKind) -> None:
    """After kill -9 the locks are free at once, teardown removes the rest, and the volume can be attached again."""
    spec = bench.volume(16 * MIB, export=export)
    daemon = bench.start(spec)
    daemon.kill()
    assert not is_gone(daemon.attachment)
    teardown(daemon.attachment)
    assert is_gone(daemon.attachment)
    assert_nothing_left(bench, spec)
    bench.start(spec).detach()


def test_restart_over_what_a_dead_daemon_left(bench: Bench) -> None:
    """A new daemon takes away its predecessor's dead mount and stale sockets by itself."""
    spec = bench.volume(16 * MIB, export=FUSE)
    first = bench.start(spec)
    first.kill()
    second = bench.start(spec)
    assert run("blockdev", "--getsize64", second.device).strip() == str(16 * MIB)
    second.detach()
    teardown(first.attachment)
    assert is_gone(first.attachment)


def test_sigterm_during_the_start(bench: Bench) -> None:
    """A daemon that is told to end while KMS keeps it waiting leaves nothing, and says why it did not serve."""
    spec = bench.volume(8 * MIB)
    with silent_kms() as url:
        process, runtime = bench.spawn(spec, EBSCRYPT_KMS=url, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
        wait_until(lambda: is_unwrapping(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1
    assert "told to stop" in (runtime.path / "failure.json").read_text()
    assert_nothing_left(bench, spec)


def is_unwrapping(pid: int) -> bool:
    """Whether the process has started its unwrap process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(b"unwrap_process" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


def test_one_of_two_wins(bench: Bench) -> None:
    """Of two daemons for one volume the second gives up at once, and disturbs nothing of the first's."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    before = {path.name for path in daemon.runtime.path.iterdir()}
    process, _, ready = bench.launch(spec)
    assert not ready
    assert process.wait(30) == 1
    assert {path.name for path in daemon.runtime.path.iterdir()} == before
    assert "already served" in daemon.log()
    assert daemon.call("status")["state"] == "serving"
    daemon.detach()


def test_one_backing_two_names(bench: Bench, tmp_path: Path) -> None:
    """The same backing under another runtime directory is refused by its own lock, whatever the path."""
    spec = bench.volume(8 * MIB)
    daemon = bench.start(spec)
    (tmp_path / "alias").symlink_to(spec.backing)
    moved = bench.moved_to(bench.directory / "r2")
    try:
        error = moved.refusal(bench.again(spec, backing=str(tmp_path / "alias")))
        assert type(error) is BackingInUse
        assert daemon.call("status")["state"] == "serving"
    finally:
        moved.clear()
    daemon.detach()


def test_one_bad_header_copy_is_mended_and_told(bench: Bench) -> None:
    """A damaged copy is written again from the good one; the attachment's notes say so."""
    spec = bench.volume(8 * MIB)
    bench.start(spec).detach()
    damage(spec, luks2.COPY_SIZE)
    daemon = bench.start(spec)
    assert any("second header copy is bad" in note and "written again" in note for note in daemon.attachment.notes)
    daemon.detach()
    with Path(spec.backing).open("rb") as file:
        assert luks2.read_header(file.fileno()).repair is None


def test_two_bad_header_copies_are_refused(bench: Bench) -> None:
    """Nothing is served, and nothing is changed, when no copy is sound."""
    spec = bench.volume(8 * MIB)
    damage(spec, 0, luks2.COPY_SIZE)
    before = Path(spec.backing).read_bytes()
    assert type(bench.refusal(spec)) is HeaderDamaged
    assert Path(spec.backing).read_bytes() == before
    assert_nothing_left(bench, spec)


def test_another_volumes_backing_is_refused(bench: Bench) -> None:
    """A backing that was put in another's place is recognised by its header."""
    one, other = bench.volume(8 * MIB), bench.volume(8 * MIB)
    error = bench.refusal(bench.again(one, backing=other.backing))
    assert type(error) is HeaderUnsupported
    assert other.volume_id in error.message


def test_size_that_disagrees_is_refused(bench: Bench) -> None:
    """Catalog and header must agree on the size."""
    spec = bench.volume(8 * MIB)
    error = bench.refusal(bench.again(spec, size=16 * MIB))
    assert type(error) is StateError
    assert str(8 * MIB) in error.message


@pytest.mark.parametrize("encrypted", [True, False])
def test_backing_that_was_cut_off_is_refused(bench: Bench, encrypted: bool) -> None:  # noqa: FBT001
    """A backing that ends before the volume does is not served."""
    spec = bench.volume(8 * MIB, encrypted=encrypted)
    os.truncate(spec.backing, Path(spec.backing).stat().st_size - 4096)
    error = bench.refusal(spec)
    assert type(error) is BackingError
    assert "cut off" in error.message


def test_backing_that_is_not_there(bench: Bench) -> None:
    """A missing backing is told as such."""
    spec = bench.volume(8 * MIB)
    Path(spec.backing).unlink()
    assert type(bench.refusal(spec)) is BackingMissing


@pytest.mark.parametrize("kind", [BackingKind.FILE, BackingKind.BLOCK])
def test_backing_of_another_kind(bench: Bench, tmp_path: Path, kind: BackingKind) -> None:
    """A directory, a FIFO or the other kind of backing is refused without waiting for anybody."""
    os.mkfifo(tmp_path / "fifo")
    spec = bench.again(bench.volume(8 * MIB), backing=str(tmp_path / "fifo"), backing_kind=kind)
    error = bench.refusal(spec)
    assert isinstance(error, BackingError)
    assert str(tmp_path / "fifo") in error.message


def test_no_direct_io_on_the_file_system(bench: Bench, tmp_path: Path) -> None:
    """Where O_DIRECT cannot be had it is not silently left out: the error names the setting."""
    where = tmp_path / "ramfs"
    where.mkdir()
    run("mount", "-t", "ramfs", "ramfs", where)
    try:
        spec = bench.volume(8 * MIB, cache=CacheMode.NONE)
        moved = where / "backing"
        moved.write_bytes(Path(spec.backing).read_bytes())
        error = bench.refusal(bench.again(spec, backing=str(moved)))
        assert type(error) is BackingError
        assert "attach.cache" in str(error.hint)
    finally:
        run("umount", where)


def test_disabled_kms_key(bench: Bench) -> None:
    """KMS's refusal arrives as its own type, with KMS's code and the key's ARN."""
    key_arn = bench.kms.call("CreateKey")["KeyMetadata"]["Arn"]
    spec = bench.volume(8 * MIB, key_arn=key_arn)
    bench.kms.call("DisableKey", KeyId=key_arn)
    error = bench.refusal(spec)
    assert isinstance(error, KmsKeyDisabled)
    assert error.kms_code == "DisabledException"
    assert error.key_arn == key_arn
    assert_nothing_left(bench, spec)


def test_wrong_encryption_context(bench: Bench) -> None:
    """A wrapped key that was taken from another volume's header is refused by KMS: its context is another's."""
    spec, other = bench.volume(8 * MIB), bench.volume(8 * MIB)
    header = bench.read_header(spec)
    stolen = msgspec.structs.replace(header.token(), wrapped_key=bench.read_header(other).token().wrapped_key)
    rewrite(spec, header.with_token(stolen))
    assert type(bench.refusal(spec)) is KmsInvalidCiphertext


def test_kms_away(bench: Bench) -> None:
    """Without KMS the daemon gives up at its deadline, and says which endpoint did not answer."""
    spec = bench.volume(8 * MIB)
    with silent_kms() as url:
        error = bench.refusal(
            spec,
            EBSCRYPT_KMS=url,
            EBSCRYPT_KMS_DEADLINE="1.5",
            EBSCRYPT_KMS_TIMEOUT="0.5",
            AWS_ACCESS_KEY_ID="x",
            AWS_SECRET_ACCESS_KEY="x",
        )
    assert type(error) is KmsUnreachable
    assert_nothing_left(bench, spec)


def test_export_that_cannot_be_had(bench: Bench) -> None:
    """An export that was asked for by name and cannot be had is refused with its cause, and all is taken back."""
    spec = bench.volume(8 * MIB, export=FUSE)
    mountpoint = bench.runtime(spec.volume_id).mountpoint
    mountpoint.parent.mkdir(parents=True)
    mountpoint.write_text("in the way")
    error = bench.refusal(spec)
    assert type(error) is ExportUnavailable
    assert "cannot make a FUSE file" in error.message
    mountpoint.unlink()
    assert_nothing_left(bench, spec)


def test_nothing_to_attach(bench: Bench) -> None:
    """A daemon that was started by hand says what to run instead."""
    spec = bench.volume(8 * MIB)
    process, runtime = bench.spawn(spec, write_spec=False)
    assert process.wait(30) == 1
    record = msgspec.json.decode((runtime.path / "failure.json").read_bytes())
    assert record["Error"] == NotFound.__name__
    assert f"ebscrypt attach {spec.volume_id}" in record["Hint"]


def test_earlier_failure_is_forgotten(bench: Bench) -> None:
    """A start that succeeds leaves no failure of an earlier one to be found."""
    spec = bench.volume(8 * MIB)
    bench.refusal(bench.again(spec, size=16 * MIB))
    daemon = bench.start(spec)
    assert not (daemon.runtime.path / "failure.json").exists()
    daemon.detach()


def test_failing_backing_is_told(bench: Bench, tmp_path: Path) -> None:
    """When the backing's own disk is full, the client gets the error, and so does whoever asks for a flush or the end.

    Nothing is swallowed, and the volume goes on to serve what it can.
    """
    where = tmp_path / "small"
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=20M", "tmpfs", where)
    try:
        spec = bench.volume(64 * MIB)
        small = where / "backing"
        run("cp", "--sparse=always", spec.backing, small)
        daemon = bench.start(bench.again(spec, backing=str(small)))
        wrote = subprocess.run(
            ["qemu-io", "-f", "raw", daemon.device, "-c", "write -P 1 0 40M"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "No space left on device" in wrote.stdout + wrote.stderr
        run("qemu-io", "-f", "raw", daemon.device, "-c", "read 60M 1M")
        assert sum(counters["errors"] for counters in daemon.call("statistics").values()) >= 1
        daemon.detach()
    finally:
        run("umount", where)


def test_attachment_names_the_process(bench: Bench) -> None:
    """The record has pid and start time of exactly this process, and everything else that there is to know."""
    daemon = bench.start(bench.volume(8 * MIB))
    attachment: Attachment = daemon.attachment
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    assert (attachment.pid, attachment.pid_start) == (daemon.process.pid, int(fields[19]))
    assert attachment.size == 8 * MIB
    assert attachment.backing == daemon.spec.backing
    daemon.detach()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"size": 4096}, "cannot shrink"),
        ({"size": 8 * MIB + 512}, "not a multiple of the sector size"),
        ({"size": "16M"}, "another kind"),
        ({"size": True}, "another kind"),
        ({}, "'size' is missing"),
        ({"size": 16 * MIB, "extra": 1}, "not a parameter"),
    ],
)
def test_senseless_growth_is_refused(bench: Bench, parameters: dict[str, Any], message: str) -> None:
    """A size that no volume can take is refused, and nothing has changed."""
    daemon = bench.start(bench.volume(8 * MIB))
    with pytest.raises(InvalidParameter, match=message):
        daemon.call("grow", **parameters)
    assert daemon.call("status")["attachment"]["size"] == 8 * MIB
    daemon.call("grow", size=8 * MIB)
    daemon.detach()

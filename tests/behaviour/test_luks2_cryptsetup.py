"""What stock cryptsetup and blkid make of our headers, and we of theirs."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.errors import BackingInUse, HeaderUnsupported, StateError
from ebscrypt.luks2 import COPY_SIZE, DATA_OFFSET, Header, KmsToken, lock
from ebscrypt.luks2.reading import choose
from ebscrypt.model import GIB, KIB, MIB

VECTORS = Path(__file__).parents[1] / "vectors" / "luks2"
FAST_KDF = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
RIGHT, WRONG = 0, 2


def run(*command: str | Path, status: int = 0, stdin: bytes = b"") -> str:
    """What a command prints; it must end with ``status``."""
    result = subprocess.run([*map(str, command)], input=stdin, capture_output=True, timeout=60, check=False)
    assert result.returncode == status, (command, result.returncode, result.stderr.decode())
    return result.stdout.decode()


def cryptsetup(*arguments: str | Path, status: int = 0, stdin: bytes = b"") -> str:
    return run("cryptsetup", "--batch-mode", *arguments, status=status, stdin=stdin)


@contextlib.contextmanager
def opened(path: Path, mode: str = "r+b") -> Iterator[int]:
    with path.open(mode, buffering=0) as file:
        yield file.fileno()


def area(path: Path) -> bytes:
    """Both copies, as they stand on the backing."""
    with path.open("rb") as file:
        return file.read(2 * COPY_SIZE)


def read(path: Path) -> luks2.Reading:
    with opened(path, "rb") as fd:
        return luks2.read_header(fd)


def write(path: Path, header: Header) -> Header:
    with opened(path) as fd:
        return luks2.write_header(fd, header)


def seal(path: Path, key: bytes) -> Header:
    """Put the digest of ``key`` in, as the first attachment does; PBKDF2 by the standard library."""
    salt = luks2.new_digest_salt()
    digest = hashlib.pbkdf2_hmac("sha256", key, salt, luks2.DIGEST_ITERATIONS, luks2.DIGEST_SIZE)
    return write(path, read(path).header.with_digest(luks2.Digest(salt=salt, digest=digest)))


def check_key(path: Path, key_file: Path, status: int) -> None:
    """Let cryptsetup say whether the key in ``key_file`` is the volume's."""
    cryptsetup("open", "--test-passphrase", "--volume-key-file", key_file, "--key-size", "512", path, status=status)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with 64 random bytes."""
    path = tmp_path / "data.key"
    path.write_bytes(secrets.token_bytes(64))
    return path


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    """A file with a recovery passphrase."""
    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse battery staple")
    return path


@pytest.fixture
def their_backing(tmp_path: Path, key_file: Path, passphrase: Path) -> Path:
    """A sparse file that cryptsetup formatted for aes-xts-plain64 with the 512-bit key of ``key_file``."""
    path = tmp_path / "theirs.img"
    path.touch()
    os.truncate(path, DATA_OFFSET + 8 * MIB)
    luks_format(path, passphrase, "--volume-key-file", key_file, "--sector-size", "4096")
    return path


def luks_format(path: Path, passphrase: Path, *options: str | Path) -> None:
    cryptsetup("luksFormat", "--type", "luks2", *FAST_KDF, "--key-size", "512", *options, path, passphrase)


def test_cryptsetup_knows_a_new_volume(volume_backing: Path, volume_header: Header) -> None:
    """isLuks, luksUUID, luksDump and the JSON dump see exactly the header that was written."""
    cryptsetup("isLuks", "--type", "luks2", volume_backing)
    assert cryptsetup("luksUUID", volume_backing).strip() == volume_header.uuid
    assert json.loads(cryptsetup("luksDump", "--dump-json-metadata", volume_backing)) == volume_header.metadata
    dump = cryptsetup("luksDump", volume_backing)
    for line in (
        "\tvol-0123456789abcdef0",
        "cipher: aes-xts-plain64",
        "length: 8388608 [bytes]",
        "0: ebscrypt-kms",
    ):
        assert line in dump


def test_blkid_knows_a_new_volume(volume_backing: Path, volume_header: Header) -> None:
    """Type, version, UUID and label, by which lsblk -f and udev name it."""
    tags = run("blkid", "--probe", "--output", "export", volume_backing)

    assert {"TYPE=crypto_LUKS", "VERSION=2", f"UUID={volume_header.uuid}", "LABEL=vol-0123456789abcdef0"} <= set(
        tags.splitlines()
    )


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_cryptsetup_finds_nothing_to_repair(tmp_path: Path, kms_token: KmsToken, sector_size: int) -> None:
    """Neither a read nor `cryptsetup repair` changes a byte of what we wrote."""
    path = tmp_path / "volume.img"
    path.touch()
    os.truncate(path, DATA_OFFSET + 1 * GIB)
    with opened(path) as fd:
        luks2.format_header(fd, luks2.create_header(kms_token, size=1 * GIB, sector_size=sector_size))
    before = area(path)

    cryptsetup("repair", path, stdin=b"YES\n")
    cryptsetup("luksDump", path)

    assert area(path) == before


def test_the_volume_key_is_right_only_after_sealing(volume_backing: Path, key_file: Path, tmp_path: Path) -> None:
    """Before sealing no key is accepted, the true one included; afterwards that one, and no other."""
    other = tmp_path / "other.key"
    other.write_bytes(secrets.token_bytes(64))
    check_key(volume_backing, key_file, WRONG)

    seal(volume_backing, key_file.read_bytes())

    check_key(volume_backing, key_file, RIGHT)
    check_key(volume_backing, other, WRONG)


def test_the_golden_volume_opens_with_its_key(tmp_path: Path) -> None:
    """The frozen sealed header of version 1 is one that cryptsetup accepts the frozen key for."""
    path, key = tmp_path / "golden.img", tmp_path / "golden.key"
    path.write_bytes(gzip.decompress((VECTORS / "v1" / "sealed.bin.gz").read_bytes()))
    os.truncate(path, DATA_OFFSET + 10 * GIB)
    key.write_bytes(bytes.fromhex(json.loads((VECTORS / "v1" / "sealed.json").read_text())["data_key"]))

    check_key(path, key, RIGHT)


def test_a_recovery_passphrase_survives_our_updates(volume_backing: Path, key_file: Path, passphrase: Path) -> None:
    """A keyslot that the user adds with cryptsetup still opens the volume after re-wrapping and resizing."""
    seal(volume_backing, key_file.read_bytes())
    cryptsetup("luksAddKey", *FAST_KDF, "--volume-key-file", key_file, "--key-size", "512", volume_backing, passphrase)
    added = read(volume_backing).header
    assert list(added.metadata["keyslots"]) == ["0"]

    token = msgspec.structs.replace(added.token(), wrapped_key=b"wrapped anew", kms_key_arn="arn:aws:kms:x:1:key/2")
    os.truncate(volume_backing, DATA_OFFSET + 16 * MIB)
    updated = write(volume_backing, added.with_token(token).with_segment_size(16 * MIB))

    assert read(volume_backing) == luks2.Reading(header=updated)
    assert updated.metadata["keyslots"] == added.metadata["keyslots"]
    assert updated.metadata["digests"] == added.metadata["digests"]
    cryptsetup("open", "--test-passphrase", "--key-file", passphrase, volume_backing)
    cryptsetup("open", "--test-passphrase", volume_backing, stdin=b"a wrong one", status=WRONG)
    check_key(volume_backing, key_file, RIGHT)


def test_the_token_can_be_exported_and_imported(volume_backing: Path, their_backing: Path, tmp_path: Path) -> None:
    """Our token, carried to a header that cryptsetup made, makes it a volume of ours."""
    with pytest.raises(HeaderUnsupported, match="no ebscrypt-kms token"):
        read(their_backing)
    exported = cryptsetup("token", "export", "--token-id", "0", volume_backing)
    token_file = tmp_path / "token.json"
    token_file.write_text(exported)

    cryptsetup("token", "import", "--json-file", token_file, "--token-id", "3", their_backing)

    reading = read(their_backing)
    assert reading.repair is None
    assert reading.header.token() == read(volume_backing).header.token()
    assert reading.header.metadata["tokens"]["3"] == json.loads(exported)
    assert reading.header.segment() == luks2.Segment(data_offset=DATA_OFFSET, size=None, sector_size=4096)


def test_their_header_is_kept_when_we_add_our_token(
    their_backing: Path, key_file: Path, passphrase: Path, kms_token: KmsToken
) -> None:
    """A header that cryptsetup formatted, with our token added by us, still opens by its passphrase and its key."""
    with opened(their_backing) as fd:
        header = choose(lambda at, length: os.pread(fd, length, at)).header
        luks2.write_header(fd, header.with_token(kms_token))

    assert read(their_backing).header.token() == kms_token
    cryptsetup("open", "--test-passphrase", "--key-file", passphrase, their_backing)
    check_key(their_backing, key_file, RIGHT)


@pytest.mark.parametrize("kib", [16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_their_headers_of_every_size_are_updated(
    tmp_path: Path, passphrase: Path, kms_token: KmsToken, key_file: Path, kib: int
) -> None:
    """Every size that cryptsetup formats is read, changed and repaired, and cryptsetup agrees with the result."""
    path = tmp_path / "theirs.img"
    path.touch()
    os.truncate(path, 32 * MIB)
    luks_format(path, passphrase, "--volume-key-file", key_file, "--luks2-metadata-size", f"{kib}k")
    with opened(path) as fd:
        header = choose(lambda at, length: os.pread(fd, length, at)).header
        header = luks2.write_header(fd, header.with_token(kms_token))
        assert header.copy_size == kib * KIB
        os.pwrite(fd, bytes(4096), 0)
        assert luks2.repair_header(fd).repair_offset == 0

    assert read(path) == luks2.Reading(header=header)
    assert json.loads(cryptsetup("luksDump", "--dump-json-metadata", path)) == header.metadata
    check_key(path, key_file, RIGHT)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"), "cipher 'aes-cbc-essiv:sha256'"),
        (("--key-size", "256"), "key of 256 bits"),
        (("--sector-size", "2048"), "sector size 2048"),
    ],
)
def test_what_they_format_and_we_cannot_serve_is_refused(
    tmp_path: Path, passphrase: Path, options: tuple[str, ...], why: str
) -> None:
    """Another cipher, key size or sector size, as cryptsetup writes it, is named in the refusal."""
    path = tmp_path / "theirs.img"
    path.touch()
    os.truncate(path, 32 * MIB)
    luks_format(path, passphrase, *options)

    with pytest.raises(HeaderUnsupported, match=why):
        read(path)


def test_luks1_is_refused_by_name(tmp_path: Path, passphrase: Path) -> None:
    """A LUKS1 header is no damaged LUKS2 header."""
    path = tmp_path / "luks1.img"
    path.touch()
    os.truncate(path, 32 * MIB)
    cryptsetup("luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", path, passphrase)

    with pytest.raises(HeaderUnsupported, match="LUKS version 1"):
        read(path)


def test_a_reencryption_under_way_is_refused(volume_backing: Path, key_file: Path, passphrase: Path) -> None:
    """What `cryptsetup reencrypt` has begun it must end; until then nothing is served."""
    seal(volume_backing, key_file.read_bytes())
    os.truncate(volume_backing, DATA_OFFSET + 8 * MIB)
    cryptsetup("luksAddKey", *FAST_KDF, "--volume-key-file", key_file, "--key-size", "512", volume_backing, passphrase)
    cryptsetup("reencrypt", "--init-only", *FAST_KDF, "--key-file", passphrase, volume_backing)

    with pytest.raises(HeaderUnsupported, match="requires 'online-reencrypt-v2'") as caught:
        read(volume_backing)
    assert "cryptsetup reencrypt" in str(caught.value.hint)


def test_a_header_backup_brings_a_ruined_volume_back(volume_backing: Path, key_file: Path, tmp_path: Path) -> None:
    """LuksHeaderBackup takes our header, luksHeaderRestore puts it back over noise, and we read it as before."""
    sealed = seal(volume_backing, key_file.read_bytes())
    backup = tmp_path / "header.backup"
    cryptsetup("luksHeaderBackup", "--header-backup-file", backup, volume_backing)
    saved = backup.read_bytes()
    with opened(volume_backing) as fd:
        os.pwrite(fd, b"\xa5" * (2 * COPY_SIZE), 0)

    cryptsetup("luksHeaderRestore", "--header-backup-file", backup, volume_backing)

    restored = read(volume_backing)
    assert restored == luks2.Reading(header=sealed)
    assert luks2.parse(lambda at, length: saved[at : at + length], volume_id=sealed.label) == restored
    check_key(volume_backing, key_file, RIGHT)


def test_a_backup_older_than_the_header_goes_back_in_time_as_a_whole(volume_backing: Path, tmp_path: Path) -> None:
    """A restored header counts from its own state on; an update made from the newer reading is refused."""
    backup = tmp_path / "header.backup"
    cryptsetup("luksHeaderBackup", "--header-backup-file", backup, volume_backing)
    old = read(volume_backing).header
    newer = write(volume_backing, write(volume_backing, old.with_segment_size(4 * MIB)))

    cryptsetup("luksHeaderRestore", "--header-backup-file", backup, volume_backing)

    restored = read(volume_backing)
    assert restored.repair is None
    assert restored.header.metadata == old.metadata
    with pytest.raises(StateError):
        write(volume_backing, newer)
    write(volume_backing, restored.header)


@pytest.mark.parametrize("bad", [0, COPY_SIZE])
def test_cryptsetup_accepts_what_we_repaired(volume_backing: Path, bad: int) -> None:
    """After our repair both copies are sound for cryptsetup: it reads either one alone."""
    with opened(volume_backing) as fd:
        os.pwrite(fd, b"\xa5" * 600, bad)
        luks2.repair_header(fd)
        os.pwrite(fd, bytes(4096), COPY_SIZE - bad)

    cryptsetup("isLuks", "--type", "luks2", volume_backing)
    assert read(volume_backing).repair is None


@pytest.mark.parametrize("bad", [0, COPY_SIZE])
def test_we_accept_what_cryptsetup_repaired(volume_backing: Path, bad: int) -> None:
    """Cryptsetup mends a bad copy as soon as it reads; the result is sound for us."""
    before = read(volume_backing)
    with opened(volume_backing) as fd:
        os.pwrite(fd, b"\xa5" * 600, bad)
    assert read(volume_backing).repair_offset == bad

    cryptsetup("luksDump", volume_backing)

    assert read(volume_backing) == before


def test_labels_and_flags_that_the_user_sets_are_kept(volume_backing: Path) -> None:
    """`cryptsetup config --label` is accepted and survives our update, and so does `--priority` and the like."""
    cryptsetup("config", "--label", "mydatabase", "--subsystem", "mine", volume_backing)
    header = read(volume_backing).header
    assert (header.label, header.subsystem) == ("mydatabase", "mine")

    write(volume_backing, header.with_token(msgspec.structs.replace(header.token(), region="eu-west-1")))

    assert "LABEL=mydatabase" in run("blkid", "--probe", "--output", "export", volume_backing)


def test_erased_keyslots_leave_a_volume(volume_backing: Path, key_file: Path, passphrase: Path) -> None:
    """LuksErase removes every passphrase, and nothing that we need."""
    seal(volume_backing, key_file.read_bytes())
    cryptsetup("luksAddKey", *FAST_KDF, "--volume-key-file", key_file, "--key-size", "512", volume_backing, passphrase)

    cryptsetup("luksErase", volume_backing)

    header = read(volume_backing).header
    assert header.metadata["keyslots"] == {}
    assert header.token().sealed
    check_key(volume_backing, key_file, RIGHT)


def blocked_on_flock(pid: int) -> bool:
    """Whether the kernel has ``pid`` waiting for a file lock."""
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_cryptsetup_waits_for_our_update_of_a_file(volume_backing: Path) -> None:
    """While we hold the header's lock, cryptsetup does not read; once we let go, it does."""
    with opened(volume_backing) as fd, luks2.header_lock(fd):
        process = subprocess.Popen(["cryptsetup", "luksDump", str(volume_backing)], stdout=subprocess.DEVNULL)
        try:
            until(lambda: blocked_on_flock(process.pid))
            assert process.poll() is None
        except BaseException:
            process.kill()
            raise
    assert process.wait(30) == 0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s in vain"
        time.sleep(0.01)


@pytest.fixture(params=[512, 4096])
def loop_device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A block device of 24 MiB with logical blocks of 512 or 4096 bytes."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xee" * (DATA_OFFSET + 8 * MIB))
    device = run("losetup", "--find", "--show", "--sector-size", str(request.param), path).strip()
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


@pytest.mark.parametrize("flags", [0, os.O_DIRECT])
def test_a_block_device_carries_a_header_like_a_file(
    loop_device: Path, volume_header: Header, key_file: Path, flags: int
) -> None:
    """Format, update, damage, repair on a device, through the page cache and past it; cryptsetup agrees."""
    fd = os.open(loop_device, os.O_RDWR | os.O_CLOEXEC | flags)
    try:
        luks2.format_header(fd, volume_header)
        salt = luks2.new_digest_salt()
        digest = hashlib.pbkdf2_hmac("sha256", key_file.read_bytes(), salt, 1000, 32)
        header = luks2.read_header(fd).header.with_digest(luks2.Digest(salt=salt, digest=digest))
        header = luks2.write_header(fd, header)
        with loop_device.open("r+b", buffering=0) as other:
            os.pwrite(other.fileno(), bytes(4096), 0)
            os.fsync(other.fileno())
        assert luks2.repair_header(fd).repair_offset == 0
        assert luks2.read_header(fd) == luks2.Reading(header=header)
    finally:
        os.close(fd)

    check_key(loop_device, key_file, RIGHT)
    with loop_device.open("rb") as device:
        device.seek(DATA_OFFSET - 1)
        assert device.read(2) == b"\0\xee"


def test_the_lock_of_a_block_device_is_cryptsetups(
    loop_device: Path, volume_header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cryptsetup waits for our lock on a device, we are told when it holds its own, and no lock file is left."""
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    number = loop_device.stat().st_rdev
    lock_file = Path(f"/run/cryptsetup/L_{os.major(number)}:{os.minor(number)}")
    with opened(loop_device) as fd:
        luks2.format_header(fd, volume_header)
        with luks2.header_lock(fd):
            process = subprocess.Popen(["cryptsetup", "luksDump", str(loop_device)], stdout=subprocess.DEVNULL)
            try:
                until(lambda: blocked_on_flock(process.pid))
            except BaseException:
                process.kill()
                raise
        assert process.wait(30) == 0
        until(lambda: not lock_file.exists())

        with lock_file.open("w") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_SH)
            with pytest.raises(BackingInUse), luks2.header_lock(fd):
                pytest.fail("took a lock that another holds")
            lock_file.unlink()
    assert not lock_file.exists()

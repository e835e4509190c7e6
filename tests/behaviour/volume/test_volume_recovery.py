"""`ebscrypt recovery` at the command line, and stock cryptsetup afterwards, without any KMS."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.control import headers
from ebscrypt.control.site import Site
from tests import keyscan
from tests.behaviour.volume.place import SOURCE, Place, wait_until

MIB = 1 << 20
TYPED = "correct horse battery staple"


def run(*command: str | Path, stdin: str | None = None, status: int = 0) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, input=stdin)
    assert ran.returncode == status, (command, ran.stdout, ran.stderr)
    return ran.stdout


def opens(backing: str, passphrase: str) -> bool:
    """Whether stock cryptsetup opens the volume by what somebody types."""
    command = ["cryptsetup", "open", "--test-passphrase", backing]
    return subprocess.run(command, input=passphrase + "\n", text=True, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def loop_device(directory: Path) -> Iterator[str]:
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.truncate(48 * MIB)
    loop = run("losetup", "-f", "--show", disk).strip()
    try:
        yield loop
    finally:
        run("losetup", "-d", loop)


@pytest.mark.slow
def test_a_generated_passphrase_through_a_volumes_life(place: Place, volume_id: str, tmp_path: Path) -> None:
    """Added while mounted; rewrapped and grown; with the KMS gone for good, cryptsetup opens the volume."""
    backing = place.show(volume_id)["Backing"]
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    device = place.do("attach", volume_id, "--export", "fuse")
    run("mkfs.ext4", "-q", device)
    run("mount", device, mountpoint)
    try:
        made = place.run("recovery", "add", volume_id, "--generate")
        (mountpoint / "file").write_bytes(b"x" * MIB)
    finally:
        run("umount", mountpoint)
    assert made.status == 0, made.err
    passphrase = made.out.strip()
    assert "not shown again" in made.err
    assert passphrase not in made.err
    note = tmp_path / "note"
    note.write_text(passphrase + "\n")
    assert place.do("recovery", "test", volume_id, "--passphrase-file", str(note)) == "0"

    place.do("rewrap", volume_id, "--kms-key-id", place.do("kms", "create-key"))
    place.do("resize", volume_id, "--size", "96M")
    place.do("detach", volume_id)
    shutil.rmtree(place.directory / "s" / "kms")

    assert opens(backing, passphrase)
    assert not opens(backing, passphrase[:-1])
    assert place.do("recovery", "test", volume_id, "--passphrase-file", str(note), "--keyslot", "0") == "0"
    assert place.run("recovery", "ls", volume_id, "--output", "json").json["Keyslots"][0]["Kdf"] == "argon2id"
    for path in (place.directory / "s").rglob("*"):
        if path.is_file():
            assert passphrase.encode() not in path.read_bytes(), path


def test_a_volume_on_a_block_device_that_is_attached(place: Place, tmp_path: Path) -> None:
    """Its daemon has the device exclusively; cryptsetup writes the keyslot beside it, and takes it away again."""
    with loop_device(tmp_path) as loop:
        volume_id = place.do("create", "--backing", loop)
        place.do("attach", volume_id, "--export", "socket")
        passphrase = place.do("recovery", "add", volume_id, "--generate")
        assert opens(loop, passphrase)
        place.do("recovery", "remove", volume_id, "--keyslot", "0")
        assert not opens(loop, passphrase)
        place.do("detach", volume_id)
        place.do("check", volume_id, "--unwrap")


def typed(place: Place, *words: str, lines: list[str]) -> tuple[int, str]:
    """A command on a terminal of its own, with a line typed after each prompt; its status and what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(SOURCE)
        os.execve(sys.executable, [sys.executable, "-m", "ebscrypt.cli.main", *words], place.environ)  # noqa: S606 - on purpose, no shell
    shown, waiting, deadline = b"", list(lines), time.monotonic() + 120
    try:
        while select.select([terminal], [], [], deadline - time.monotonic())[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            if waiting and shown.endswith(b": "):
                os.write(terminal, waiting.pop(0).encode() + b"\n")
                shown += b"|"
    finally:
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, shown.decode()


def test_a_typed_passphrase(place: Place, volume_id: str) -> None:
    """Asked for twice and never shown; the test asks once. Two that differ change nothing."""
    backing = place.show(volume_id)["Backing"]

    status, shown = typed(place, "recovery", "add", volume_id, lines=[TYPED, TYPED + "r"])
    assert status == 2, shown
    assert "not the same" in shown
    assert json.loads(place.do("recovery", "ls", volume_id, "--output", "json"))["Keyslots"] == []

    status, shown = typed(place, "recovery", "add", volume_id, lines=[TYPED, TYPED])
    assert status == 0, shown
    assert TYPED not in shown
    assert opens(backing, TYPED)

    status, shown = typed(place, "recovery", "test", volume_id, lines=[TYPED])
    assert status == 0, shown
    assert "opens keyslot 0" in shown
    assert TYPED not in shown
    status, shown = typed(place, "recovery", "test", volume_id, lines=[TYPED + "r"])
    assert status == 1, shown
    assert "opens no keyslot" in shown


def test_without_a_terminal_a_file_must_be_named(place: Place, volume_id: str) -> None:
    """Nothing waits for somebody who is not there."""
    ran = place.run("recovery", "add", volume_id)

    assert ran.status == 2
    assert "no terminal" in ran.err
    assert "--passphrase-file" in ran.err


def test_a_passphrase_from_standard_input(place: Place, volume_id: str, tmp_path: Path) -> None:
    """The first line counts, without the line's end, so that the same can be typed."""
    note = tmp_path / "note"
    note.write_text(f"{TYPED}\nwritten down by me\n")
    words = [sys.executable, "-m", "ebscrypt.cli.main", "recovery", "add", volume_id, "--passphrase-file", "-"]
    with note.open("rb") as stdin:
        subprocess.run(words, stdin=stdin, env=place.environ, check=True, capture_output=True)

    assert opens(place.show(volume_id)["Backing"], TYPED)


def test_a_file_that_is_not_there_is_named(place: Place, volume_id: str, tmp_path: Path) -> None:
    """Before KMS is asked."""
    ran = place.run("recovery", "add", volume_id, "--passphrase-file", str(tmp_path / "missing"))

    assert ran.status == 2
    assert str(tmp_path / "missing") in ran.err


def test_the_commands_memory_never_has_the_data_key(place: Place, volume_id: str, tmp_path: Path) -> None:
    """While cryptsetup has it to read, root finds neither the key nor a half of it in the process that handed it on."""
    marker, go, stub = tmp_path / "handed-over", tmp_path / "go", tmp_path / "bin" / "cryptsetup"
    stub.parent.mkdir()
    stub.write_text(f"""#!{sys.executable} -IS
import os, select, sys, time
pipe = int(sys.argv[sys.argv.index("--volume-key-file") + 1].rpartition("/")[2])
select.select([pipe], [], [])
open({str(marker)!r}, "w").close()
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
os.execv({shutil.which("cryptsetup")!r}, ["cryptsetup", *sys.argv[1:]])
""")
    stub.chmod(0o755)
    with Site(config.load({k: v for k, v in place.environ.items() if k.startswith("EBSCRYPT_")})) as site:
        token = headers.read(site.catalog.volume(volume_id)).header.token()
        key = site.kms.decrypt(token.wrapped_key, token.encryption_context).plaintext
    path = f"{stub.parent}:{os.environ['PATH']}"
    with place.start("recovery", "add", volume_id, "--generate", environ={"PATH": path}) as adding:
        wait_until(marker.exists, 60)
        scan = keyscan.scan_process(adding.pid, key)
        go.touch()
        passphrase, told = adding.communicate(timeout=120)

    assert adding.returncode == 0, told
    assert scan.hits == []
    assert scan.scanned > 20 * MIB
    assert {where.split()[0] for where in scan.unreadable} == {"/secretmem"}
    assert opens(place.show(volume_id)["Backing"], passphrase.strip())

"""Snapshots as a user makes them: a process a command, blocks stored by one that outlives it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.behaviour.volume.place import Place, wait_until

MIB = 1 << 20


def fill(place: Place, volume_id: str, size: int) -> None:
    """Random bytes where the volume's data begins: ciphertext, for all that anybody can tell."""
    with Path(place.show(volume_id)["Backing"]).open("r+b") as backing:
        backing.seek(16 * MIB)
        backing.write(os.urandom(size))


def shown(place: Place, snapshot_id: str) -> dict[str, object]:
    told: dict[str, object] = json.loads(place.do("snapshot", "show", snapshot_id, "--output", "json"))
    return told


def test_a_snapshot_is_made_without_its_kms_key(place: Place) -> None:
    """The key is disabled: the snapshot is completed in the background, and only attaching is refused."""
    key = json.loads(place.do("kms", "create-key", "--output", "json"))["KeyMetadata"]["Arn"]
    volume_id = place.do("create", "--size", "64M", "--kms-key-id", key)
    fill(place, volume_id, 3 * MIB)
    place.do("kms", "disable-key", key)

    ran = place.run("snapshot", "create", volume_id)
    snapshot_id = ran.out.strip()
    wait_until(lambda: shown(place, snapshot_id)["State"] == "completed")

    assert ran.err == ""
    assert shown(place, snapshot_id)["BytesTotal"] == 3 * MIB
    assert place.do("snapshot", "verify", snapshot_id).endswith("3 MiB read: all sound")
    assert "disabled" in place.refused("attach", volume_id)
    place.do("snapshot", "delete", snapshot_id)
    assert place.do("snapshot", "ls") == ""


def test_who_waits_on_a_terminal_sees_the_progress(place: Place, volume_id: str) -> None:
    """On stderr, and taken away at the end; stdout has the id alone."""
    fill(place, volume_id, 8 * MIB)
    ours, theirs = pty.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "ebscrypt.cli.main", "snapshot", "create", volume_id, "--wait"],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=place.environ,
            check=True,
            timeout=60,
        )
        seen = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)

    assert ran.stdout.decode().startswith("snap-")
    assert "8 MiB of 8 MiB" in seen
    assert seen.endswith("\r\x1b[K")


def test_what_stores_the_blocks_is_nobodys_child(place: Place, volume_id: str) -> None:
    """It has a session of its own and a parent that does not end with the login, so it goes on after logout."""
    fill(place, volume_id, 2 * MIB)
    fifo = place.directory / "fifo"
    os.mkfifo(fifo)
    # A process that opens the FIFO waits, so there is time to look at it: a tracer for its first import.
    site = place.directory / "sitecustomize"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'settle' in sys.orig_argv:\n"
        "    numbers = f'{os.getpid()} {os.getppid()} {os.getsid(0)}'\n"
        f"    open({str(place.directory / 'told')!r}, 'w').write(numbers)\n"
        f"    open({str(fifo)!r}).read()\n"
    )
    environ = {"PYTHONPATH": f"{place.environ['PYTHONPATH']}:{site}"}
    snapshot_id = place.do("snapshot", "create", volume_id, **environ)
    told = place.directory / "told"
    wait_until(lambda: told.exists() and told.read_text().count(" ") == 2)
    pid, parent, session = map(int, told.read_text().split())

    assert session not in (os.getsid(0), 0)
    assert parent != os.getpid()
    assert Path(f"/proc/{pid}").exists()
    fifo.write_text("go on")
    wait_until(lambda: shown(place, snapshot_id)["State"] == "completed")

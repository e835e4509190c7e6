"""The embedded KMS under kill -9: what it acknowledged is there, what it did not is whole or absent."""

from __future__ import annotations

import base64
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebscrypt.config import KmsSettings, PathSettings, Settings
from tests.unit.kms.embedded.speaking import Speaker

WRITER = """
import base64, json, sys
from tests.unit.kms.embedded.speaking import Speaker
from tests.crash.test_kms_store_crash import settings_at
from pathlib import Path
speaker = Speaker(settings_at(Path(sys.argv[1])))
def acknowledge(**what):
    print(json.dumps(what), flush=True)
number = 0
while True:
    number += 1
    key = speaker.key(Description="x" * 1000)
    acknowledge(key=key)
    acknowledge(blob=base64.b64encode(speaker.wrapped(key)).decode(), of=key)
    alias = f"alias/{sys.argv[2]}-{number}"
    speaker.say("CreateAlias", AliasName=alias, TargetKeyId=key)
    acknowledge(alias=alias, of=key)
    if number % 3 == 0:
        speaker.say("DisableKey", KeyId=key)
        acknowledge(disabled=key)
    if number % 4 == 0:
        speaker.say("ScheduleKeyDeletion", KeyId=key)
        acknowledge(scheduled=key)
"""
OPENER = """
import sys
from pathlib import Path
from tests.unit.kms.embedded.speaking import Speaker, service_model
from tests.crash.test_kms_store_crash import settings_at
speaker = Speaker(settings_at(Path(sys.argv[1])))
print("now", flush=True)
speaker.key()
speaker.close()
"""


def settings_at(state: Path) -> Settings:
    """Settings of the embedded KMS in that place."""
    return Settings(
        paths=PathSettings(state=str(state), runtime=str(state / "run")),
        kms=KmsSettings(region="eu-central-1", account="111122223333"),
    )


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs ``program``."""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )


def check(state: Path, lives: list[list[dict[str, str]]]) -> None:
    """Everything acknowledged in any life is there, and the database is sound."""
    speaker = Speaker(settings_at(state))
    for acknowledged in lives:
        states = expected_states(acknowledged)
        # The last key of a life may have gone one step further than was acknowledged.
        for key in list(states)[:-1]:
            assert speaker.state(key) == states[key]
        for item in acknowledged:
            if alias := item.get("alias"):
                assert speaker.say("DescribeKey", KeyId=alias)["KeyMetadata"]["Arn"] == item["of"]
            if (blob := item.get("blob")) and speaker.state(item["of"]) == "Enabled":
                assert len(speaker.opened(base64.b64decode(blob))) == 64
    with speaker.database() as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        without_material = "SELECT count(*) FROM kms_key WHERE material_id IS NULL"
        assert database.execute(without_material).fetchone() == (0,)
    speaker.close()


def expected_states(acknowledged: list[dict[str, str]]) -> dict[str, str]:
    """The state of each key after what was acknowledged."""
    meaning = {"key": "Enabled", "disabled": "Disabled", "scheduled": "PendingDeletion"}
    return {item[word]: state for item in acknowledged for word, state in meaning.items() if word in item}


@pytest.mark.slow
def test_killed_while_writing(tmp_path: Path) -> None:
    """Twelve times, a process that makes keys, aliases and changes of state is killed somewhere in the middle."""
    lives: list[list[dict[str, str]]] = []
    chance = random.Random(20261123)  # noqa: S311 - where to kill, not what to keep secret

    for life in range(12):
        with started(WRITER, str(tmp_path), str(life)) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randint(1, 25))]
            time.sleep(chance.random() * 0.01)  # anywhere within the next transactions
            process.kill()
            lines += process.stdout.read().splitlines(keepends=True)
        lives.append([json.loads(line) for line in lines if line.endswith("\n")])
        check(tmp_path, lives)

    assert all(lives)


def first_use(state: Path, kill_after: float | None) -> float:
    """Let a process make a store, and kill it some seconds after it began; the seconds it took if it was let."""
    with started(OPENER, str(state)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            process.kill()
        process.wait()
    return time.monotonic() - began


@pytest.mark.slow
def test_killed_while_making_the_store(tmp_path: Path) -> None:
    """Wherever within the first use of a KMS its process is killed, the next use finishes the work."""
    whole = first_use(tmp_path / "whole", None)
    left: set[tuple[str, ...]] = set()

    for step in range(16):
        state = tmp_path / str(step)
        first_use(state, whole * step / 16)
        kms = state / "kms"
        left.add(tuple(sorted(path.name for path in kms.iterdir())) if kms.exists() else ())
        speaker = Speaker(settings_at(state))
        assert len(speaker.opened(speaker.wrapped(speaker.key()))) == 64
        speaker.close()

    assert len(left) >= 2, "the kills came all too early or all too late, and proved nothing"


def test_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    """A process that dies inside a transaction holds nobody up: its changes are undone, the next writer goes on."""
    speaker = Speaker(settings_at(tmp_path))
    key = speaker.key()
    speaker.close()
    program = """
import sqlite3, sys, signal
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE kms_key SET state = 'Disabled'")
print("inside", flush=True)
signal.pause()
"""
    with started(program, str(tmp_path / "kms" / "keys.db")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.kill()

    assert speaker.state(key) == "Enabled"
    speaker.say("DisableKey", KeyId=key)
    assert speaker.state(key) == "Disabled"
    speaker.close()


@pytest.mark.parametrize("processes", [6])
def test_many_processes_write_at_once(processes: int, tmp_path: Path) -> None:
    """Processes that share a store lose nothing of each other's work."""
    program = """
import sys
from pathlib import Path
from tests.unit.kms.embedded.speaking import Speaker
from tests.crash.test_kms_store_crash import settings_at
speaker = Speaker(settings_at(Path(sys.argv[1])))
for number in range(15):
    key = speaker.key()
    speaker.say("CreateAlias", AliasName=f"alias/{sys.argv[2]}-{number}", TargetKeyId=key)
    assert len(speaker.opened(speaker.wrapped(key))) == 64
    speaker.say("DescribeKey", KeyId="alias/aws/ebs")
"""
    running = [started(program, str(tmp_path), str(number)) for number in range(processes)]
    codes = []
    for process in running:
        with process:
            process.communicate(timeout=200)
        codes.append(process.returncode)

    assert codes == [0] * processes
    with sqlite3.connect(tmp_path / "kms" / "keys.db") as database:
        keys = database.execute("SELECT count(*) FROM kms_key").fetchone()
        aliases = database.execute("SELECT count(*) FROM alias").fetchone()
    database.close()
    assert keys == (processes * 15 + 1,)
    assert aliases == (processes * 15 + 1,)

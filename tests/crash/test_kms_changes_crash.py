"""Rotation, import, grants and migration of the embedded KMS under kill -9: nothing acknowledged is lost, no half done.

See test_kms_store_crash.py for keys, aliases and the making of the store.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebscrypt.config import KmsSettings, PathSettings, Settings
from tests.unit.kms.embedded.speaking import Speaker

ROOT = Path(__file__).parents[2]
V1 = ROOT / "tests" / "vectors" / "kms" / "v1"
GRANTEE = "arn:aws:iam::111122223333:user/alice"
WRITER = """
import base64, functools, json, os, sys
from pathlib import Path
from ebscrypt.kms.embedded import wrapping
from tests.crash.test_kms_changes_crash import GRANTEE, settings_at
from tests.unit.kms.embedded.importing import FOREVER, imported
from tests.unit.kms.embedded.speaking import Speaker
wrapping.generate = functools.cache(wrapping.generate)  # one is enough here, and they take long
speaker = Speaker(settings_at(Path(sys.argv[1])))
def acknowledge(**what):
    print(json.dumps(what), flush=True)
def use(key):
    acknowledge(blob=base64.b64encode(speaker.wrapped(key)).decode(), of=key)
while True:
    own, external = speaker.key(), speaker.key(Origin="EXTERNAL")
    material = os.urandom(32)
    imported(speaker, external, material)
    use(external)
    for _ in range(3):
        speaker.say("RotateKeyOnDemand", KeyId=own)
        use(own)
    imported(speaker, external, os.urandom(32), ImportType="NEW_KEY_MATERIAL", **FOREVER)
    speaker.say("RotateKeyOnDemand", KeyId=external)
    use(external)
    for number in range(3):
        terms = {"GranteePrincipal": GRANTEE, "Operations": ["Decrypt"]}
        grant = speaker.say("CreateGrant", KeyId=own, Name=str(number), **terms)
        acknowledge(token=grant["GrantToken"], of=own)
    waiting = speaker.key(Origin="EXTERNAL")
    imported(speaker, waiting, material)
    speaker.say("DeleteImportedKeyMaterial", KeyId=waiting)
    acknowledge(deleted=waiting)
"""
OPENER = """
import sys
from pathlib import Path
from tests.crash.test_kms_changes_crash import settings_at
from tests.unit.kms.embedded.speaking import Speaker, service_model
service_model()
speaker = Speaker(settings_at(Path(sys.argv[1])))
print("now", flush=True)
speaker.say("ListKeys")
print("done", flush=True)
speaker.close()
"""


def settings_at(state: Path) -> Settings:
    """Settings of the embedded KMS in that place."""
    return Settings(
        paths=PathSettings(state=str(state), runtime=str(state / "run")),
        kms=KmsSettings(region="eu-central-1", account="111122223333"),
    )


def started(program: str, state: Path) -> subprocess.Popen[str]:
    """A process that runs ``program`` on a store."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(state)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def check_acknowledged(speaker: Speaker, acknowledged: list[dict[str, str]]) -> None:
    """Blobs open, grants count, and what was deleted is gone."""
    for item in acknowledged:
        if blob := item.get("blob"):
            assert len(speaker.opened(base64.b64decode(blob))) == 64
        if token := item.get("token"):
            speaker.say("DescribeKey", KeyId=item["of"], GrantTokens=[token])
        if deleted := item.get("deleted"):
            assert speaker.state(deleted) == "PendingImport"


def check_tables(speaker: Speaker) -> None:
    """No change is in the database by half."""
    with speaker.database() as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        current = "SELECT key_id, material_id FROM material WHERE state = 'CURRENT' ORDER BY 1"
        named = "SELECT key_id, material_id FROM kms_key WHERE material_id IS NOT NULL ORDER BY 1"
        assert database.execute(current).fetchall() == database.execute(named).fetchall()
        usable = (
            "SELECT count(*) FROM kms_key k JOIN material USING (key_id) WHERE k.state = 'Enabled' AND sealed IS NULL"
        )
        assert database.execute(usable).fetchone() == (0,)
        without_token = "SELECT count(*) FROM kms_grant WHERE grant_id NOT IN (SELECT grant_id FROM grant_token)"
        assert database.execute(without_token).fetchone() == (0,)


@pytest.mark.slow
def test_killed_while_changing(tmp_path: Path) -> None:
    """Eight times, a process that rotates, imports, deletes material and makes grants is killed somewhere."""
    chance = random.Random(20261123)  # noqa: S311 - where to kill, not what to keep secret
    lives: list[dict[str, str]] = []

    for _ in range(8):
        with started(WRITER, tmp_path) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randint(1, 20))]
            time.sleep(chance.random() * 0.01)  # anywhere within the next transactions
            process.kill()
            lines += process.stdout.read().splitlines(keepends=True)
        lives += [json.loads(line) for line in lines if line.endswith("\n")]
        speaker = Speaker(settings_at(tmp_path))
        check_acknowledged(speaker, lives)
        check_tables(speaker)
        speaker.close()

    assert {"blob", "token", "deleted"} <= {word for item in lives for word in item}


def migrate(state: Path, kill_after: float | None) -> float:
    """Let a process open a store of version 1, and kill it some seconds after it began; how long it took if not."""
    kms = state / "kms"
    kms.mkdir(mode=0o700, parents=True)
    for name in ("keys.db", "root.key"):
        shutil.copyfile(V1 / name, kms / name)
        (kms / name).chmod(0o600)
    with started(OPENER, state) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        if kill_after is None:
            process.stdout.readline()
        else:
            time.sleep(kill_after)
            process.kill()
    return time.monotonic() - began


@pytest.mark.slow
def test_killed_while_migrating(tmp_path: Path) -> None:
    """Wherever the first opening of an old store is killed, it is of the old version or the new, and the next works."""
    whole = migrate(tmp_path / "whole", None)
    found: set[int] = set()

    for step in range(16):
        state = tmp_path / str(step)
        migrate(state, whole * step / 12)
        with sqlite3.connect(state / "kms" / "keys.db") as database:
            found.add(database.execute("PRAGMA user_version").fetchone()[0])
        database.close()
        speaker = Speaker(settings_at(state))
        assert len(speaker.say("ListKeys")["Keys"]) == 6
        check_tables(speaker)
        speaker.close()

    assert found == {1, 2}, "the kills came all too early or all too late, and proved nothing"

"""`ebscrypt create --snapshot-id` and `snapshot copy` as they are called: what they print where, and how they end."""

from __future__ import annotations

import json
import re

import pytest

from ebscrypt import config
from ebscrypt.control import storing
from ebscrypt.control.site import Site
from tests.unit.cli.conftest import Run
from tests.unit.control.storing_inline import block, write_blocks


@pytest.fixture
def snapshot_id(run: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """A completed snapshot of an encrypted volume of 8 MiB; its blocks were stored in this process."""
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)
    made = run("create", "--size", "8M").out.strip()
    with Site(config.load()) as site:
        write_blocks(site.catalog.volume(made), {0: block(0), 5: block(1)})
    return run("snapshot", "create", made).out.strip()


def test_create_prints_the_volumes_id_alone(run: Run, snapshot_id: str) -> None:
    """So that v=$(ebscrypt create --snapshot-id …) works; in a pipe no progress is shown."""
    ran = run("create", "--snapshot-id", snapshot_id)

    assert (ran.status, ran.err) == (0, "")
    assert re.fullmatch(r"vol-[0-9a-f]{17}\n", ran.out)


def test_json_names_the_snapshot(run: Run, snapshot_id: str) -> None:
    """As DescribeVolumes does, and `show`; the size is the snapshot's."""
    made = json.loads(run("create", "--snapshot-id", snapshot_id, "--output", "json").out)

    assert (made["SnapshotId"], made["SizeBytes"], made["State"]) == (snapshot_id, 8 << 20, "available")
    assert re.search(rf"^made of +{snapshot_id}$", run("show", made["VolumeId"]).out, re.MULTILINE)


def test_copy_prints_the_copys_id_alone(run: Run, snapshot_id: str) -> None:
    """So that s=$(ebscrypt snapshot copy …) works."""
    ran = run("snapshot", "copy", snapshot_id)

    assert (ran.status, ran.err) == (0, "")
    assert re.fullmatch(r"snap-[0-9a-f]{17}\n", ran.out)
    assert ran.out.strip() != snapshot_id


def test_copy_as_json_is_a_snapshot_with_its_source(run: Run, snapshot_id: str) -> None:
    """Description and tags are its own."""
    words = ["--description", "kept", "--tag", "team=db"]
    copy = json.loads(run("snapshot", "copy", snapshot_id, *words, "--output", "json").out)

    assert (copy["SourceSnapshotId"], copy["State"], copy["Description"]) == (snapshot_id, "completed", "kept")
    assert copy["Tags"] == [{"Key": "team", "Value": "db"}]
    assert copy["Progress"] == "100%"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        pytest.param(["create", "--size", "4M"], 2, "is smaller than snap-", id="smaller"),
        pytest.param(["create", "--sector-size", "512"], 2, "sectors of 4096 bytes", id="other-sectors"),
        pytest.param(["create", "--no-encrypted"], 2, "cannot be plain", id="plain"),
        pytest.param(["create", "--kms-key-id", "alias/none"], 1, "alias/none", id="create-unknown-key"),
        pytest.param(["snapshot", "copy", "--kms-key-id", "alias/none"], 1, "alias/none", id="copy-unknown-key"),
        pytest.param(["snapshot", "copy", "--store", "nowhere"], 2, "no store 'nowhere'", id="unknown-store"),
    ],
)
def test_what_is_refused_says_why(run: Run, snapshot_id: str, words: list[str], status: int, said: str) -> None:
    """On stderr; nothing is printed that could be taken for an id."""
    named = [snapshot_id] if words[0] == "snapshot" else ["--snapshot-id", snapshot_id]

    ran = run(*words, *named)

    assert (ran.status, ran.out) == (status, "")
    assert said in ran.err


def test_rewrap_takes_a_snapshot_too(run: Run, snapshot_id: str) -> None:
    """By the first letters of the id; what it prints is the snapshot's record."""
    key = run("kms", "create-key").out.strip()

    tried = run("rewrap", snapshot_id, "--kms-key-id", key, "--dry-run")
    done = run("rewrap", snapshot_id, "--kms-key-id", key, "--output", "json")

    assert (tried.status, tried.out) == (0, "")
    assert f"KMS would wrap the data key of {snapshot_id}" in tried.err
    assert (done.json["SnapshotId"], done.json["KmsKeyId"]) == (snapshot_id, key)


def test_an_unknown_snapshot_is_not_found(run: Run) -> None:
    """By both, with the next thing to do."""
    for words in (["create", "--snapshot-id"], ["snapshot", "copy"]):
        ran = run(*words, "snap-00000000000000000")
        assert ran.status == 1
        assert "does not exist" in ran.err
        assert "snapshot ls" in ran.err

"""`ebscrypt snapshot …` as it is called: what it prints where, in text and JSON, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.control import storing
from ebscrypt.control.site import Site
from ebscrypt.stores.names import block_name, block_path
from tests.unit.cli.conftest import Run
from tests.unit.control.storing_inline import block, write_blocks

EC2 = {  # of DescribeSnapshots, in facts §6.2
    "SnapshotId",
    "VolumeId",
    "State",
    "StateMessage",
    "Progress",
    "StartTime",
    "CompletionTime",
    "VolumeSize",
    "Encrypted",
    "KmsKeyId",
    "DataEncryptionKeyId",
    "Description",
    "Tags",
}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are stored in this process, before `snapshot create` returns."""
    monkeypatch.setattr(storing, "start_storing", storing.settle_snapshot)


@pytest.fixture
def volume_id(run: Run) -> str:
    made = run("create", "--size", "1G").out.strip()
    with Site(config.load()) as site:
        write_blocks(site.catalog.volume(made), {0: block(0), 5: block(1)})
    return made


def test_create_prints_the_id_alone(run: Run, volume_id: str) -> None:
    """So that s=$(ebscrypt snapshot create …) works; nothing else is said in a pipe, even with --wait."""
    for words in ([], ["--wait"]):
        ran = run("snapshot", "create", volume_id, *words)
        assert ran.status == 0
        assert re.fullmatch(r"snap-[0-9a-f]{17}\n", ran.out)
        assert ran.err == ""


def test_json_has_ec2s_names(run: Run, volume_id: str) -> None:
    """Every field of DescribeSnapshots that has a meaning here, and sizes in bytes besides."""
    made = run(
        "snapshot", "create", volume_id, "--wait", "--description", "nightly", "--tag", "Name=a", "--output", "json"
    ).json
    shown = run("snapshot", "show", made["SnapshotId"], "--output", "json").json
    [listed] = run("snapshot", "ls", "--output", "json").json["Snapshots"]

    assert made == shown == listed
    assert set(shown) >= EC2
    assert (shown["VolumeId"], shown["State"], shown["Progress"]) == (volume_id, "completed", "100%")
    assert (shown["VolumeSize"], shown["VolumeSizeBytes"], shown["Encrypted"]) == (1, 1 << 30, True)
    assert (shown["Description"], shown["Tags"]) == ("nightly", [{"Key": "Name", "Value": "a"}])
    assert shown["BytesTotal"] == shown["BytesDone"] == 1 << 20
    assert shown["KmsKeyId"].startswith("arn:aws:kms:")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", shown["DataEncryptionKeyId"])


def test_ls_and_show_are_for_people(run: Run, volume_id: str) -> None:
    """A table and lines; --volume leaves out the others; without snapshots there is no table."""
    assert run("snapshot", "ls").out == ""
    snapshot_id = run("snapshot", "create", volume_id, "--tag", "Name=mail").out.strip()

    head, line = run("snapshot", "ls").out.splitlines()
    assert head.split()[:3] == ["SNAPSHOT", "STATE", "PROGRESS"]
    assert line.startswith(f"{snapshot_id}  completed  100%")
    assert line.endswith("mail")
    assert run("snapshot", "ls", "--volume", "vol-00000000000000000").out == ""
    shown = run("snapshot", "show", snapshot_id).out
    assert re.search(r"^state +completed$", shown, re.MULTILINE)
    assert re.search(r"^data +1 MiB read$", shown, re.MULTILINE)


def test_tags_are_set_and_removed(run: Run, volume_id: str) -> None:
    """As those of a volume; nothing to do is a usage error."""
    snapshot_id = run("snapshot", "create", volume_id, "--tag", "Name=mail", "--tag", "x=y").out.strip()

    ran = run("snapshot", "tag", snapshot_id, "stage=test", "--remove", "x", "--output", "json")

    assert ran.json["Tags"] == [{"Key": "Name", "Value": "mail"}, {"Key": "stage", "Value": "test"}]
    assert run("snapshot", "tag", snapshot_id).status == 2


def test_a_failed_snapshot_is_an_error_for_who_waits(run: Run, volume_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id was printed before, the reason is told, and `show` without --wait is no error."""

    def failing(site: Site, snapshot_id: str) -> None:
        storing.fail_snapshot(site, snapshot_id, OSError(5, "Input/output error"))

    monkeypatch.setattr(storing, "start_storing", failing)
    ran = run("snapshot", "create", volume_id, "--wait")

    assert ran.status == 1
    assert "Input/output error" in ran.err
    shown = run("snapshot", "show", ran.out.strip(), "--output", "json")
    assert (shown.status, shown.json["State"], shown.json["Progress"]) == (0, "error", "0%")


def test_delete_frees_what_is_old_enough(run: Run, volume_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it freed is told; several at once; a second time there is no such snapshot."""
    monkeypatch.setenv("EBSCRYPT_STORES_GRACE", "0")
    first, second = (run("snapshot", "create", volume_id).out.strip() for _ in range(2))

    kept = run("snapshot", "delete", first, "--no-sweep", "--output", "json")
    freed = run("snapshot", "delete", second, "--output", "json")

    assert kept.json == {"SnapshotIds": [first], "Swept": []}
    assert freed.json["Swept"] == [{"Store": "local", "BlocksFreed": 2, "BytesFreed": 1 << 20, "BlocksYoung": 0}]
    assert run("snapshot", "ls").out == ""
    again = run("snapshot", "delete", second)
    assert (again.status, again.out) == (1, "")
    assert "does not exist" in again.err


def test_verify_ends_with_1_for_damage(run: Run, volume_id: str, tmp_path: Path) -> None:
    """It names snapshot and block; sound, it says so and ends with 0."""
    snapshot_id = run("snapshot", "create", volume_id).out.strip()
    assert run("snapshot", "verify").out == "1 snapshots, 2 blocks, 1 MiB read: all sound\n"

    (tmp_path / "state/snapshots" / block_path(block_name(block(1)))).unlink()
    ran = run("snapshot", "verify", snapshot_id)
    as_json = run("snapshot", "verify", "--output", "json")

    assert (ran.status, as_json.status) == (1, 1)
    assert ran.out.startswith(f"{snapshot_id}  block 5: ")
    [damage] = as_json.json["Damage"]
    assert (damage["SnapshotId"], damage["BlockIndex"], damage["Repaired"]) == (snapshot_id, 5, False)


def test_errors_are_ec2s(run: Run, volume_id: str) -> None:
    """InvalidSnapshot.NotFound, and a usage error for what is no id."""
    ran = run("snapshot", "show", "snap-00000000000000000", "--output", "json")
    assert ran.status == 1
    assert json.loads(ran.err.splitlines()[-1])["Code"] == "InvalidSnapshot.NotFound"
    assert run("snapshot", "show", volume_id).status == 2


def test_what_is_for_ourselves_is_not_listed(run: Run) -> None:
    """`snapshot --help` shows the commands for people."""
    told = run("snapshot", "--help").out
    assert all(
        re.search(rf"^    {word}\b", told, re.MULTILINE) for word in ("create", "ls", "show", "verify", "delete")
    )
    assert "store blocks" not in told.lower()

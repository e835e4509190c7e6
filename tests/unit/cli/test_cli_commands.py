"""Each command of `ebscrypt` that needs no daemon: what it prints, where, and how it ends."""

from __future__ import annotations

import argparse
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.cli.commands import COMMANDS, build
from ebscrypt.model import GIB

Run = Callable[..., Any]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_create_prints_the_id_and_nothing_else(run: Run) -> None:
    """So that `v=$(ebscrypt create …)` works."""
    ran = run("create", "--size", "1G")

    assert (ran.status, ran.err) == (0, "")
    assert re.fullmatch(r"vol-[0-9a-f]{17}\n", ran.out)


def test_create_as_json_is_a_volume_of_ec2(run: Run) -> None:
    """EC2's names and units, and ours in the same spelling."""
    made = run("create", "--size", "1G", "--tag", "Name=x", "--tag", "b=", "--type", "io2", "--output", "json").json

    assert re.fullmatch(TIME, made.pop("CreateTime"))
    assert made.pop("KmsKeyId").startswith("arn:aws:kms:us-east-1:000000000000:key/")
    volume_id, backing = made.pop("VolumeId"), made.pop("Backing")
    assert backing.endswith(f"/volumes/{volume_id}.luks")
    assert made == {
        "State": "available",
        "StateMessage": None,
        "AttachFailure": None,
        "Size": 1,
        "SizeBytes": GIB,
        "Encrypted": True,
        "VolumeType": "io2",
        "SnapshotId": None,
        "Tags": [{"Key": "Name", "Value": "x"}, {"Key": "b", "Value": ""}],
        "Attachments": [],
        "Reencryption": None,
        "SectorSize": 4096,
        "OnKeyUnusable": "ignore",
        "BackingKind": "file",
        "BackingOwned": True,
    }


def test_a_size_that_is_not_whole_in_gib_has_bytes_only(run: Run) -> None:
    """EC2 counts in GiB; nothing is rounded."""
    made = run("create", "--size", "1536M", "--no-encrypted", "--output", "json").json

    assert (made["Size"], made["SizeBytes"]) == (None, 1536 << 20)
    assert (made["KmsKeyId"], made["SectorSize"], made["Encrypted"]) == (None, None, False)


def test_ls_is_an_aligned_table(run: Run) -> None:
    """A head, a line a volume, columns under each other, nothing at the end of lines."""
    named = run("create", "--size", "1G", "--tag", "Name=mail store").out.strip()
    plain = run("create", "--size", "100M", "--no-encrypted").out.strip()

    ran = run("ls")

    head, first, second = ran.out.splitlines()
    assert head.split() == ["VOLUME", "STATE", "SIZE", "ENCRYPTED", "DEVICE", "NAME"]
    assert re.split(r"  +", first) == [named, "available", "1 GiB", "yes", "-", "mail store"]
    assert re.split(r"  +", second) == [plain, "available", "100 MiB", "no", "-", "-"]
    assert head.index("DEVICE") == first.index(" -  ") + 1
    assert ran.out == "\n".join(line.rstrip() for line in ran.out.splitlines()) + "\n"


def test_ls_as_json_is_what_describe_volumes_gives(run: Run) -> None:
    """An object with the list in it; empty is empty."""
    assert run("ls", "--output", "json").json == {"Volumes": []}
    made = run("create", "--size", "1G", "--output", "json").json

    assert run("ls", "--output", "json").json == {"Volumes": [made]}
    assert run("show", made["VolumeId"], "--output", "json").json == made


def test_show_tells_all_of_a_volume(run: Run) -> None:
    """One field a line."""
    volume_id = run("create", "--size", "1G", "--tag", "a=b").out.strip()

    out = run("show", volume_id).out

    for text in (volume_id, "available", "1 GiB (1073741824 bytes)", "arn:aws:kms:", ".luks (file)", "gp3", "a=b"):
        assert text in out


def test_tag_sets_and_removes(run: Run) -> None:
    """Silent as text; the volume as JSON."""
    volume_id = run("create", "--size", "1G", "--tag", "a=1").out.strip()

    assert run("tag", volume_id, "b=2=3") == (0, "", "")
    tags = run("tag", volume_id, "--remove", "a", "--output", "json").json["Tags"]

    assert tags == [{"Key": "b", "Value": "2=3"}]


def test_resize_says_the_new_size(run: Run) -> None:
    """Talk on stderr, the volume as JSON on stdout."""
    volume_id = run("create", "--size", "1G").out.strip()

    assert run("resize", volume_id, "--size", "2G") == (0, "", f"{volume_id} has 2 GiB\n")
    assert run("resize", volume_id, "--size", "3G", "--output", "json").json["Size"] == 3


def test_delete_says_what_is_gone(run: Run) -> None:
    """And then it is unknown."""
    first, second = (run("create", "--size", "1G").out.strip() for _ in range(2))

    assert run("delete", first) == (0, "", f"{first} is deleted\n")
    assert run("delete", second, "--output", "json").json == {"VolumeId": second, "State": "deleted"}
    assert run("ls", "--output", "json").json == {"Volumes": []}


def test_check_tells_each_finding_and_fails_for_a_bad_one(run: Run) -> None:
    """Exit status 1 as soon as anything needs help; JSON says the same."""
    made = run("create", "--size", "1G", "--output", "json").json
    assert run("check", made["VolumeId"]).status == 0
    with Path(made["Backing"]).open("r+b") as file:
        file.write(b"broken")

    text = run("check", made["VolumeId"])
    as_json = run("check", made["VolumeId"], "--output", "json")
    repaired = run("check", made["VolumeId"], "--repair")

    assert text.status == as_json.status == 1
    assert "repairable  header: " in text.out
    assert "hint: `ebscrypt check" in text.out
    assert as_json.json["Sound"] is False
    assert {finding["Check"]: finding["Result"] for finding in as_json.json["Findings"]}["header"] == "repairable"
    assert repaired.status == 0
    assert "repaired" in repaired.out


def test_rebuild_catalog_tells_what_it_found(run: Run, tmp_path: Path) -> None:
    """A table; exit status 1 when something was refused."""
    volume_id = run("create", "--size", "1G").out.strip()
    for path in (tmp_path / "state").glob("catalog.db*"):
        path.unlink()

    ran = run("rebuild-catalog")

    assert ran.status == 0
    assert re.search(rf"added +{volume_id}", ran.out)
    assert run("rebuild-catalog", str(tmp_path / "missing")).status == 1
    assert run("rebuild-catalog", "--output", "json").json["Found"][0]["VolumeId"] == volume_id


def test_a_note_goes_to_stderr(run: Run, tmp_path: Path) -> None:
    """As text, and as JSON where the output is JSON."""
    first, second = (run("create", "--size", "1G", "--backing", str(tmp_path / name)).out.strip() for name in "ab")
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()

    text = run("delete", first)
    ran = run("delete", second, "--output", "json")

    assert text.err.startswith(f"note: {tmp_path}/a is not there")
    assert ran.json == {"VolumeId": second, "State": "deleted"}
    assert ran.err.startswith('{"Note": "')


def test_everything_made_is_private(run: Run, tmp_path: Path) -> None:
    """Whatever the umask was: directories 0700, files 0600."""
    run("create", "--size", "1G")

    modes = {path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").rglob("*")}

    assert modes
    assert {mode for path, mode in modes.items() if mode & 0o077} == set()


@pytest.mark.parametrize("command", [*COMMANDS, "attachment", "reencrypting"])
def test_every_command_explains_itself(run: Run, command: str) -> None:
    """`--help` works for each, on stdout, and tells what the table of commands promises."""
    ran = run(command, "--help")

    assert ran.status == 0
    assert ran.out.startswith(f"usage: ebscrypt {command}")


def words_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The commands below a parser, however deep; itself where there are none."""
    groups = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    if not groups:
        yield parser
    for name, below in (item for group in groups for item in group.items()):
        if name != "completion":
            yield from words_of(below)


def test_every_command_has_output() -> None:
    """--output json everywhere; a command of commands has it on each of them, `completion` prints a script."""
    commands = list(words_of(build(list(COMMANDS))))

    assert len(commands) > len(COMMANDS)
    assert [command.prog for command in commands if "--output" not in command._option_string_actions] == []


def test_the_list_of_commands_is_short_and_whole(run: Run) -> None:
    """`ebscrypt --help` shows each once, and not what only the unit calls."""
    ran = run("--help")

    assert ran.status == 0
    assert all(re.search(rf"^    {command}\b", ran.out, re.MULTILINE) for command in COMMANDS)
    assert "attachment" not in ran.out


def test_the_version_is_told(run: Run) -> None:
    """One line."""
    assert re.fullmatch(r"ebscrypt \S.*\n", run("--version").out)
